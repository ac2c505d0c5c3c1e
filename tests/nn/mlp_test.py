"""The FFN of every expert, and the tanh GELU inside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.nn import mlp

LEAVES = ('w_in', 'b_in', 'w_out', 'b_out')


def test_the_ffn_is_two_products_around_a_tanh_gelu():
  ffn = mlp.Mlp(3, 5, key=jax.random.key(0), std=None)
  ffn.b_in[...] = jnp.arange(5.0)
  ffn.b_out[...] = jnp.arange(3.0)
  x = 2 * jax.random.normal(jax.random.key(1), (2, 4, 3))
  w = {n: np.asarray(getattr(ffn, n)[...], np.float64) for n in LEAVES}
  h = np.asarray(x, np.float64) @ w['w_in'] + w['b_in']
  h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
  expected = h @ w['w_out'] + w['b_out']
  np.testing.assert_allclose(ffn(x), expected, rtol=2e-6, atol=2e-6)


def test_stacked_ffns_are_each_their_own():
  keys = jax.random.split(jax.random.key(0), 3)
  ffns = [mlp.Mlp(4, 6, key=k, std=None) for k in keys]
  stacked = [jnp.stack([getattr(f, n)[...] for f in ffns]) for n in LEAVES]
  x = jax.random.normal(jax.random.key(1), (3, 7, 4))
  y = mlp.stacked_ffn(x, *stacked)
  for i, ffn in enumerate(ffns):
    np.testing.assert_allclose(y[i], ffn(x[i]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
  ('dtype', 'limit'),
  # One rounding of bfloat16; the tail cancels, so the limit is absolute.
  [(jnp.float32, 2e-6), (jnp.bfloat16, 8e-3)],
)
def test_the_gradient_of_the_gelu_is_that_of_the_tanh_form(dtype, limit):
  x = jnp.linspace(-8, 8, 257).astype(dtype)
  plain = lambda x: jax.nn.gelu(x, approximate=True)
  np.testing.assert_array_equal(mlp.gelu(x), plain(x))
  slope = lambda f, x: jax.jit(jax.grad(lambda x: f(x).sum()))(x)
  got = slope(mlp.gelu, x)
  assert got.dtype == dtype
  expected = slope(plain, x.astype(jnp.float32))
  np.testing.assert_allclose(got.astype('float32'), expected, atol=limit)


def test_the_exact_gelu_is_a_choice_that_lies_near_the_tanh_form():
  x = jnp.linspace(-6, 6, 2001)
  tanh, exact = (mlp.ACTIVATIONS[n](x) for n in ('gelu_tanh', 'gelu'))
  phi = 0.5 * (1 + jax.scipy.special.erf(x / 2**0.5))
  np.testing.assert_allclose(exact, x * phi, rtol=1e-5, atol=1e-6)
  assert 1e-4 < float(jnp.abs(tanh - exact).max()) < 5e-4
  ffns = [
    mlp.Mlp(3, 5, key=jax.random.key(0), std=2.0, activation=name)
    for name in ('gelu_tanh', 'gelu')
  ]
  y = [ffn(jnp.ones((1, 3))) for ffn in ffns]
  assert 0 < float(jnp.abs(y[0] - y[1]).max()) < 0.1
  with pytest.raises(ValueError, match='gelu_tanh'):
    mlp.Mlp(3, 5, key=jax.random.key(0), activation='relu')
