import numpy as np
import pytest

from rsfm_jax.data.synthetic import coarsen
from rsfm_jax.sensors import catalogue

S2 = catalogue.get('sentinel2_skysense')
S1 = catalogue.get('sentinel1_grd')


def test_optical_pixels_are_means_of_what_is_stored():
  stored = np.arange(4 * 4 * 10, dtype=np.uint16).reshape(4, 4, 10) * 100
  out = coarsen.image(stored, S2, 2)
  assert out.shape == (2, 2, 10) and out.dtype == np.uint16
  expected = stored[:2, 2:, 3].astype(float).mean()
  np.testing.assert_allclose(out[0, 1, 3], expected, atol=0.5)


def test_radar_pixels_are_means_of_power_not_of_decibels():
  db = np.float32([[0, -30], [0, -30]])[..., None].repeat(2, -1)
  out = coarsen.image(db, S1, 2)
  assert out.shape == (1, 1, 2) and out.dtype == np.float32
  np.testing.assert_allclose(out[0, 0], 10 * np.log10(0.5005), rtol=1e-5)


def test_speckle_shrinks_with_the_number_of_looks():
  """L looks: standard deviation over mean of power is 1 / sqrt(L)."""
  power = np.random.default_rng(0).exponential(size=(256, 256, 2))
  out = coarsen.image(10 * np.log10(power).astype(np.float32), S1, 8)
  looks = 10 ** (out / 10)
  np.testing.assert_allclose(looks.std() / looks.mean(), 1 / 8, rtol=0.1)


def test_a_factor_of_one_changes_no_bit():
  image = np.random.default_rng(0).normal(size=(4, 4, 2)).astype(np.float32)
  np.testing.assert_array_equal(coarsen.image(image, S1, 1), image)


@pytest.mark.parametrize(
  'factors, message',
  [
    ({'sentinel1_grd': 3}, 'sentinel1_grd=3 must divide'),
    ({'sentinel1_grd': 0}, 'sentinel1_grd=0 must divide'),
    ({'sentinel1': 2}, 'Did you mean "sentinel1_grd"'),
    ({'opt': 2}, 'opt is in uint8'),
    ({'sar_l1': 2}, 'sar_l1 is in complex'),
  ],
)
def test_factors_that_cannot_be_are_named(factors, message):
  sensors = [S1, *map(catalogue.get, ('opt', 'sar_l1'))]
  with pytest.raises(ValueError, match=message):
    coarsen.check(factors, sensors, size=32)
