"""Windows of a GeoTIFF as a model sees them."""

import numpy as np
import pytest
import rasterio

from rsfm_jax.data import raster
from rsfm_jax.data import scenes
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import statistics as stats

TRANSFORM = rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
FILES, WANT = catalogue.get('sentinel2_l1c'), catalogue.get('ms')
# Those of `ms`, in the order of the file, and one that nobody asks for.
BANDS = ('B08', 'B11', 'B04', 'B03', 'B02')
ORDER = (4, 3, 2, 0)  # To blue, green, red, near infrared.
KNOWN = stats.Statistics(
  mean=(0.1, 0.2, 0.3, 0.4),
  std=(0.5, 0.25, 0.2, 0.1),
  percentiles={},
  minimum=(0.0,) * 4,
  maximum=(1.0,) * 4,
  count=(1,) * 4,
  bands=WANT.band_names,
)
TOLERANCE = 1e-5


def values(height=20, width=15):
  rng = np.random.default_rng(0)
  image = rng.integers(1, 9000, (height, width, len(BANDS)))
  return image.astype(np.uint16)


def write(path, image, bands=BANDS, transform=TRANSFORM, **changes):
  profile = {
    'driver': 'GTiff',
    'height': image.shape[0],
    'width': image.shape[1],
    'count': image.shape[2],
    'dtype': image.dtype,
    'crs': 'EPSG:32632',
    'transform': transform,
  }
  with rasterio.open(path, 'w', **(profile | changes)) as file:
    file.write(np.moveaxis(image, -1, 0))
    file.descriptions = bands
  return str(path)


def open_scene(path, **options):
  given = {'files': FILES, 'want': WANT, 'statistics': KNOWN}
  return scenes.open_scene(path, **(given | options))


def expected(image):
  """Reflectance by the contract's scale, then normalised."""
  reflectance = image[..., ORDER].astype(np.float64) * 1e-4
  return (reflectance - KNOWN.mean) / KNOWN.std


def test_bands_are_ordered_converted_and_normalised(tmp_path):
  image = values()
  scene = open_scene(write(tmp_path / 's.tif', image))
  found, valid = scene.read(raster.Window(3, 2, 8, 9))
  assert found.dtype == np.float32 and valid.all()
  want = expected(image[3:11, 2:11])
  np.testing.assert_allclose(found, want, atol=TOLERANCE)


def test_beyond_the_scene_there_are_zeros(tmp_path):
  image = values()
  scene = open_scene(write(tmp_path / 's.tif', image))
  found, valid = scene.read(raster.Window(16, 10, 8, 8))
  assert found.shape == (8, 8, 4)
  np.testing.assert_allclose(
    found[:4, :5], expected(image[16:, 10:]), atol=TOLERANCE
  )
  assert valid[:4, :5].all() and valid.sum() == 20
  assert not found[4:].any() and not found[:, 5:].any()


def test_nodata_of_the_contract_is_zero_and_not_valid(tmp_path):
  image = values()
  image[5, 6, 0] = 0  # The file itself declares none; the contract has 0.
  scene = open_scene(write(tmp_path / 's.tif', image))
  found, valid = scene.read(raster.Window(0, 0, 20, 15))
  assert not valid[5, 6] and valid.sum() == 20 * 15 - 1
  assert not found[5, 6].any()


def test_nan_touches_nothing_else(tmp_path):
  image = values().astype(np.float32)
  image[4, 4, 2] = np.nan
  scene = open_scene(write(tmp_path / 's.tif', image))
  found, valid = scene.read(raster.Window(0, 0, 20, 15))
  assert np.isfinite(found).all() and not found[4, 4].any()
  assert np.flatnonzero(~valid).tolist() == [4 * 15 + 4]


def test_the_offset_of_a_processing_baseline_is_removed(tmp_path):
  image = values() + 1000
  scene = open_scene(
    write(tmp_path / 's.tif', image), processing_baseline='05.09'
  )
  found, _ = scene.read(raster.Window(0, 0, 20, 15))
  np.testing.assert_allclose(found, expected(image - 1000), atol=TOLERANCE)


def test_a_missing_band_is_named_or_masked(tmp_path):
  image = values()[..., 1:]
  path = write(tmp_path / 's.tif', image, BANDS[1:])
  with pytest.raises(ValueError, match=r"s\.tif: .* lacks \['nir'\]"):
    open_scene(path)
  scene = open_scene(path, missing_bands='mask')
  found, valid = scene.read(raster.Window(0, 0, 20, 15))
  assert valid.all() and not found[..., 3].any() and found[..., 2].any()


def test_another_unit_is_refused_with_the_file(tmp_path):
  image = (values() * 1e-4).astype(np.float32)
  scene = open_scene(write(tmp_path / 's.tif', image))
  with pytest.raises(ValueError, match=r's\.tif: .* cannot be dn'):
    scene.read(raster.Window(0, 0, 20, 15))


@pytest.mark.parametrize(
  'name, words', [('s.png', 'is no GeoTIFF'), ('s.tif', 'no readable raster')]
)
def test_what_is_no_scene_is_refused(tmp_path, name, words):
  (tmp_path / name).write_bytes(b'nothing')
  words = words.replace('no readable', 'not a readable')
  with pytest.raises(ValueError, match=words):
    open_scene(str(tmp_path / name))


def test_a_scene_beside_another_comes_onto_its_grid(tmp_path):
  one, two = values(), values(30, 30)
  first = open_scene(write(tmp_path / 'a.tif', one))
  place = TRANSFORM * rasterio.Affine.translation(-4, -6)
  path = write(tmp_path / 'b.tif', two, transform=place)
  given = {'files': FILES, 'want': WANT, 'statistics': KNOWN}
  beside = scenes.open_beside(path, first, **given)
  assert beside.shape == first.shape
  found, valid = beside.read(raster.Window(0, 0, 20, 15))
  assert valid.all()  # A whole shift: nothing is interpolated.
  np.testing.assert_allclose(found, expected(two[6:26, 4:19]), atol=TOLERANCE)


@pytest.mark.parametrize(
  'changes, words',
  [
    (
      {'transform': rasterio.Affine.translation(1e6, 0) * TRANSFORM},
      'no ground in common',
    ),
    ({'crs': None, 'image': values(9, 9)}, 'b.tif has no CRS'),
  ],
)
def test_scenes_without_common_ground_are_refused(tmp_path, changes, words):
  first = open_scene(write(tmp_path / 'a.tif', values()))
  path = write(tmp_path / 'b.tif', **({'image': values()} | changes))
  given = {'files': FILES, 'want': WANT, 'statistics': KNOWN}
  with pytest.raises(ValueError, match=words):
    scenes.open_beside(path, first, **given)
