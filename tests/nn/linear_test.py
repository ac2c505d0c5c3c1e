"""Dense layers, norms and the FFN in explicit precision."""

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.nn import linear
from rsfm_jax.nn import mlp


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
  exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(
    -1, keepdims=True
  )
  y = norm(rounded)
  assert y.dtype == jnp.bfloat16
  # One rounding of values up to 3 to 8 bits.
  np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.01)


def test_the_ffn_is_two_products_around_a_tanh_gelu():
  ffn = mlp.Mlp(3, 5, key=jax.random.key(0), std=None)
  ffn.b_in[...] = jnp.arange(5.0)
  ffn.b_out[...] = jnp.arange(3.0)
  x = 2 * jax.random.normal(jax.random.key(1), (2, 4, 3))
  w = {n: np.asarray(getattr(ffn, n)[...], np.float64) for n in vars_of(ffn)}
  h = np.asarray(x, np.float64) @ w['w_in'] + w['b_in']
  h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
  expected = h @ w['w_out'] + w['b_out']
  np.testing.assert_allclose(ffn(x), expected, rtol=2e-6, atol=2e-6)


def vars_of(ffn):
  return [n for n in ('w_in', 'b_in', 'w_out', 'b_out') if hasattr(ffn, n)]


def test_stacked_ffns_are_each_their_own():
  keys = jax.random.split(jax.random.key(0), 3)
  ffns = [mlp.Mlp(4, 6, key=k, std=None) for k in keys]
  stacked = [
    jnp.stack([getattr(f, n)[...] for f in ffns]) for n in vars_of(ffns[0])
  ]
  x = jax.random.normal(jax.random.key(1), (3, 7, 4))
  y = mlp.stacked_ffn(x, *stacked)
  for i, ffn in enumerate(ffns):
    np.testing.assert_allclose(y[i], ffn(x[i]), rtol=1e-6, atol=1e-6)
