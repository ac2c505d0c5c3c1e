"""`rsfm compile`: its report, its exit codes, and errors before any compile."""

import argparse
import importlib.util
import json
import pathlib
import types

from ml_collections import config_dict
import pytest

from rsfm_jax.cli import compile as verb
from rsfm_jax.cli import config as configs
from rsfm_jax.cli import training
from rsfm_jax.launch import aot


@pytest.fixture(scope='module')
def ffn():
  path = pathlib.Path(__file__).parent.parent / 'launch' / 'ffn.py'
  spec = importlib.util.spec_from_file_location('ffn', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture
def run(ffn, monkeypatch):
  """Runs the verb on an FFN whose size is in the config."""
  config = config_dict.ConfigDict(
    {
      'mesh': {'data': -1, 'fsdp': 1, 'expert': 1, 'tensor': 1},
      'train': {'accumulate': 1},
      'tokens': 256,
    }
  )
  planned = []

  def plan(config, *, total_steps, devices):
    sizes = config.mesh.to_dict()
    planned.append((sizes, config.train.accumulate))
    step = ffn.step(
      devices, tokens=config.tokens // config.train.accumulate, **sizes
    )
    return types.SimpleNamespace(**step._asdict(), key=step.rest[0])

  monkeypatch.setattr(training, 'plan', plan)

  def load(path, overrides=()):
    found = config.copy_and_resolve_references()
    for override in overrides:
      key, value = override.removeprefix('--config.').split('=')
      found[key] = int(value)
    return found

  monkeypatch.setattr(configs, 'load', load)

  def call(*argv):
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    args, args_rest = parser.parse_known_args(['--config', 'c.py', *argv])
    args.overrides = args_rest
    return verb.run(args)

  call.planned = planned
  return call


@pytest.fixture
def libtpu():
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip("no TPU compiler: pip install 'rsfm-jax[tpu]'")


def test_a_table_of_what_fits(run, libtpu, capsys):
  assert run('--topology', 'v5p:2x2x1', '--mesh', 'fsdp=4') == 0
  out = capsys.readouterr().out
  for word in (
    'v5p:2x2x1, 4 chips',
    'fsdp 4',
    'yes:',
    'optimizer',
    'temporaries',
    'all-gather',
    'MFU',
    'images per second',
    'cannot see',
  ):
    assert word in out


def test_one_json_object(run, libtpu, capsys):
  assert run('--topology', 'v5e:2x2', '--mesh', 'fsdp=4', '--json') == 0
  found = json.loads(capsys.readouterr().out)
  assert found['fits'] is True
  assert found['bytes_per_chip']['params'] == 1048576
  assert found['flops'] == 3 * 2 * 2 * 2 * 4 * 256 * 256 * 1024
  assert found['mfu'] > 0
  assert found['collectives']['all-gather']['count'] == 8


def test_memory_alone(run, libtpu, capsys, monkeypatch):
  stopped = []
  monkeypatch.setattr(verb.os, '_exit', stopped.append)
  code = run('--topology', 'v5p:2x2x1', '--mesh', 'fsdp=4', '--memory')
  out = capsys.readouterr().out
  assert [code, *stopped] in ([0], [0, 0])
  assert 'temporaries' in out and 'memory alone' in out
  assert 'images per second' not in out


def test_exit_code_3_with_the_largest_arrays(run, libtpu, capsys):
  code = run('--topology', 'v5e:2x2', '--json', '--config.tokens=16777216')
  assert code == 3
  captured = capsys.readouterr()
  found = json.loads(captured.out)
  assert found['fits'] is False
  assert len(found['largest']) == 3
  lines = captured.err.splitlines()
  start = next(i for i, l in enumerate(lines) if l.startswith('rsfm: the step'))
  assert 'does not fit v5e:2x2' in lines[start]
  assert all('GiB' in line for line in lines[start + 1 : start + 4])


def test_the_mesh_of_the_config_unless_told(run, monkeypatch):
  monkeypatch.setattr(aot, 'compile_step', lambda *args: report(True))
  run('--topology', 'h200:4', '--json')
  run('--topology', 'h200:4', '--json', '--mesh', 'fsdp=2')
  first, second = (sizes for sizes, _ in run.planned)
  assert first == {'data': -1, 'fsdp': 1, 'expert': 1, 'tensor': 1}
  assert second == {'data': -1, 'fsdp': 2, 'expert': 1, 'tensor': 1}


def report(fits):
  return aot.Compiled(
    topology='h200:8',
    chips=8,
    mesh={'data': 8},
    fits=fits,
    bytes_per_chip={'total': 1},
    hbm_bytes_per_chip=2,
    flops=1,
    images=1,
    images_per_second=1.0 if fits else None,
    notes=('as it is',),
  )


def test_a_search_recommends_a_mesh_and_lists_all(run, libtpu, capsys):
  code = run('--topology', 'v5e:2x2', '--search', '--compiles', '2', '--json')
  assert code == 0
  found = json.loads(capsys.readouterr().out)
  assert found['fits'] is True
  assert found['accumulate'] == 1
  rows = found['search']
  assert sum(row['fits'] for row in rows) == 2
  best = max(row['images_per_second'] or 0 for row in rows)
  assert found['images_per_second'] == best
  assert all(row['fits'] or row['reason'] for row in rows)


def test_a_search_that_finds_nothing_is_exit_code_3(run, monkeypatch, capsys):
  def refuse(step, topology, when_too_large):
    return report(False)

  monkeypatch.setattr(aot, 'compile_step', refuse)
  assert run('--topology', 'h200:4', '--search', '--compiles', '2') == 3
  captured = capsys.readouterr()
  assert 'as it is' in captured.out
  assert 'nothing tried fits h200:4' in captured.err


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (('--topology', 'v9:2x2'), '--topology'),
    (('--topology', 'v5e:2x3'), 'Known: v5e:1x1'),
    (('--topology', 'h200:8', '--mesh', 'fdsp=4'), 'Did you mean "fsdp"'),
    (('--topology', 'h200:8', '--mesh', 'fsdp=x'), 'positive number'),
    (('--topology', 'h200:8', '--mesh', 'fsdp=3'), 'do not multiply to 8'),
  ],
)
def test_bad_input_is_an_error_before_any_compile(
  run, monkeypatch, argv, message
):
  monkeypatch.setattr(aot, 'compile_step', lambda *args: pytest.fail('ran'))
  with pytest.raises(ValueError, match=message):
    run(*argv)


def test_a_search_without_times_is_refused(run):
  with pytest.raises(ValueError, match='--search wants times'):
    run('--topology', 'v5p:2x2x1', '--search', '--memory')
  assert not run.planned


def test_sizes_of_a_mesh():
  assert verb.parse_mesh('fsdp=16, expert=4') == {'fsdp': 16, 'expert': 4}
  assert verb.parse_mesh('data=-1') == {'data': -1}
