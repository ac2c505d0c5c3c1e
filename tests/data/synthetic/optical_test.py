import dataclasses

import numpy as np
import pytest

from rsfm_jax.data.synthetic import materials
from rsfm_jax.data.synthetic import optical
from rsfm_jax.data.synthetic import season
from rsfm_jax.data.synthetic import spectra
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import contract

_NO_TINT = np.zeros((len(spectra.ENDMEMBERS), 2), np.float32)


def _view(ground, *, latitude=48.0, day=172, cloudiness=0.0, seed=0):
  return optical.view(
    ground,
    np.random.default_rng(seed),
    latitude=latitude,
    day=day,
    cloudiness=cloudiness,
    tint=_NO_TINT,
  )


def _pixel(ground, sensor='sentinel2_l2a', **when):
  """Reflectance of the centre of a ground, by band name."""
  bands = catalogue.get(sensor).bands
  rho = optical.reflectance(ground, _view(ground, **when), bands)
  return dict(zip([b.name for b in bands], rho[32, 32], strict=True))


def test_classes_keep_their_spectral_order(plain_ground):
  forest = _pixel(plain_ground(['broadleaf']))
  assert forest['B08'] > 3 * forest['B04']
  water = _pixel(plain_ground(['clear_water']))
  assert water['B08'] < water['B02'] and water['B08'] < 0.1
  snow = _pixel(plain_ground(['snowpack']))
  assert snow['B03'] > 0.7 and snow['B11'] < 0.2


def test_crops_are_bare_in_winter_and_green_in_summer(plain_ground):
  field = plain_ground(['summer_crop'])
  index = {}
  for day in (15, 210):
    r = _pixel(field, day=day)
    index[day] = (r['B08'] - r['B04']) / (r['B08'] + r['B04'])
  assert index[15] < 0.3 < 0.5 < index[210]


def test_materials_mix_at_their_boundary(plain_ground):
  halves = np.zeros((64, 64))
  halves[:, 32:] = 1
  ground = plain_ground(['clear_water', 'dry_sand'], halves)
  bands = catalogue.get('ms').bands
  row = optical.reflectance(ground, _view(ground), bands)[32]
  water, sand = row[10], row[50]
  share = (row[31] - water) / (sand - water)
  np.testing.assert_allclose(share, 0.2, atol=0.02)  # One share for all bands.


def test_the_air_adds_light_most_in_the_blue(plain_ground):
  ground = plain_ground(['clear_water'])
  bands = catalogue.get('ms').bands
  clear = _view(ground)._replace(haze=0.0)
  hazy = clear._replace(haze=0.05)
  extra = optical.reflectance(ground, hazy, bands)[5, 5]
  extra = extra - optical.reflectance(ground, clear, bands)[5, 5]
  assert np.all(extra > 0) and np.all(np.diff(extra) < 0)


@pytest.mark.parametrize('latitude', [45.0, -45.0])
def test_images_are_brighter_on_the_sunny_side(plain_ground, latitude):
  """At 10:30 the sun is in the east, and south in the northern half."""
  y = np.arange(64) - 32.0
  hill = np.repeat(-np.abs(y)[:, None], 64, 1)  # Ridge from west to east.
  ground = plain_ground(['bare_soil'], terrain=hill)
  image = optical.reflectance(
    ground, _view(ground, latitude=latitude, day=80), catalogue.get('ms').bands
  )
  north, south = image[20, 32, 0], image[44, 32, 0]
  assert (south > north) == (latitude > 0)
  ground = plain_ground(['bare_soil'], terrain=hill.T)
  image = optical.reflectance(
    ground, _view(ground, latitude=latitude, day=80), catalogue.get('ms').bands
  )
  assert image[32, 44, 0] > image[32, 20, 0]


def test_clouds_are_white_and_shade_the_ground_away_from_the_sun(plain_ground):
  ground = plain_ground(['meadow'], size=128)
  seen = _view(ground, cloudiness=0.3, day=80)
  image = optical.reflectance(ground, seen, catalogue.get('ms').bands)
  cloudy = seen.cloud > 0.95
  clear = (seen.cloud == 0) & (seen.direct > 0.99)
  shaded = (seen.cloud == 0) & (seen.direct < 0.2)
  assert 0.1 < seen.cloud.mean() < 0.5
  red = image[..., 2]
  assert red[cloudy].min() > red[clear].max()
  assert red[shaded].mean() < 0.5 * red[clear].mean()
  sun = season.sun(48.0, 80)
  shift = 60 / np.tan(sun.elevation) / 2.0
  rows = round(shift * np.cos(sun.azimuth))
  columns = round(-shift * np.sin(sun.azimuth))
  moved = np.roll(cloudy, (rows, columns), (0, 1))
  assert (seen.direct[moved] < 0.2).mean() > 0.95


@pytest.mark.parametrize(
  'name, dtype',
  [('opt', np.uint8), ('ms', np.float32), ('landsat8', np.uint16)],
)
def test_images_are_in_the_contract_unit(plain_ground, name, dtype):
  sensor = catalogue.get(name)
  ground = plain_ground(['meadow'])
  seen = _view(ground)
  image = optical.render(ground, seen, sensor, np.random.default_rng(0))
  assert image.shape == (64, 64, len(sensor.bands)) and image.dtype == dtype
  if sensor.units == contract.Units.DN:
    physical = image * sensor.scale + sensor.offset
    expected = optical.reflectance(ground, seen, sensor.bands)
    assert np.abs(physical - expected).max() < 0.03


def test_an_optical_image_in_decibels_is_an_error(plain_ground):
  sensor = catalogue.get('ms')
  bands = tuple(
    dataclasses.replace(b, units=contract.Units.DB) for b in sensor.bands
  )
  ground = plain_ground(['meadow'])
  with pytest.raises(ValueError, match='ms.*db.*reflectance'):
    optical.render(
      ground,
      _view(ground),
      dataclasses.replace(sensor, bands=bands),
      np.random.default_rng(0),
    )


def test_every_material_is_physical_all_year(plain_ground):
  bands = catalogue.get('sentinel2_l2a').bands
  names = list(materials.MATERIALS)
  patch = np.repeat(np.arange(64) % len(names), 64).reshape(64, 64)
  ground = plain_ground(names, patch)
  for day in (0, 120, 240):
    rho = optical.reflectance(ground, _view(ground, day=day), bands)
    assert np.isfinite(rho).all() and rho.min() > 0 and rho.max() < 1.3
