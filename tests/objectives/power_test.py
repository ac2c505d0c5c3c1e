"""Total power of complex SAR over the polarisations that are there."""

import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.objectives import power


def iq(seed=0, batch=2, side=3):
  rng = np.random.default_rng(seed)
  return rng.standard_normal((batch, side, side, 8)).astype('float32')


def valid(*polarisations, batch=2):
  bands = np.zeros((batch, 8), bool)
  for p in polarisations:
    bands[:, 2 * p : 2 * p + 2] = True
  return jnp.asarray(bands)


def test_total_power_is_the_sum_of_squared_amplitudes():
  x = iq()
  scattering = x[..., 0::2] + 1j * x[..., 1::2]
  expected = (np.abs(scattering) ** 2).sum(-1, keepdims=True)
  np.testing.assert_allclose(power.total_power(x), expected, rtol=1e-6)


@pytest.mark.parametrize('junk', [np.nan, np.inf, 1e30])
def test_an_absent_polarisation_adds_nothing_whatever_stands_there(junk):
  x = iq()
  expected = np.square(x[..., [0, 1, 6, 7]]).sum(-1, keepdims=True)
  x[..., 2:6] = junk
  got = power.total_power(jnp.asarray(x), valid(0, 3))
  np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_power_is_preserved_by_a_rotation_of_the_polarisation_basis():
  """Why it is the target: |S|^2 summed does not depend on the basis."""
  x = iq()
  s = (x[..., 0::2] + 1j * x[..., 1::2]).reshape(2, 3, 3, 2, 2)
  c, s_ = np.cos(0.3), np.sin(0.3)
  u = np.array([[c, 1j * s_], [1j * s_, c]])
  rotated = (u @ s @ u.T).reshape(2, 3, 3, 4)
  y = np.stack([rotated.real, rotated.imag], -1).reshape(2, 3, 3, 8)
  np.testing.assert_allclose(
    power.total_power(x), power.total_power(y.astype('float32')), rtol=1e-5
  )


def test_mean_power_puts_one_and_four_polarisations_on_one_scale():
  rng = np.random.default_rng(0)
  # Unit mean power in every polarisation.
  x = jnp.asarray(rng.standard_normal((2, 40, 40, 8)) * 0.5**0.5, 'float32')
  one, four = (
    power.mean_power(x, valid(*p)).mean() for p in ((1,), (0, 1, 2, 3))
  )
  assert abs(one - 1) < 0.05 and abs(four - 1) < 0.05
  total = power.total_power(x)
  np.testing.assert_allclose(
    power.mean_power(x, valid(0, 1, 2, 3)), total / 4, rtol=1e-6
  )


def test_mean_power_counts_per_sample_and_never_divides_by_zero():
  bands = jnp.stack([valid(2)[0], jnp.zeros(8, bool)])
  x = iq()
  got = power.mean_power(jnp.asarray(x), bands)
  np.testing.assert_allclose(
    got[0], np.square(x[0, ..., 4:6]).sum(-1, keepdims=True), rtol=1e-6
  )
  np.testing.assert_array_equal(got[1], 0)


def test_scalings():
  values = jnp.array([0.5, 1.0, 3.0, 2.0]).reshape(1, 2, 2, 1)
  flat = lambda how: power.scale(values, how).reshape(-1)
  np.testing.assert_array_equal(flat('scene'), [0.5, 1, 3, 2])
  np.testing.assert_allclose(flat('minmax'), [0, 0.2, 1, 0.6], rtol=1e-6)
  np.testing.assert_allclose(flat('clip_minmax'), [0, 1, 1, 1])


def test_a_constant_image_scales_to_zero_not_to_nan():
  values = jnp.full((1, 2, 2, 1), 3.0)
  for how in ('minmax', 'clip_minmax'):
    np.testing.assert_array_equal(power.scale(values, how), 0)


def test_images_are_scaled_one_by_one():
  values = jnp.asarray(np.square(iq())[..., :1])
  both = power.scale(values, 'minmax')
  alone = power.scale(values[1:], 'minmax')
  np.testing.assert_array_equal(both[1:], alone)
  assert float(both.min()) == 0
  np.testing.assert_allclose(both.max((1, 2, 3)), 1, rtol=1e-6)


def test_compression_is_a_logarithm_above_a_floor():
  got = power.compress(jnp.array([0.0, 1.0, 99.99]))
  np.testing.assert_allclose(got, np.log([0.01, 1.01, 100]), rtol=1e-6)
