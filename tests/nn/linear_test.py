"""Dense layers and norms in explicit precision."""

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.nn import linear


def test_the_normal_is_cut_at_two_standard_deviations():
  w = linear.truncated_normal(jax.random.key(0), (400, 100), 0.02)
  assert jnp.abs(w).max() <= 0.04
  assert 0.85 < w.std() / 0.02 < 0.9


def test_no_std_scales_by_the_fan_in():
  w = linear.truncated_normal(jax.random.key(0), (3, 400, 100), None)
  assert 0.85 < w.std() * 20 < 0.9


def test_layer_norm_computes_in_float32():
  norm = linear.LayerNorm(64)
  # Near 1000 a bfloat16 has steps of 4: sums in it would lose the signal.
  x = 1000.0 + 16.0 * jax.random.normal(jax.random.key(0), (5, 64))
  rounded = x.astype(jnp.bfloat16)
  exact = np.asarray(rounded, np.float64)
  exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
  y = norm(rounded)
  assert y.dtype == jnp.bfloat16
  # One rounding of values up to 3 to 8 bits.
  np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.01)


def test_the_written_gradient_of_the_norm_equals_autodiff():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), 'float32')
  x, scale, bias, dy = draw(3, 5, 7), draw(7), draw(7), draw(3, 5, 7)

  def plain(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    y = centred / jnp.sqrt(variance + 1e-6)
    return y * scale.reshape(1, 1, -1) + bias.reshape(1, 1, -1)

  fast = lambda *args: linear.normalise(*args, 1e-6)
  got, pull = jax.vjp(fast, x, scale, bias)
  expected, oracle = jax.vjp(plain, x, scale, bias)
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
  for a, b in zip(pull(dy), oracle(dy), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
