"""Values that contradict their unit are refused with a hint."""

import dataclasses

import numpy as np
import pytest

from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import checks
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import units

RNG = np.random.default_rng(0)


def noise(low: float, high: float, channels: int) -> np.ndarray:
  return RNG.uniform(low, high, (16, 16, channels)).astype(np.float32)


GOOD = {
  'opt': noise(0, 256, 3).astype(np.uint8),
  'ms': noise(-0.02, 1.1, 4),
  'sar_l1': noise(-3, 3, 8),
  'sar_l2': noise(-6, 48, 1),
  'sentinel2_l1c': noise(0, 12000, 13).astype(np.uint16),
  'sentinel1_grd': noise(-30, 5, 2),
  'naip': noise(0, 256, 4).astype(np.uint8),
  'dem': noise(-10, 3000, 1),
}


@pytest.mark.parametrize('name', GOOD)
def test_plausible_values_pass(name):
  checks.check_range(GOOD[name], catalogue.get(name))


# Sensor, values, what the message must say after the sensor and the band.
BAD = [
  ('ms', noise(0, 4000, 4).round(), r'blue.*reflectance.*-0.2 to 2.*dn'),
  ('ms', noise(0, 256, 4).round(), r'blue.*reflectance.*uint8'),
  ('ms', noise(-20, 0, 4), r'blue.*reflectance.*like db'),
  ('opt', noise(0, 1, 3), r'red.*uint8.*whole steps.*reflectance'),
  ('opt', noise(0, 4000, 3).round(), r'red.*uint8.*0 to 255.*dn'),
  ('sentinel2_l1c', noise(0, 1, 13), r'B01.*dn.*reflectance'),
  ('sentinel1_grd', noise(0, 1, 2), r'VV.*db.*linear_power'),
  ('sentinel1_grd', noise(-9999, 0, 2), r'VV.*db.*-101 to 100'),
  ('sar_l1', noise(0, 3, 8), r'HH_I.*complex.*linear_amplitude'),
  ('dem', np.full((4, 4, 1), -32768.0), r'elevation.*metres.*nodata'),
]


@pytest.mark.parametrize('name, image, message', BAD)
def test_the_error_names_sensor_band_range_unit_and_likely_unit(
  name, image, message
):
  with pytest.raises(ValueError, match=f'{name} {message}'):
    checks.check_range(image, catalogue.get(name))


def test_the_range_of_the_values_is_in_the_message():
  image = np.float32([[[0.1] * 4, [0.1, 0.1, 37.5, 0.1]]])
  with pytest.raises(ValueError, match='ms red: values 0.1 to 37.5'):
    checks.check_range(image, catalogue.get('ms'))


def test_a_glint_is_no_wrong_unit_but_many_are():
  image = noise(0, 0.3, 4)
  image[0, 0] = 2.4
  checks.check_range(image, catalogue.get('ms'))
  image[0] = 2.4
  with pytest.raises(ValueError, match='blue'):
    checks.check_range(image, catalogue.get('ms'))


def test_what_is_masked_or_nodata_is_not_looked_at():
  ms, dem = catalogue.get('ms'), catalogue.get('dem')
  image = noise(0, 0.3, 4)
  valid = np.ones((16, 16), bool)
  image[3:5], valid[3:5] = np.nan, False
  checks.check_range(image, ms, valid=valid)
  with pytest.raises(ValueError, match='12.5% .*not finite'):
    checks.check_range(image, ms)
  checks.check_range(np.full((4, 4, 1), -9999.0), dem)


def test_the_floor_of_decibels_is_allowed():
  sensor = catalogue.get('sentinel1_grd')
  power = dataclasses.replace(
    sensor,
    bands=tuple(
      dataclasses.replace(b, units=contract.Units.LINEAR_POWER)
      for b in sensor.bands
    ),
  )
  image = units.convert(
    np.zeros((16, 16, 2)), source=power, target=contract.Units.DB
  )
  checks.check_range(image, sensor)


def test_other_channels_are_refused():
  with pytest.raises(ValueError, match='4 channels last'):
    checks.check_range(np.zeros((2, 2, 3)), catalogue.get('ms'))
