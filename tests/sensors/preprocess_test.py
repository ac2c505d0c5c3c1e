"""One recipe from stored pixels to model inputs."""

import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import preprocess
from rsfm_jax.sensors import statistics

MS = catalogue.get('ms')
S2 = catalogue.get('sentinel2_l2a')


def statistics_of(sensor, mean=0.2, std=0.1):
  n = len(sensor.bands)
  zeros = (0.0,) * n
  return statistics.Statistics(
    mean=(mean,) * n,
    std=(std,) * n,
    percentiles={},
    minimum=zeros,
    maximum=zeros,
    count=(1,) * n,
    bands=sensor.band_names,
  )


def test_only_bands_that_are_used_are_read():
  found = preprocess.recipe(S2, MS, statistics=statistics_of(MS))
  assert [S2.band_names[i] for i in found.columns] == [
    'B02',
    'B03',
    'B04',
    'B08',
  ]
  assert found.have.band_names == ('B02', 'B03', 'B04', 'B08')


@pytest.mark.parametrize('xp', [np, jnp])
def test_stored_numbers_become_deviations_of_the_wanted_bands(xp):
  found = preprocess.recipe(
    S2.select(('B08', 'B04', 'B03', 'B02')), MS, statistics=statistics_of(MS)
  )
  pixels = xp.asarray([[4000.0, 3000.0, 2000.0, 1000.0]], dtype=xp.float32)
  got, band_valid = preprocess.measured(
    pixels,
    have=found.have,
    want=found.want,
    found=found.found,
    statistics=found.statistics,
  )
  # 0.1 to 0.4 of blue, green, red, nir, less 0.2, over 0.1.
  np.testing.assert_allclose(got, [[-1, 0, 1, 2]], atol=1e-5)
  assert band_valid.all()


def test_an_offset_is_removed_where_the_unit_stays():
  found = preprocess.recipe(S2, S2, statistics=statistics_of(S2, 1000, 500))
  told = found._asdict()
  del told['columns']
  pixels = np.full((1, 12), 2000, np.float32)
  got, _ = preprocess.measured(pixels, **told, processing_baseline='05.09')
  np.testing.assert_array_equal(got, np.zeros((1, 12)))
  got, _ = preprocess.measured(pixels, **told)
  np.testing.assert_array_equal(got, np.full((1, 12), 2))


def test_statistics_must_be_there():
  with pytest.raises(ValueError, match='statistics of its 4 bands'):
    preprocess.recipe(S2, MS, statistics=None)


@pytest.mark.parametrize('xp', [np, jnp])
def test_a_real_pixel_is_valid_when_all_its_bands_are(xp):
  pixels = np.full((5, 2), 7.0, np.float32)
  pixels[1, 0], pixels[2, 1] = np.nan, 0.0
  pixels[3], pixels[4, 0] = 0.0, -np.inf
  two = S2.select(('B02', 'B03'))
  got = preprocess.pixel_valid(xp.asarray(pixels), two)
  np.testing.assert_array_equal(got, [True, False, False, False, False])
  # 8-bit images have no nodata: black is a colour.
  rgb = catalogue.get('opt').select(('red', 'green'))
  got = preprocess.pixel_valid(xp.asarray(pixels), rgb)
  np.testing.assert_array_equal(got, [True, False, True, True, False])


def test_a_complex_pixel_is_empty_when_all_its_parts_are_zero():
  pixels = np.zeros((3, 8), np.float32)
  pixels[1, 5] = 0.1
  pixels[2] = [1, 1, 1, 1, 1, 1, 1, np.nan]
  got = preprocess.pixel_valid(pixels, catalogue.get('sar_l1'))
  np.testing.assert_array_equal(got, [False, True, False])
