"""`rsfm predict` of several sensors that see one ground."""

import jax
import numpy as np
import pytest
import rasterio

from rsfm_jax.cli import encoders
from rsfm_jax.cli import main
from rsfm_jax.cli import predictor_fused
from rsfm_jax.export import folder as folders
from rsfm_jax.models import build
from rsfm_jax.models import encoder
from rsfm_jax.models import sizes
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import statistics as stats

HR, SAR = 'opt', 'sentinel1_grd'
FACTOR = 8
SENSORS = {name: catalogue.get(name) for name in (HR, SAR)}
PLACE = rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
COARSE = PLACE * rasterio.Affine.scale(FACTOR)
CHANGES = dict(
  sensors=(HR, SAR),
  channels=(3, 2),
  reduces=((True,) * 3, (False,) * 3),
  image_sizes=(32, 4),
  embed_dim=8,
  depths=(1, 1, 1, 1),
  heads=(1, 1, 1, 1),
  experts=2,
  moe_layers=1,
  prompts=1,
  fusion_dim=8,
  fusion_depth=1,
  fusion_heads=1,
  prototypes_dim=4,
)
SPEC = sizes.skysense_v2_spec('tiny', **CHANGES)


def statistics(sensor):
  bands = SENSORS[sensor].band_names
  mean, std = {HR: (120.0, 50.0), SAR: (-12.0, 4.0)}[sensor]
  count = len(bands)
  return stats.Statistics(
    mean=(mean,) * count,
    std=(std,) * count,
    percentiles={},
    minimum=(-99.0,) * count,
    maximum=(255.0,) * count,
    count=(1,) * count,
    bands=bands,
  )


def save(folder, spec, sensors):
  rng = np.random.default_rng(0)
  make = lambda x: rng.normal(0, 0.3, x.shape).astype(x.dtype)
  params = jax.tree.map(make, build.build(spec).abstract)
  contract = {
    'sensors': {s: SENSORS[s].to_json() for s in sensors},
    'statistics': {s: statistics(s).to_json() for s in sensors},
  }
  folders.save(
    folder, params, spec=spec.to_json(), contract=contract, record={}
  )
  return params


@pytest.fixture(scope='module')
def fusing(tmp_path_factory):
  folder = tmp_path_factory.mktemp('models') / 'fusing'
  return folder, save(folder, SPEC, (HR, SAR))


def write(path, image, *, transform, crs='EPSG:32632', bands=()):
  profile = dict(driver='GTiff', crs=crs, transform=transform)
  profile |= dict(height=image.shape[0], width=image.shape[1])
  profile |= dict(count=image.shape[2], dtype=image.dtype)
  with rasterio.open(path, 'w', **profile) as file:
    file.write(np.moveaxis(image, -1, 0))
    file.descriptions = bands
  return str(path)


@pytest.fixture
def scenes(tmp_path):
  """`scenes(**changes of the radar's)` -> words, images; 64 x 64 and 8 x 8."""
  rng = np.random.default_rng(0)
  optical = rng.integers(1, 255, (64, 64, 3), np.uint8)

  def make(size=(8, 8), transform=COARSE, **changes):
    radar = rng.normal(-12, 3, (*size, 2)).astype(np.float32)
    bands = {s: SENSORS[s].band_names for s in SENSORS}
    a = write(tmp_path / 'a.tif', optical, transform=PLACE, bands=bands[HR])
    b = write(
      tmp_path / 'b.tif',
      radar,
      transform=transform,
      bands=bands[SAR],
      **changes,
    )
    words = ['--scene', f'{SAR}={b}', '--scene', f'{HR}={a}']
    return words, {HR: optical, SAR: radar}

  return make


def predict(folder, words, out, *options):
  embeds = ['--as', 'embedding', '--out', out, *options]
  return main.main(['predict', *map(str, [folder, *words, *embeds])])


def test_a_window_of_several_sensors_is_what_the_fusion_gives(
  fusing, scenes, tmp_path
):
  folder, params = fusing
  words, images = scenes()
  out = tmp_path / 'm.tif'
  options = ['--size', 64, '--halo', 0, '--stride', 64, '--batch_size', 1]
  assert predict(folder, words, out, *options) == 0
  seen = {
    s: np.float32(stats.normalise(image, statistics(s)))[None]
    for s, image in images.items()
  }
  known = encoders.Known(params, None)
  encode = lambda known, x: encoders.of_tiles(SPEC)(
    known, {'sensors': predictor_fused.entries(x), 'region': None}
  )
  want = jax.jit(encode)(known, seen)[encoder.FUSED][0]
  with rasterio.open(out) as file:
    found = np.moveaxis(file.read(), 0, -1)
    assert file.transform == PLACE * rasterio.Affine.scale(16)
    assert file.descriptions[0] == 'fused_0'
  assert found.shape == (4, 4, 8) and found.std() > 0
  np.testing.assert_allclose(found, want, atol=2e-5)


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'transform': PLACE * rasterio.Affine.scale(4)}, 'transform (40.0'),
    (
      {'transform': rasterio.Affine.translation(40, 0) * COARSE},
      '500040',
    ),
    ({'size': (7, 8)}, '7 x 8 pixels'),
    ({'crs': 'EPSG:32633'}, 'CRS EPSG:32633'),
    ({'crs': None}, 'CRS none'),
  ],
)
def test_scenes_on_other_grids_are_told_with_both(
  fusing, scenes, tmp_path, capsys, changes, words
):
  named, _ = scenes(**changes)
  out = tmp_path / 'm.tif'
  assert predict(fusing[0], named, out) == 2
  error = capsys.readouterr().err
  assert words in error and 'EPSG:32632' in error and '64 x 64' in error
  assert '8 x 8 of its pixels must make one' in error and not out.exists()


@pytest.mark.parametrize(
  'change, words',
  [
    (lambda w: [*w, '--after', 'c.tif'], '--after does not go'),
    (lambda w: [*w[:2], *w[:2]], 'names a sensor twice'),
    (lambda w: ['s.tif', *w], 'give one SCENE, or'),
    (lambda w: [], 'give one SCENE, or'),
    (lambda w: [*w, '--stage', 'final'], '--stage'),
    (lambda w: [*w, '--size', '60'], '--size 60'),
    (lambda w: ['--scene', 'dem=x.tif', *w], '--scene'),
    (lambda w: [*w, '--as', 'prediction'], '--scene goes with --as'),
  ],
)
def test_bad_words_are_named(fusing, scenes, tmp_path, capsys, change, words):
  named, _ = scenes()
  words_, out = change(named), tmp_path / 'm.tif'
  kind = [] if '--as' in words_ else ['--as', 'embedding']
  line = ['predict', str(fusing[0]), *words_, *kind, '--out', str(out)]
  assert main.main(line) == 2
  assert words in capsys.readouterr().err and not out.exists()


def test_a_model_that_does_not_fuse_maps_one_sensor(scenes, tmp_path, capsys):
  spec = sizes.skysense_v2_spec('tiny', **(CHANGES | {'fusion_depth': 0}))
  save(tmp_path / 'plain', spec, (HR, SAR))
  words, _ = scenes()
  assert predict(tmp_path / 'plain', words, tmp_path / 'm.tif') == 2
  assert 'this model maps one sensor' in capsys.readouterr().err
