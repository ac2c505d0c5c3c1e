"""Probes while a model is pre-trained: rows, resume, and no other bit."""

import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.cli import main
from rsfm_jax.cli import models
from rsfm_jax.cli import probing
from rsfm_jax.cli import running
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.models import build
from rsfm_jax.sharding import mesh as meshes
from rsfm_jax.train import loop
from rsfm_jax.train import writers

PROBES = """
  c.evaluation.datasets.small = base.evaluation('scenes', 'opt')
  c.evaluation.datasets.radar = base.evaluation('scenes', 'sar_l2')
  c.evaluation.protocols = ('galileo_knn5', 'olmoearth_knn20')
  c.train.evaluation_percent = 25.0
  return c
"""
SMALL = 'eval/small/galileo_knn5/accuracy'
NAMES = {
  f'eval/{data}/{protocol}/accuracy'
  for data in ('small', 'radar')
  for protocol in ('galileo_knn5', 'olmoearth_knn20')
}


@pytest.fixture(scope='module')
def probed(config, stores, one_device, tmp_path_factory):
  """`probed(workdir, *overrides)` -> exit code of a run that is probed."""
  path = tmp_path_factory.mktemp('config') / 'probed.py'
  text = pathlib.Path(config).read_text()
  path.write_text(text.replace('\n  return c\n', PROBES))

  def run(workdir, *overrides):
    words = ['pretrain', '--config', str(path), '--workdir', str(workdir)]
    return main.main([*words, f'--config.data.root={stores}', *overrides])

  return run


@pytest.fixture(scope='module')
def workdir(probed, tmp_path_factory):
  """A run that broke after step 3, whose last checkpoint is of step 2."""
  folder = tmp_path_factory.mktemp('probed')

  class Interrupt(loop.Hook):
    def metrics(self, step, values):
      if step == 4:
        raise RuntimeError('pulled the plug')

  whole = running.hooks
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      running, 'hooks', lambda *a, **k: [*whole(*a, **k), Interrupt()]
    )
    assert probed(folder) == 2
  assert steps_of(folder) == [1, 2, 3]
  return folder


def steps_of(folder):
  rows = writers.read(folder / 'metrics.jsonl')
  return [row['step'] for row in rows if SMALL in row]


def test_a_resumed_run_probes_what_is_left_and_changes_no_other_bit(
  workdir, probed, trained, stores, tmp_path, monkeypatch
):
  ran, genuine = [], probing.Probes.run

  def counted(self, params, step):
    ran.append((self.name, step))
    return genuine(self, params, step)

  monkeypatch.setattr(probing.Probes, 'run', counted)
  assert probed(workdir) == 0
  assert ran == [(f'eval/{n}', s) for s in (3, 4) for n in ('radar', 'small')]
  assert steps_of(workdir) == [1, 2, 3, 4]
  rows = writers.read(workdir / 'metrics.jsonl')
  assert {n for row in rows for n in row if n.startswith('eval/')} == NAMES
  one, two = models.open_model(workdir), models.open_model(trained)
  assert one.content_hash == two.content_hash
  # The last row is what `rsfm evaluate` says of the last checkpoint.
  out = tmp_path / 'rows.jsonl'
  words = ['evaluate', '--store', str(stores / 'scenes'), '--out', str(out)]
  words += ['--checkpoint', str(workdir), '--protocols', 'galileo_knn5']
  assert main.main([*words, '--baselines', 'none']) == 0
  (row,) = rows_lib.read(out)
  assert [r[SMALL] for r in rows if SMALL in r][-1] == row.value


@pytest.mark.parametrize(
  'override, words',
  [
    ('--config.evaluation.datasets.small.sensor=dem', 'datasets.small.sensor'),
    ('--config.evaluation.datasets.small.store=no', 'is not a store'),
    ('--config.evaluation.protocols=("knn",)', 'protocol'),
    (
      '--config.evaluation.protocols=()',
      'config.evaluation.protocols is empty',
    ),
  ],
)
def test_bad_probes_are_named_before_anything_is_compiled(
  probed, tmp_path, capsys, override, words, monkeypatch
):
  monkeypatch.setattr(running, 'start', None)
  assert probed(tmp_path, override) == 2
  assert words in capsys.readouterr().err


def test_no_probe_is_the_default(trained):
  rows = writers.read(trained / 'metrics.jsonl')
  assert not [name for row in rows for name in row if 'eval/' in name]


@pytest.mark.parametrize(
  'system, which',
  [('skysense_v2', 'ema'), ('ringmoe', 'params'), ('mapex', 'params')],
)
def test_the_teacher_is_probed_where_there_is_one(system, which):
  """Gathered whole onto one device, without the heads of pre-training."""
  mesh = meshes.make_mesh(data=2, fsdp=4)
  cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('fsdp'))
  leaf = lambda fill: jax.device_put(jnp.full(8, fill), cut)
  state = {
    'params': {'w': leaf(1.0), build.HEADS: leaf(2.0)},
    'ema': {'w': leaf(3.0), build.HEADS: leaf(4.0)},
    'extra': {'prototypes': leaf(5.0)} if which == 'ema' else {},
  }
  run = types.SimpleNamespace(
    config=types.SimpleNamespace(system=system),
    planned=types.SimpleNamespace(mesh=mesh),
  )
  found = probing.kept(run, state)
  assert set(found['params']) == {'w'}
  assert ('prototypes' in found) == (which == 'ema')
  for value in jax.tree.leaves(found):
    assert len(value.devices()) == 1 and value.shape == (8,)
  np.testing.assert_array_equal(found['params']['w'], state[which]['w'])
