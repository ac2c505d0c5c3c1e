"""A MAPEX-style run as small as it can be: meshes, resume, probe, report."""

import json

import jax
import numpy as np
import pytest

from rsfm_jax.cli import main
from rsfm_jax.cli import models
from rsfm_jax.cli import training
from rsfm_jax.core import rng
from rsfm_jax.core import trees
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.models import mapex_spec
from rsfm_jax.train import checkpoint

# Float32 sums over devices come in another order.
REORDERED = 5e-4
CONFIG = """
from configs import mapex_base


def get_config():
  c = mapex_base.get_config(
      'tiny', sensors=('s2_rgb', 's1_vv'), channels=(3, 1), image_size=16,
      embed_dim=8, depth=2, heads=1, experts=(2,), capacity_factor=2.0,
      decoder_dim=8, decoder_depth=1, decoder_heads=1,
  )
  c.optim.warmup_percent = 50.0
  c.data.samples.sources = (('scenes', 'train', 1.0),)
  c.data.samples.batch_size = 8
  c.train.total_steps = 2
  c.train.log_steps = 1
  c.train.checkpoint_percent = 50.0
  return c
"""


def config():
  space = {}
  exec(CONFIG, space)
  return space['get_config']()


def batch_of(planned):
  draws = np.random.default_rng(0)

  def draw(like):
    values = draws.standard_normal(like.shape)
    if like.dtype == bool:
      values = values > -1.5
    return jax.device_put(values.astype(like.dtype), like.sharding)

  return jax.tree.map(draw, planned.batch)


def steps(planned, step_fn, state, count):
  batch, losses = batch_of(planned), []
  for _ in range(count):
    state, metrics = step_fn(state, batch, rng.key_for(0))
    losses.append(trees.flatten(jax.device_get(metrics['losses'])))
  return state, losses


@pytest.fixture(scope='module')
def alone():
  planned = training.abstract(
    config(), mesh_sizes=dict(data=1), devices=jax.devices()[:1]
  )
  return planned, planned.compiled()


@pytest.mark.slow
def test_eight_devices_give_the_losses_of_one(alone):
  planned, step_fn = alone
  _, want = steps(planned, step_fn, planned.plan.create(), 2)
  cut = training.abstract(config(), mesh_sizes=dict(data=2, fsdp=2, expert=2))
  _, got = steps(cut, cut.step_fn, cut.plan.create(), 2)
  assert {'s2_rgb', 's1_vv', 'importance', 'load'} < set(want[0])
  for a, b in zip(want, got, strict=True):
    for name, value in a.items():
      np.testing.assert_allclose(
        b[name], value, rtol=REORDERED, atol=REORDERED, err_msg=name
      )
  specs = {
    name: tuple(leaf.sharding.spec)
    for name, leaf in trees.flatten(cut.state).items()
  }
  for root in ('params', 'opt/mu'):
    assert specs[f'{root}/run_0/last/ffn/routed/w_in'][1] == 'expert'


@pytest.mark.slow
def test_a_resume_keeps_every_bit(alone, tmp_path):
  planned, step_fn = alone
  whole, _ = steps(planned, step_fn, planned.plan.create(), 4)
  half, _ = steps(planned, step_fn, planned.plan.create(), 2)
  saved = checkpoint.Checkpoints(tmp_path)
  saved.save(2, half, {})
  restored = saved.restore(planned.state)
  saved.close()
  resumed, _ = steps(planned, step_fn, restored.state, 2)
  jax.tree.map(np.testing.assert_array_equal, whole, resumed)
  first = trees.flatten(planned.plan.create())
  name = 'params/run_0/last/ffn/router_bias'
  assert (trees.flatten(whole)[name] != first[name]).any()


@pytest.fixture(scope='module')
def trained(one_device, tmp_path_factory):
  """A run of two steps on scenes of whole sensors, and their store."""
  root = tmp_path_factory.mktemp('mapex')
  words = 'data synthesize --samples 120 --size 32 --workers 0'
  words += ' --sensors sentinel2_skysense,sentinel1_grd'
  assert main.main([*words.split(), '--out', str(root / 'scenes')]) == 0
  path = root / 'nano.py'
  path.write_text(CONFIG)
  words = ['pretrain', '--config', str(path), '--workdir', str(root / 'run')]
  assert main.main([*words, f'--config.data.root={root}']) == 0
  return root


@pytest.mark.slow
def test_a_sensor_is_probed_and_the_run_reported(trained, tmp_path, capsys):
  out = tmp_path / 'rows.jsonl'
  words = ['evaluate', '--store', str(trained / 'scenes'), '--out', str(out)]
  words += ['--checkpoint', f'mine={trained / "run"}', '--sensor', 's1_vv']
  assert main.main([*words, '--protocols', 'galileo_knn5']) == 0
  opened = models.open_model(trained / 'run')
  assert isinstance(opened.model.spec, mapex_spec.MapexSpec)
  assert rows_lib.read(out)[-1].checkpoint == opened.content_hash
  words = ['report', '--workdir', str(trained / 'run')]
  for sensor in opened.sensors:
    words += ['--store', f'{sensor}={trained / "scenes"}']
  assert main.main(words) == 0
  page = (trained / 'run' / 'report.html').read_text()
  assert 'MAPEX-style' in page and 'reconstructed' in page
  capsys.readouterr()
  words = ['inspect', '--json', '--checkpoint', str(trained / 'run')]
  assert main.main(words) == 0
  found = json.loads(capsys.readouterr().out)
  assert found['parameters']['routers'] == 8 * 2 + 2 * 2
  assert set(found['flops_per_image']) == {'s2_rgb', 's1_vv'}


TUNING = """
from configs import finetune_base


def get_config():
  c = finetune_base.get_config()
  c.data.store, c.data.sensor, c.data.batch_size = 'scenes', 's1_vv', 8
  c.data.window.update(size=16, form='area')
  c.optim.update(learning_rate=1e-3, layer_decay=0.5)
  c.train.total_steps = 2
  c.evaluation.resamples = 20
  return c
"""


@pytest.mark.slow
def test_a_pruned_model_is_fine_tuned_for_its_sensor(trained, tmp_path, capsys):
  small, path = tmp_path / 'small', tmp_path / 'tuning.py'
  words = ['prune', '--checkpoint', str(trained / 'run'), '--out', str(small)]
  words += ['--calibration', str(trained / 'scenes'), '--images', '8']
  assert main.main([*words, '--sensors', 's1_vv', '--keep', 'top:1']) == 0
  path.write_text(TUNING)
  words = ['finetune', '--config', str(path), f'--config.data.root={trained}']
  words += [f'--config.model.checkpoint={small}']
  assert main.main([*words, '--workdir', str(tmp_path / 'tuned')]) == 0
  before, after = (models.open_model(p) for p in (small, tmp_path / 'tuned'))
  assert after.model.spec.sensors == ('s1_vv',)
  assert after.model.spec.experts == (1,)
  assert 'decoder' not in after.params
  old, new = trees.flatten(before.params), trees.flatten(after.params)
  moved = lambda name: np.abs(new[name] - old[name]).mean()
  assert 0 < moved('embed/s1_vv/kernel') < moved('run_0/last/ffn/w_in')
  rows = rows_lib.read(tmp_path / 'tuned' / 'rows.jsonl')
  assert {'accuracy', 'macro_f1'} < {row.metric for row in rows}
  words[-1] = f'--config.model.checkpoint={small}'
  words += ['--config.data.sensor=s2_rgb', '--workdir', str(tmp_path / 'no')]
  assert main.main(words) == 2
  assert 'config.data.sensor' in capsys.readouterr().err


def test_bad_input_is_named_before_anything_is_compiled(
  trained, tmp_path, capsys
):
  def fails(*overrides):
    words = ['pretrain', '--config', str(trained / 'nano.py')]
    words += ['--workdir', str(tmp_path / str(len(list(tmp_path.iterdir()))))]
    words += [f'--config.data.root={trained}', *overrides]
    assert main.main(words) == 2
    return capsys.readouterr().err

  assert 'model.conditioning' in fails('--config.model.conditioning=both')
  assert 'objective.keep_ratio=2' in fails('--config.objective.keep_ratio=2.0')
  assert 'sources is empty' in fails('--config.data.samples.sources=()')
  err = fails("--config.model.sensors=('s2_rgb','dem')")
  assert 'dem' in err
