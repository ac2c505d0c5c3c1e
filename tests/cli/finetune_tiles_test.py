"""Fine-tuning on series and several sensors, from a store to its rows."""

import numpy as np
import pytest

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import finetune
from rsfm_jax.cli import main
from rsfm_jax.cli.systems import finetune as finetune_system
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.train import writers

HR, S2, S1 = 'opt', 'sentinel2_skysense', 'sentinel1_grd'
CONFIG = """
from configs import finetune_base


def get_config():
  c = finetune_base.get_config()
  c.model.system = 'skysense_v2'
  c.model.changes = dict(
    patch_size=2, embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1),
    window=2, experts=2, moe_layers=1, prompts=1, fusion_dim=8,
    fusion_depth=1, fusion_heads=1, image_sizes=(64, 8, 8),
    reduces=((True, True, False), (False,) * 3, (False,) * 3),
  )
  c.data.store = 'scenes'
  c.data.normalisation = 'dataset'
  c.data.sensors = ('opt', 'sentinel2_skysense', 'sentinel1_grd')
  c.data.dates.sentinel2_skysense = 2
  c.data.dates.sentinel1_grd = 4
  c.data.factors.sentinel2_skysense = 8
  c.data.factors.sentinel1_grd = 8
  c.data.batch_size = 8
  c.data.window.update(size=64, form='scale', symmetry='d4')
  c.task.levels = ('fused',)
  c.task.channels = 4
  c.evaluation.fit = 'crop'
  c.evaluation.dates.sentinel2_skysense = 3  # All that there are.
  c.optim.learning_rate = 1e-3
  c.train.update(total_steps=2, log_steps=1, evaluation_percent=100.0)
  c.evaluation.resamples = 10
  return c
"""


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """120 scenes of 64 px, three dates of what is eight times coarser."""
  folder = tmp_path_factory.mktemp('series')
  args = ['data', 'synthesize', '--out', str(folder / 'scenes')]
  args += ['--sensors', f'{HR},{S2},{S1}', '--coarse', f'{S2}=8,{S1}=8']
  args += ['--dates', '3', '--samples', '120', '--workers', '0']
  assert main.main(args) == 0
  return folder


@pytest.fixture
def config(root, tmp_path):
  """`config(*overrides)` -> a config of all three sensors."""
  path = tmp_path / 'series.py'
  path.write_text(CONFIG)

  def make(*overrides):
    given = [f'--config.data.root={root}', *overrides]
    return configs.load(str(path), given)

  return make


def losses(workdir):
  history = writers.read(workdir / 'metrics.jsonl')
  return [row['loss'] for row in history if 'loss' in row]


def test_land_cover_of_three_sensors_and_their_dates(config, tmp_path):
  c = config()
  c.task.update(kind='segmentation', head='fcn', outputs=12)
  c.data.target, c.evaluation.metric = 'landcover', 'miou'
  rows = finetune.train(c, tmp_path)
  assert len(losses(tmp_path)) == 2 and np.isfinite(losses(tmp_path)).all()
  assert {row.dataset for row in rows} == {f'scenes ({HR} + {S2} + {S1})'}
  assert 'miou' in {row.metric for row in rows}
  assert rows == rows_lib.read(tmp_path / 'rows.jsonl')


def test_scenes_by_the_series_of_one_sensor(config, tmp_path):
  c = config(f'--config.data.sensors=("{S2}",)')
  c.model.changes.update(image_sizes=(8,), reduces=((False,) * 3,))
  c.task.update(kind='classes', outputs=12)
  c.evaluation.fit = 'resize'
  rows = finetune.train(c, tmp_path)
  assert np.isfinite(losses(tmp_path)).all()
  assert {row.dataset for row in rows} == {f'scenes ({S2})'}
  assert 'accuracy' in {row.metric for row in rows}


def test_sensors_on_different_grounds_stop_a_run_by_the_sample(
  config, tmp_path
):
  c = config('--config.data.factors.sentinel1_grd=4')
  c.task.update(kind='classes', outputs=12)
  found = finetune_system.data(c)
  with pytest.raises(ValueError, match="'synthetic-0-.*same ground"):
    next(finetune_system.batches(c, found, step=0))
