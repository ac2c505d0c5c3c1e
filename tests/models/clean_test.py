"""Zeros wherever nothing was measured, in series and in single images."""

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.models import clean


def entry():
  """[B, T, H, W, C] of which some of everything is missing; junk is NaN."""
  rng = np.random.default_rng(0)
  b, t, h, w, c = 3, 2, 4, 4, 3
  image = rng.standard_normal((b, t, h, w, c)).astype('float32')
  given = {
    'pixel_valid': rng.random((b, t, h, w)) > 0.3,
    'date_valid': np.array([[1, 1], [1, 0], [1, 1]], bool),
    'band_valid': np.array([[1, 1, 1], [1, 1, 1], [0, 1, 1]], bool),
    'valid': np.array([0, 1, 1], bool),
  }
  counts = np.zeros(image.shape, bool)
  for i in np.ndindex(*image.shape):
    counts[i] = (
      given['pixel_valid'][i[:4]]
      and given['date_valid'][i[:2]]
      and given['band_valid'][i[0], i[4]]
      and given['valid'][i[0]]
    )
  image = np.where(counts, image, np.nan)
  return jax.tree.map(jnp.asarray, given | {'image': image}), counts


def test_a_value_counts_if_its_sample_date_band_and_pixel_do():
  given, expected = entry()
  np.testing.assert_array_equal(clean.counts(given), expected)
  cleaned = clean.series(given)
  np.testing.assert_array_equal(cleaned, np.nan_to_num(given['image']))


def test_a_single_image_is_a_series_of_one_date():
  given, expected = entry()
  del given['date_valid']
  one = given | {k: given[k][:, 0] for k in ('image', 'pixel_valid')}
  np.testing.assert_array_equal(clean.counts(one), expected[:, 0])
  np.testing.assert_array_equal(
    clean.series(one), np.nan_to_num(given['image'][:, 0])
  )
