"""`rsfm predict`: a scene in, a map out, the same however it was cut."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rasterio

from rsfm_jax.cli import main
from rsfm_jax.data import cog
from rsfm_jax.models import build
from rsfm_jax.models import sizes
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import statistics as stats
from rsfm_jax.tasks import contract as task_contract
from rsfm_jax.tasks import encoders
from rsfm_jax.tasks import finetuning
from rsfm_jax.tasks import spec as task_spec
from rsfm_jax.train import best
from rsfm_jax.train import hooks

# Shares of classes: float32 sums in another order.
TOLERANCE = 2e-6
SENSOR = 'opt'
BANDS = catalogue.get(SENSOR).band_names
CRS = 'EPSG:32632'
TRANSFORM = rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
CLASSES = 3
# Two blocks of the first stage, so that shifted windows reach over borders.
SPEC = sizes.ringmoe_spec(
  'tiny',
  image_size=32,
  patch_size=2,
  embed_dim=8,
  depths=(2, 1),
  heads=(1, 2),
  window=4,
  specialised=2,
  collaborative=2,
  decoders=False,
)
STATISTICS = stats.Statistics(
  mean=(120.0,) * len(BANDS),
  std=(50.0,) * len(BANDS),
  percentiles={},
  minimum=(0.0,) * len(BANDS),
  maximum=(255.0,) * len(BANDS),
  count=(1,) * len(BANDS),
  bands=BANDS,
)


def objective(kind, size):
  """The task with a linear head, for images of (H, W) pixels."""
  dates = (2,) if kind == 'change' else ()
  loss = 'mse' if kind == 'map' else 'cross_entropy'
  outputs = {'map': 1, 'change': 2}.get(kind, CLASSES)
  task = task_spec.TaskSpec(
    kind=kind, head='linear', outputs=outputs, loss=loss
  )
  encode = encoders.single(SPEC)
  image = jax.ShapeDtypeStruct((1, *dates, *size, len(BANDS)), np.float32)
  maps = jax.eval_shape(
    lambda p, x: dict(encode(p, {SENSOR: x}, mode='eval').maps),
    build.build(SPEC).abstract,
    image,
  )
  return finetuning.FineTuning(
    finetuning.FineTuningSpec(task=task),
    encode,
    task_contract.Features(maps, size),
  )


@pytest.fixture(scope='module')
def parameters():
  return build.build(SPEC).init(jax.random.key(0))


@pytest.fixture(scope='module')
def tuned(parameters, tmp_path_factory):
  """`tuned(kind)` -> workdir as a fine-tuning leaves it, and its state."""
  made = {}

  def make(kind):
    if kind not in made:
      folder = tmp_path_factory.mktemp(kind)
      head, extra = objective(kind, (32, 32)).init(jax.random.key(1))
      head = jax.tree.map(lambda x: 50 * x, head)  # Shares that differ.
      state = {
        'params': parameters | {build.HEADS: head},
        'extra': extra,
        'step': jnp.int32(1),
      }
      keep = best.KeepBest(
        lambda state: {'miou': 1.0},
        [],
        folder / best.BEST,
        schedule=hooks.Every(1),
        total_steps=1,
        metric='miou',
        best='highest',
        metadata=metadata(kind),
      )
      keep.run(1, state)
      keep.finish(1, state)
      keep.close()
      config = {'data': {'window': {'size': 32}}}
      (folder / 'config.json').write_text(json.dumps(config))
      made[kind] = folder, state
    return made[kind]

  return make


def metadata(kind):
  return {
    'spec': SPEC.to_json(),
    'contract': {
      'sensors': {SENSOR: catalogue.get(SENSOR).to_json()},
      'statistics': {SENSOR: STATISTICS.to_json()},
    },
    'objective': dataclasses.asdict(objective(kind, (32, 32)).spec),
    'init_from': None,
  }


def pixels(height, width, seed=0):
  """Smooth noise u8[H, W, C], without a zero."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(1, 255, (height // 4 + 1, width // 4 + 1, len(BANDS)))
  return coarse.repeat(4, 0).repeat(4, 1)[:height, :width].astype(np.uint8)


def write(path, image, *, bands=BANDS, transform=TRANSFORM, **changes):
  profile = {
    'driver': 'GTiff',
    'height': image.shape[0],
    'width': image.shape[1],
    'count': image.shape[2],
    'dtype': image.dtype,
    'crs': CRS,
    'transform': transform,
  }
  with rasterio.open(path, 'w', **(profile | changes)) as file:
    file.write(np.moveaxis(image, -1, 0))
    if bands:
      file.descriptions = bands
  return str(path)


def predict(*args):
  return main.main(['predict', *map(str, args)])


def untiled(kind, state, *images):
  """The whole scene at once: f32[H, W, K]."""
  seen = [(image.astype(np.float32) - 120) / 50 for image in images]
  seen = np.stack(seen) if kind == 'change' else seen[0]
  size = images[0].shape[:2]
  out = objective(kind, size).averaged(
    state['params'], state['extra'], {SENSOR: seen[None]}
  )
  return np.asarray(out[0])


@pytest.mark.parametrize('stride', [16, 32, 48])
def test_tiled_equals_untiled(tuned, tmp_path, stride):
  folder, state = tuned('segmentation')
  image = pixels(176, 144)
  scene, out = write(tmp_path / 's.tif', image), tmp_path / 'm.tif'
  options = ['--size', 80, '--halo', 16, '--stride', stride]
  options += ['--as', 'probabilities', '--batch_size', 2]
  assert predict(folder, scene, '--out', out, *options) == 0
  want = untiled('segmentation', state, image)
  with rasterio.open(out) as file:
    found = np.moveaxis(file.read(), 0, -1)
  assert want.max() > 0.6
  np.testing.assert_allclose(found, want, atol=TOLERANCE)
