"""`rsfm import`, and a run that starts from what it wrote."""

import shutil

import numpy as np
import pytest
import safetensors.numpy

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import main
from rsfm_jax.cli import models
from rsfm_jax.cli import pretrain as verb
from rsfm_jax.cli import training
from rsfm_jax.core import trees
from rsfm_jax.export import folder as folders
from rsfm_jax.train import checkpoint
from tests.convert import torch_models


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  path = tmp_path_factory.mktemp('weights') / 'swin.safetensors'
  safetensors.numpy.save_file(torch_models.swin_v2(dim=8), path)
  return path


@pytest.fixture(scope='module')
def imported(config, weights, tmp_path_factory):
  out = tmp_path_factory.mktemp('imported') / 'model'
  assert run(config, weights, out) == 0
  return out


def run(config, weights, out, *more, source='timm_swinv2'):
  return main.main(
    ['import', '--from', source, '--weights', str(weights)]
    + ['--config', config, '--out', str(out), *more]
  )


def test_a_model_folder_that_tells_where_it_came_from(imported, weights):
  opened = models.open_model(imported)
  assert opened.model.spec.embed_dim == 8
  assert opened.sensors['opt'].band_names == ('red', 'green', 'blue')
  record = folders.load(imported).record
  assert record['operation'] == 'import'
  assert record['weights'] == str(weights)
  rows = {row['name']: row for row in record['import']['tensors']}
  assert rows['norm.weight']['to'] == ['norm/scale']
  w = torch_models.swin_v2(dim=8)['layers.0.blocks.0.attn.proj.weight']
  out = opened.params['stage_0']['blocks']['attention']['out']['kernel']
  np.testing.assert_array_equal(out[0], w.T)


def test_the_table_is_printed(config, weights, tmp_path, capsys):
  assert run(config, weights, tmp_path / 'model', '--bands', 'B,G,R') == 0
  told = capsys.readouterr().out
  assert 'layers.*.blocks.*.attn.qkv.weight' in told
  assert 'red from red' in told
  assert 'routers start as initialised' in told
  kernel = folders.load(tmp_path / 'model').params['embed']['opt']['kernel']
  w = torch_models.swin_v2(dim=8)['patch_embed.proj.weight']
  np.testing.assert_array_equal(kernel[0, 0, 0], w[:, 2, 0, 0])


@pytest.mark.parametrize(
  ('more', 'message'),
  [
    (('--bands', 'R,G'), 'patches of 3 bands, --bands names 2'),
    (('--config.model.attention=v1_bias',), "'v2_cosine'"),
    (('--source-windows', '8'), 'config.model.cpb_windows'),
    (('--noise', '-1'), '--noise -1.0 must not be negative'),
    (('--prefix', 'encoder.'), "no tensor under --prefix 'encoder.'"),
  ],
)
def test_what_does_not_fit_leaves_nothing(
  config, weights, tmp_path, capsys, more, message
):
  assert run(config, weights, tmp_path / 'model', *more) == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / 'model').exists()


def test_a_pickle_is_refused_with_the_way_around(config, tmp_path, capsys):
  (tmp_path / 'w.pth').write_bytes(b'never read')
  assert run(config, tmp_path / 'w.pth', tmp_path / 'model') == 2
  assert 'weights_only=True' in capsys.readouterr().err
  assert not (tmp_path / 'model').exists()
  with pytest.raises(SystemExit):
    main.main(['import', '--help'])
  assert 'weights_only=True' in capsys.readouterr().out


def test_tensors_that_nothing_explains(config, weights, tmp_path, capsys):
  tensors = safetensors.numpy.load_file(weights)
  path = tmp_path / 'more.safetensors'
  safetensors.numpy.save_file(tensors | {'odd.weight': np.ones(2)}, path)
  assert run(config, path, tmp_path / 'model') == 2
  assert 'odd.weight' in capsys.readouterr().err
  assert not (tmp_path / 'model').exists()
  assert run(config, path, tmp_path / 'model', '--lenient') == 0


def test_a_model_is_never_overwritten(config, weights, imported, capsys):
  assert run(config, weights, imported) == 2
  assert 'holds a model already' in capsys.readouterr().err


def test_a_second_source_onto_the_first(config, weights, imported, tmp_path):
  """What the second does not have stays as the first left it."""
  tensors = safetensors.numpy.load_file(weights)
  part = {n: 2 * x for n, x in tensors.items() if n.startswith('norm.')}
  path = tmp_path / 'norm.safetensors'
  safetensors.numpy.save_file(part, path)
  assert run(config, path, tmp_path / 'm', '--onto', str(imported)) == 0
  first, second = folders.load(imported), folders.load(tmp_path / 'm')
  assert second.record['parent_hash'] == first.record['content_hash']
  for name, x in trees.flatten(first.params).items():
    factor = 2 if name in ('norm/scale', 'norm/bias') else 1
    np.testing.assert_array_equal(
      trees.flatten(second.params)[name], factor * x
    )


def test_a_run_starts_with_the_folders_parameters(config, stores, imported):
  loaded = configs.load(
    config,
    [
      f'--config.data.root={stores}',
      f'--config.train.init_from={imported}',
      '--config.train.ema_decay=0.9',
    ],
  )
  planned = training.plan(loaded, total_steps=4)
  state, begun = verb._begin(loaded, planned)()
  saved = folders.load(imported)
  assert begun['content_hash'] == saved.record['content_hash']
  assert begun['at_init'] == []
  for part in ('params', 'ema'):
    have = trees.flatten(state[part])
    for name, x in trees.flatten(saved.params).items():
      np.testing.assert_array_equal(have[name], x)
      assert (
        have[name].sharding
        == trees.flatten(planned.state)[f'{part}/{name}'].sharding
      )


def test_a_run_remembers_what_it_started_from(pretrain, imported, tmp_path):
  """Also after it has resumed from its middle."""
  options, run = (f'--config.train.init_from={imported}',), tmp_path / 'run'
  assert pretrain(run, *options) == 0
  shutil.rmtree(run / 'checkpoints' / '4')
  assert pretrain(run, *options) == 0
  loaded = checkpoint.load_params(run / 'checkpoints')
  found = loaded.metadata
  assert loaded.step == 4
  assert found['init_from']['path'] == str(imported)
  assert (
    found['init_from']['content_hash']
    == (folders.load(imported).record['content_hash'])
  )


def test_another_model_is_refused_before_a_step(
  pretrain, imported, tmp_path, capsys
):
  options = (
    f'--config.train.init_from={imported}',
    '--config.model.embed_dim=16',
  )
  assert pretrain(tmp_path / 'run', *options) == 2
  assert 'decoder/ms/kernel is (16, 64) there' in capsys.readouterr().err
