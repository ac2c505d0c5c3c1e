"""SkySense V2's recipes, two steps each on a model and stores made small."""

import pathlib

import numpy as np
import pytest

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import finetune
from rsfm_jax.cli.systems import finetune_tiles
from rsfm_jax.core import trees
from rsfm_jax.data import store as stores
from rsfm_jax.export import folder as folders
from rsfm_jax.models import build
from rsfm_jax.models import skysense_v2_spec
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import statistics as stats
from rsfm_jax.train import writers

FOLDER = pathlib.Path(__file__).parents[2] / 'configs/finetune/skysense_v2'
SIZE, CLASSES = 16, 3
SPEC = skysense_v2_spec.SkySenseV2Spec(
  sensors=('opt', 'sentinel2_skysense', 'sentinel1_grd'),
  channels=(3, 10, 2),
  reduces=((True, True, False), (False,) * 3, (False,) * 3),
  image_sizes=(16, 4, 4),
  patch_size=2,
  embed_dim=8,
  depths=(1, 1, 1, 1),
  heads=(1, 1, 1, 1),
  window=2,
  experts=2,
  moe_layers=1,
  prompts=1,
  fusion_dim=8,
  fusion_depth=1,
  fusion_heads=1,
  prototypes_dim=4,
)
TYPES = {'uint8': np.uint8, 'db': np.float32}
# What each recipe measures, and what its store says of a scene.
RECIPES = {
  'bigearthnet_s2': 'bits',
  'bigearthnet_mm': 'bits',
  'potsdam': 'mask',
  'oscd': 'change',
  'dior': 'boxes',
  'fair1m': 'boxes',
}
DETECTOR = {
  'pre_nms': 16,
  'proposals': 8,
  'roi_size': 2,
  'hidden': 8,
  'rpn_samples': 8,
  'roi_samples': 8,
  'candidates': 8,
  'detections': 4,
}


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """A model folder of random weights; all sensors with statistics."""
  folder = tmp_path_factory.mktemp('model') / 'skysense'
  draw = np.random.default_rng(0)
  params = trees.map_named(
    lambda name, x: (
      np.ones(x.shape, np.float32)
      if name.endswith('scale')
      else draw.normal(0, 0.1, x.shape).astype(np.float32)
    ),
    build.build(SPEC).abstract,
  )
  contracts = {name: catalogue.get(name) for name in SPEC.sensors}
  statistics = {
    name: flat(len(sensor.bands)) for name, sensor in contracts.items()
  }
  folders.save(
    folder,
    params,
    spec=SPEC.to_json(),
    contract={
      'sensors': {n: s.to_json() for n, s in contracts.items()},
      'statistics': statistics,
    },
    record={},
  )
  return folder


def flat(bands):
  """Statistics of pixels around 100."""
  same = lambda value: (value,) * bands
  return stats.Statistics(
    mean=same(100.0),
    std=same(50.0),
    percentiles={str(q): same(100.0) for q in stats.PERCENTILES},
    minimum=same(0.0),
    maximum=same(255.0),
    count=same(1),
  ).to_json()


def pixels(draw, sensor):
  made = draw.integers(1, 200, size=(SIZE, SIZE, len(sensor.bands)))
  return made.astype(TYPES.get(sensor.units, np.uint16))


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """One store per recipe, twelve samples for training, two of each other."""
  folder, draw = tmp_path_factory.mktemp('stores'), np.random.default_rng(1)
  for name, kind in RECIPES.items():
    config = configs.load(str(FOLDER / f'{name}.py'))
    seen = {s: catalogue.get(s) for s in finetune_tiles.sensors(config)}
    with stores.StoreWriter(
      folder / name, sensors=seen, classes=list('abc')
    ) as writer:
      for i in range(16):
        codes = draw.integers(CLASSES, size=(SIZE, SIZE)).astype(np.uint8)
        arrays = {f'{s}/image': pixels(draw, x) for s, x in seen.items()}
        if kind == 'mask':
          arrays['mask'] = codes
        if kind == 'boxes':
          arrays['boxes'] = np.array([[8, 8, 7, 3, 0.4, i % 3]], np.float32)
        if kind == 'change':
          arrays |= {f'{s}/after': pixels(draw, x) for s, x in seen.items()}
          arrays['change'] = codes // 2
        split = ('train', 'val', 'test')[max(i - 11, 0) // 2]
        label = {'label': i % 3, 'bits': [1, i % 2, i % 3 // 2]}.get(kind)
        writer.add(arrays, id=f'{name}{i}', split=split, label=label)
  return folder


def small(name, model, root):
  c = configs.load(str(FOLDER / f'{name}.py'))
  c.model.checkpoint = str(model)
  c.model.changes.remat = 'none'
  c.data.root, c.data.batch_size = str(root), 8
  c.data.window.size = 8 if name == 'potsdam' else SIZE
  if c.task.outputs > CLASSES:
    c.task.outputs = CLASSES
  c.task.channels, c.task.unet_channels = 4, (4,) * 4
  c.task.detector.update(DETECTOR)
  if c.data.max_boxes:
    c.data.max_boxes = 2
  c.train.update(
    total_epochs=None, total_steps=2, log_steps=1, evaluation_percent=100.0
  )
  c.evaluation.resamples = 10
  return c


@pytest.mark.parametrize('name', RECIPES)
def test_a_recipe_runs_from_a_checkpoint_to_its_rows(
  name, model, root, tmp_path
):
  rows = finetune.train(small(name, model, root), tmp_path)
  assert all(row.low <= row.value <= row.high for row in rows)
  config = configs.load(str(FOLDER / f'{name}.py'))
  assert config.evaluation.metric in {row.metric for row in rows}
  history = writers.read(tmp_path / 'metrics.jsonl')
  losses = [row['loss'] for row in history if 'loss' in row]
  assert len(losses) == 2 and np.isfinite(losses).all()


def test_a_tokenizer_of_other_bands_must_be_allowed_to_start_anew(
  model, root, tmp_path
):
  c = small('potsdam', model, root)
  c.model.tokenizers.irrg_aerial = 'sentinel2_skysense'
  with pytest.raises(ValueError, match='embed/irrg_aerial/kernel.*model.fresh'):
    finetune.train(c, tmp_path)
