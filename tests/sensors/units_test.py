"""Conversions of units against the physics written out."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import units

Units = contract.Units
L1C = catalogue.get('sentinel2_l1c')
GRD = catalogue.get('sentinel1_grd')


def in_units(sensor: contract.Sensor, unit: Units, **changes):
  bands = tuple(dataclasses.replace(b, units=unit) for b in sensor.bands)
  return dataclasses.replace(sensor, bands=bands, **changes)


def dn(value: int) -> np.ndarray:
  return np.full((2, 2, 13), value, np.uint16)


@pytest.mark.parametrize(
  'baseline, applied, expected',
  [
    (None, False, 0.3),
    ('03.01', False, 0.3),
    ('N0214', False, 0.3),
    ('04.00', False, 0.2),
    ('05.11', False, 0.2),
    ('N0400', False, 0.2),
    ('04.00', True, 0.3),
  ],
)
def test_sentinel2_baseline_offset(baseline, applied, expected):
  found = units.convert(
    dn(3000),
    source=L1C,
    target=Units.REFLECTANCE,
    processing_baseline=baseline,
    offset_applied=applied,
  )
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_offset_does_not_wrap_unsigned_numbers():
  found = units.convert(
    dn(900), source=L1C, target=Units.DN, processing_baseline='04.00'
  )
  np.testing.assert_array_equal(found, -100.0)
  assert found.dtype == np.float32


@pytest.mark.parametrize('baseline', ['4', '04', 'latest', 'S2A_0400'])
def test_an_unreadable_baseline_is_an_error(baseline):
  with pytest.raises(ValueError, match=baseline):
    units.convert(
      dn(1), source=L1C, target=Units.DN, processing_baseline=baseline
    )


def test_a_baseline_is_only_for_sentinel2_dn():
  with pytest.raises(ValueError, match='landsat8'):
    units.convert(
      np.ones((1, 1, 7)),
      source=catalogue.get('landsat8'),
      target=Units.REFLECTANCE,
      processing_baseline='04.00',
    )


def test_landsat_scale_and_offset_and_back():
  sensor = catalogue.get('landsat8')
  stored = np.full((1, 1, 7), 20000, np.uint16)
  found = units.convert(stored, source=sensor, target=Units.REFLECTANCE)
  np.testing.assert_allclose(found, 20000 * 2.75e-5 - 0.2, rtol=1e-6)
  physical = in_units(sensor, Units.REFLECTANCE)
  back = units.convert(found, source=physical, target=Units.DN)
  np.testing.assert_allclose(back, stored, rtol=1e-6)


RADAR = {Units.DB: -20.0, Units.LINEAR_POWER: 0.01, Units.LINEAR_AMPLITUDE: 0.1}


@pytest.mark.parametrize('start, end', list(itertools.product(RADAR, RADAR)))
def test_radar_units_agree_on_minus_twenty_db(start, end):
  image = np.full((2, 2, 2), RADAR[start], np.float32)
  found = units.convert(image, source=in_units(GRD, start), target=end)
  np.testing.assert_allclose(found, RADAR[end], rtol=1e-5)


@pytest.mark.parametrize('target', RADAR)
def test_complex_pairs_give_one_channel_per_polarisation(target):
  sensor = catalogue.get('sar_l1')
  image = np.tile(np.float32([0.06, -0.08]), (2, 2, 4))
  found = units.convert(image, source=sensor, target=target)
  assert found.shape == (2, 2, 4)
  np.testing.assert_allclose(found, RADAR[target], rtol=1e-5)
  after = units.converted(sensor, target)
  assert after.band_names == ('HH', 'HV', 'VH', 'VV')
  assert after.units == target and after.kind == 'sar_amplitude'


def test_eight_bit_amplitude_to_decibel():
  sensor = in_units(catalogue.get('sar_l2'), Units.UINT8)
  image = np.uint8([[[0]], [[1]], [[10]], [[255]]])
  amplitude = units.convert(image, source=sensor, target=Units.LINEAR_AMPLITUDE)
  np.testing.assert_array_equal(amplitude, image.astype(np.float32))
  found = units.convert(image, source=sensor, target=Units.DB).reshape(-1)
  # A stored zero is below half a step, which is -6 dB.
  expected = [20 * np.log10(0.5), 0.0, 20.0, 20 * np.log10(255)]
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_zero_power_is_floored():
  source = in_units(GRD, Units.LINEAR_POWER)
  found = units.convert(np.zeros((1, 1, 2)), source=source, target=Units.DB)
  expected = 10 * np.log10(units.POWER_FLOOR)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_reflectance_to_uint8_rounds_and_clips():
  sensor = in_units(catalogue.get('ms'), Units.REFLECTANCE, scale=1 / 255)
  image = np.float32([[[-0.1, 0.5001, 1.0, 1.7]]])
  found = units.convert(image, source=sensor, target=Units.UINT8)
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(found, [[[0, 128, 255, 255]]])


IMPOSSIBLE = [
  ('ms', Units.DB),
  ('sentinel2_l1c', Units.LINEAR_POWER),
  ('sentinel1_grd', Units.COMPLEX),
  ('sentinel1_grd', Units.REFLECTANCE),
  ('sar_l1', Units.REFLECTANCE),
  ('dem', Units.KELVIN),
  ('sentinel2_l1c', Units.UINT8),
]


@pytest.mark.parametrize('name, target', IMPOSSIBLE)
def test_an_impossible_conversion_names_both_units(name, target):
  sensor = catalogue.get(name)
  image = np.ones((1, 1, len(sensor.bands)), np.float32)
  with pytest.raises(ValueError, match=f'{name}.*{sensor.units}.*{target}'):
    units.convert(image, source=sensor, target=target)
  with pytest.raises(ValueError, match=name):
    units.converted(sensor, target)


def test_display_values_have_no_reflectance():
  with pytest.raises(ValueError, match='calibration'):
    units.convert(
      np.ones((1, 1, 3), np.uint8),
      source=catalogue.get('opt'),
      target=Units.REFLECTANCE,
    )


def test_complex_numbers_and_broken_pairs_are_refused():
  sensor = catalogue.get('sar_l1')
  with pytest.raises(ValueError, match='I and Q'):
    units.convert(
      np.ones((1, 1, 8), np.complex64), source=sensor, target=Units.DB
    )
  odd = sensor.select(('HH_I', 'VV_Q'))
  with pytest.raises(ValueError, match='pairs'):
    units.convert(np.ones((1, 1, 2)), source=odd, target=Units.DB)


def test_the_channels_must_be_those_of_the_sensor():
  with pytest.raises(ValueError, match='12 channels last'):
    units.convert(np.ones((1, 1, 12)), source=L1C, target=Units.REFLECTANCE)


def test_the_converted_contract_needs_no_scale():
  after = units.converted(L1C, Units.REFLECTANCE)
  assert (after.scale, after.offset, after.nodata) == (1.0, 0.0, None)
  assert after.band_names == L1C.band_names
  landsat = units.converted(catalogue.get('landsat8'), Units.REFLECTANCE)
  assert (landsat.scale, landsat.offset) == (1.0, 0.0)
  assert units.converted(after, Units.REFLECTANCE) == after


def test_jax_and_numpy_agree_under_jit():
  source = in_units(GRD, Units.LINEAR_AMPLITUDE)
  image = np.float32(np.random.default_rng(0).rayleigh(size=(1, 4, 4, 2)))
  jitted = jax.jit(lambda x: units.convert(x, source=source, target=Units.DB))
  there = jitted(jnp.asarray(image))
  assert isinstance(there, jax.Array)
  here = units.convert(image, source=source, target=Units.DB)
  np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-5)
