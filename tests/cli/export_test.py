"""`rsfm export`: whole folders that others can load, or nothing."""

import json
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from rsfm_jax.cli import main
from rsfm_jax.cli import models
from rsfm_jax.export import parity
from rsfm_jax.export import stablehlo
from tests.export import conftest as small

model_folder = small.model_folder
one_sensor = small.one_sensor


def export(source, out, *words):
  return main.main(
    ['export', '--checkpoint', str(source), '--out', str(out), *words]
  )


@pytest.fixture(scope='module')
def exported(one_sensor, tmp_path_factory):
  pytest.importorskip('flatbuffers')
  root = tmp_path_factory.mktemp('exported')
  small.save_model(root / 'model', *one_sensor)
  words = ['--to', 'safetensors,stablehlo', '--bands', 'opt=blue,green,red']
  words += ['--licence', 'apache-2.0', '--batches', '1,3']
  assert export(root / 'model', root / 'out', *words) == 0
  return root / 'out'


def test_a_folder_explains_itself(exported, model_folder):
  assert {path.name for path in exported.iterdir()} == {
    'README.md',
    'contract.json',
    'encoder_opt.stablehlo',
    'encoder_opt.stablehlo.json',
    'load_safetensors.py',
    'load_stablehlo.py',
    'model.safetensors',
    'parity.json',
    'record.json',
    'spec.json',
  }
  digest = models.open_model(model_folder).content_hash
  assert models.open_model(exported).content_hash == digest
  told = json.loads((exported / 'encoder_opt.stablehlo.json').read_text())
  assert told['bands'] == ['blue', 'green', 'red']
  assert told['content_hash'] == digest
  assert told['inputs'] == [
    {'name': 'pixels', 'dtype': 'float32', 'shape': ['b', 8, 8, 3]}
  ]
  assert told['platforms'] == ['cpu', 'cuda', 'tpu']
  card = (exported / 'README.md').read_text()
  assert card.startswith('---\nlicense: apache-2.0\n')
  assert 'red, green, blue' in card and digest in card and '`abc`' in card


def test_errors_are_recorded_by_file_batch_and_output(exported):
  found = json.loads((exported / 'parity.json').read_text())
  assert set(found['errors']) == {
    'model.safetensors (opt)',
    'encoder_opt.stablehlo',
  }
  rows = found['errors']['encoder_opt.stablehlo']
  assert set(rows) == {'1', '3'}
  assert set(rows['3']) == {'embedding', 'map'}
  assert parity.worst(rows) < 1e-5
  assert parity.worst(found['errors']['model.safetensors (opt)']) == 0


def test_examples_run_as_they_stand(exported, tmp_path):
  """They import nothing of this package, whatever the environment."""
  told = json.loads((exported / 'encoder_opt.stablehlo.json').read_text())
  images = np.random.default_rng(0).uniform(0, 255, (3, 8, 8, 3))
  np.savez(tmp_path / 'in.npz', pixels=images)
  words = [str(exported / 'encoder_opt.stablehlo'), 'in.npz', 'out.npz']
  command = [sys.executable, str(exported / 'load_stablehlo.py'), *words]
  subprocess.run(command, cwd=tmp_path, check=True)
  with np.load(tmp_path / 'out.npz') as got:
    assert set(got) == {entry['name'] for entry in told['outputs']}
    data = (exported / 'encoder_opt.stablehlo').read_bytes()
    want = stablehlo.load(data)(images.astype(np.float32))
    np.testing.assert_allclose(got['map'], want['map'], atol=1e-5)
  command = [sys.executable, str(exported / 'load_safetensors.py')]
  command.append(str(exported / 'model.safetensors'))
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  assert "ringmoe {'opt': ['red', 'green', 'blue']}" in done.stdout
  for path in exported.glob('load_*.py'):
    text = path.read_text()
    code = text.split('"""')[2].strip().splitlines()
    assert 'import rsfm_jax' not in text and len(code) <= 12


def test_nothing_is_overwritten(model_folder, tmp_path, capsys):
  out = tmp_path / 'out'
  out.mkdir()
  assert export(model_folder, out, '--to', 'safetensors') == 2
  assert 'is there already' in capsys.readouterr().err
  assert not list(out.iterdir())


@pytest.mark.parametrize(
  'words, message',
  [
    (['--to', 'torch'], "--to='torch' is not allowed"),
    (['--to', ''], '--to ()'),
    (['--to', 'safetensors', '--batches', '0'], '--batches (0,)'),
    (['--sensors', 'ms'], "--sensors='ms' is not allowed"),
    (['--bands', 'opt=red'], "lacks ['green', 'blue']"),
    (['--bands', 'opt=red,nir'], "band of opt='nir'"),
    (['--bands', 'red'], "--bands 'red' is not like"),
    (['--input', 'opt=sentinel9'], "sensor='sentinel9'"),
    (['--stages', 'stage_7'], "--stages='stage_7'"),
    (['--baseline', 'opt=05.09'], 'for Sentinel-2 DN'),
  ],
)
def test_bad_requests_are_refused_at_once(
  model_folder, tmp_path, capsys, words, message
):
  assert export(model_folder, tmp_path / 'out', *words) == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def _truncated(folder):
  path = folder / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:200])


def _pickled(folder):
  path = folder / 'model.safetensors'
  path.write_bytes(pickle.dumps({'w': [1.0]}))


def _contract(change):
  def damage(folder):
    path = folder / 'contract.json'
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))

  return damage


@pytest.mark.parametrize(
  'damage, message',
  [
    (_truncated, 'model.safetensors is damaged'),
    (_pickled, 'model.safetensors is damaged'),
    (
      _contract(lambda c: c['sensors']['opt']['bands'].pop()),
      'the weights take 3',
    ),
    (
      _contract(lambda c: c['sensors']['opt']['bands'].reverse()),
      'they do not belong together',
    ),
    (
      _contract(lambda c: c['sensors'].update(ms=c['sensors'].pop('opt'))),
      'opt',
    ),
    (_contract(lambda c: c['statistics'].clear()), 'statistics of its 3 bands'),
  ],
)
def test_damaged_models_are_refused(
  model_folder, tmp_path, capsys, damage, message
):
  damage(model_folder)
  out = tmp_path / 'out'
  assert export(model_folder, out, '--to', 'safetensors') == 2
  assert message in capsys.readouterr().err
  assert not out.exists()


def test_a_file_that_says_something_else_is_not_published(
  model_folder, tmp_path, capsys, monkeypatch
):
  twice = lambda want, got: {'1': {'map': 0.5}}
  monkeypatch.setattr(parity, 'errors', twice)
  out = tmp_path / 'out'
  words = ['--to', 'safetensors', '--batches', '1']
  assert export(model_folder, out, *words) != 0
  assert 'is off by 0.5 from the model' in capsys.readouterr().err
  assert [p.name for p in tmp_path.iterdir()] == ['model']


def test_an_upload_without_its_library_fails_before_the_work(
  model_folder, tmp_path, capsys, monkeypatch
):
  def missing(name):
    raise ModuleNotFoundError(name=name)

  monkeypatch.setattr('rsfm_jax.export.hub.importlib.import_module', missing)
  assert export(model_folder, tmp_path / 'out', '--push', 'me/model') == 2
  assert 'rsfm-jax[text]' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_paths_are_those_of_the_command_line(model_folder, monkeypatch):
  monkeypatch.chdir(model_folder.parent)
  words = ['--to', 'safetensors', '--batches', '1']
  assert export('model', 'new/out', *words) == 0
  assert pathlib.Path('new/out/model.safetensors').is_file()
