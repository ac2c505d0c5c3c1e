"""What a change of light may do to a view, and what it may not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from rsfm_jax.objectives import photometric

KEY = jax.random.key(0)
OFF = photometric.PhotometricSpec(jitter=0, grey=0, blur=0, solarise=0)


def images(count=6, size=12):
  return jax.random.uniform(jax.random.key(1), (count, 1, size, size, 3))


def test_nothing_asked_is_nothing_done():
  x = images()
  np.testing.assert_array_equal(photometric.augment(KEY, x, OFF, blur=0.0), x)


def test_intensities_stay_intensities_and_views_differ():
  x = jnp.broadcast_to(images(1), (6, 1, 12, 12, 3))
  spec = photometric.PhotometricSpec(jitter=1.0)
  y = photometric.augment(KEY, x, spec, blur=0.5, solarise=0.5)
  assert y.min() >= 0 and y.max() <= 1
  means = np.asarray(y.mean((1, 2, 3, 4)))
  assert len(set(means.round(6))) == 6


def test_a_turn_of_the_hue_keeps_grey_and_luma():
  grey = jnp.full((1, 1, 2, 2, 3), 0.4)
  turn = photometric._hue(jnp.array([1.0]))
  np.testing.assert_allclose(
    jnp.einsum('nthwc,ndc->nthwd', grey, turn), grey, atol=2e-3
  )
  x = images(1)
  y = jnp.einsum('nthwc,ndc->nthwd', x, turn)
  np.testing.assert_allclose(
    photometric._grey(y), photometric._grey(x), atol=2e-3
  )


def test_the_blur_is_gaussian():
  x = images(2)
  sigma = jnp.array([0.7, 1.5])
  got = photometric.blurred(x, sigma)
  for i in range(2):
    want = ndimage.gaussian_filter(
      np.asarray(x[i, 0]),
      (float(sigma[i]), float(sigma[i]), 0),
      mode='nearest',
      radius=(4, 4, 0),
    )
    np.testing.assert_allclose(got[i, 0], want, atol=1e-5)


def test_solarisation_inverts_what_is_bright():
  x = images()
  y = photometric.augment(KEY, x, OFF, blur=0.0, solarise=1.0)
  np.testing.assert_allclose(y, jnp.where(x > 0.5, 1 - x, x), atol=1e-7)


def test_probabilities_may_differ_by_view():
  x = images(4)
  at = jnp.array([1.0, 0.0, 1.0, 0.0])
  y = photometric.augment(KEY, x, OFF, blur=at)
  changed = np.asarray((y != x).any((1, 2, 3, 4)))
  np.testing.assert_array_equal(changed, [True, False, True, False])


def test_strengths_out_of_range_are_named():
  with pytest.raises(ValueError, match=r'photometric.grey=2'):
    photometric.PhotometricSpec(grey=2)
