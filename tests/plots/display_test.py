"""Displayed pixels keep their physics: power in dB, true colours, nodata."""

import numpy as np
import pytest

from rsfm_jax.plots import display
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import contract


def test_power_is_summed_over_polarisations_in_db():
  iq = np.zeros((2, 2, 8), np.float32)
  iq[0, 0, :2] = 3, 4  # One polarisation of amplitude 5: power 25.
  iq[0, 1, :] = 5  # Four of power 50: power 200.
  iq[1, 1, 6:] = 3, 4
  got = display.power_db(iq)
  np.testing.assert_allclose(got[0, 0], 10 * np.log10(25), rtol=1e-6)
  np.testing.assert_allclose(got[0, 1], 10 * np.log10(200), rtol=1e-6)
  assert got[1, 1] == got[0, 0]


def test_no_power_is_the_floor_and_not_minus_infinity():
  iq = np.zeros((1, 2, 8), np.float32)
  iq[0, 0] = 1
  got = display.power_db(iq)
  np.testing.assert_allclose(got[0, 0] - got[0, 1], display.FLOOR_DB)
  assert np.isfinite(display.power_db(np.zeros((2, 2, 8)))).all()


def test_an_absent_polarisation_adds_nothing():
  iq = np.random.default_rng(0).normal(size=(4, 4, 8))
  gone = iq.copy()
  gone[..., 2:4] = np.nan
  iq[..., 2:4] = 0
  np.testing.assert_array_equal(display.power_db(gone), display.power_db(iq))


def test_one_channel_is_power_already():
  np.testing.assert_allclose(
    display.power_db(np.full((2, 2, 1), 100.0)), 20.0, rtol=1e-6
  )


@pytest.mark.parametrize(
  'name, expected',
  [('opt', (0, 1, 2)), ('ms', (2, 1, 0)), ('sentinel2_l2a', (3, 2, 1))],
)
def test_true_colour_is_found_by_name_not_by_position(name, expected):
  sensor = catalogue.get(name)
  image = np.broadcast_to(
    np.arange(len(sensor.bands), dtype=np.float32), (2, 2, len(sensor.bands))
  )
  assert tuple(display.channels(image, sensor)[0, 0]) == expected
  assert display.caption(sensor) == 'true colour'


def test_one_band_is_grey_with_its_unit():
  band = contract.Band(name='VV', units=contract.Units.DB)
  sensor = contract.Sensor(
    name='s', kind=contract.Kind.SAR_AMPLITUDE, bands=(band,)
  )
  assert display.channels(np.ones((2, 2, 1)), sensor).shape == (2, 2, 1)
  assert display.caption(sensor) == 'VV, dB'


def test_a_few_outliers_do_not_set_the_scale():
  values = np.append(np.linspace(0, 1, 1000), [1e9, -1e9, np.nan, np.inf])
  low, high = display.limits(values)
  assert -0.1 < low < 0.05 and 0.95 < high < 1.1


@pytest.mark.parametrize('value', [7.0, np.nan])
def test_flat_or_empty_pictures_have_a_scale_too(value):
  low, high = display.limits(np.full((3, 3, 1), value))
  assert low < high


def test_nodata_is_transparent_and_everything_else_is_not():
  values = np.array([[[0.0]], [[np.nan]], [[0.5]], [[2.0]]])
  got = display.rgba(values, display.Limits(0.0, 1.0))[:, 0]
  np.testing.assert_allclose(got[:, 0], [0, 0, 0.5, 1])
  np.testing.assert_array_equal(got[:, 3], [1, 0, 1, 1])
  np.testing.assert_array_equal(got[:, 0], got[:, 2])


def test_enlarging_repeats_pixels():
  small = np.arange(4.0).reshape(1, 2, 2, 1)
  got = display.enlarge(small, (4, 6))[0, ..., 0]
  np.testing.assert_array_equal(got, np.kron(small[0, ..., 0], np.ones((2, 3))))


def test_a_sheet_keeps_every_pixel_in_its_cell():
  rows = [np.full((3, 2, 4, 4), row + 1.0) for row in range(2)]
  sheet = display.sheet(rows, gap=1)
  assert sheet.shape == (5, 14, 4)
  assert (sheet[2] == 0).all() and (sheet[:, 4] == 0).all()
  assert (sheet[:2, :4] == 1).all() and (sheet[3:, 10:] == 2).all()
