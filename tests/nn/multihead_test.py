"""Multi-head attention against loops over heads and tokens in float64."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.nn import multihead

# float32 against float64 loops; values are of order 1.
FLOAT32 = 3e-6
# bfloat16 has 8 bits of mantissa: a few roundings of 2^-9 each.
BFLOAT16 = 3e-2

DIM, HEADS = 12, 3


def layer():
  """A layer whose biases, which start at zero, have a size."""
  make = lambda: multihead.MultiHeadAttention(DIM, HEADS, key=jax.random.key(0))
  graphdef, state = nnx.split(nnx.eval_shape(make))
  rng = np.random.default_rng(0)
  draw = lambda w: jnp.asarray(0.3 * rng.standard_normal(w.shape), 'float32')
  return graphdef, jax.tree.map(draw, state)


def rows(batch, tokens, seed=1):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.standard_normal((batch, tokens, DIM)), 'float32')


@functools.partial(jax.jit, static_argnums=0)
def attend(graphdef, state, *args):
  return nnx.merge(graphdef, state)(*args)


def slow(state, x, context, valid):
  """One sequence: x [T, D], context [S, D], every product written out."""
  p = jax.tree.map(lambda w: np.asarray(w, np.float64), nnx.to_pure_dict(state))
  line = lambda n, y: y @ p[n]['kernel'] + p[n]['bias']
  x, context = np.asarray(x, np.float64), np.asarray(context, np.float64)
  q, k, v = line('query', x), line('key', context), line('value', context)
  out, size = np.zeros_like(q), DIM // HEADS
  for head in range(HEADS):
    part = slice(head * size, (head + 1) * size)
    for t in range(len(x)):
      logits = [q[t, part] @ k[s, part] / size**0.5 for s in range(len(k))]
      weights = np.exp(logits) * valid
      out[t, part] = weights / max(weights.sum(), 1e-300) @ v[:, part]
  return line('out', out)


def test_self_attention_is_the_formula():
  graphdef, state = layer()
  x = rows(2, 5)
  y = attend(graphdef, state, x)
  for one, got in zip(x, y, strict=True):
    expected = slow(state, one, one, np.ones(5))
    np.testing.assert_allclose(got, expected, atol=FLOAT32)


def test_queries_read_another_sequence_where_it_counts():
  graphdef, state = layer()
  x, context = rows(3, 4), rows(3, 6, seed=2)
  valid = np.array([[1] * 6, [0, 1, 0, 1, 1, 0], [0] * 6], bool)
  y = attend(graphdef, state, x, context, valid)
  for i in range(3):
    expected = slow(state, x[i], context[i], valid[i])
    np.testing.assert_allclose(y[i], expected, atol=FLOAT32)


def test_a_sequence_without_valid_keys_attends_to_nothing():
  graphdef, state = layer()
  x, context = rows(1, 4), rows(1, 3)
  y = attend(graphdef, state, x, context, np.zeros((1, 3), bool))
  expected = np.broadcast_to(state['out']['bias'][...], y.shape)
  np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize('own', [True, False])
def test_what_does_not_count_changes_no_bit(own):
  graphdef, state = layer()
  x, context = rows(2, 6), None if own else rows(2, 6, seed=2)
  valid = np.array([[1, 1, 0, 1, 0, 1], [1] * 5 + [0]], bool)

  @jax.jit
  def run(state, x, context):
    def loss(state, x, context):
      y = nnx.merge(graphdef, state)(x, context, valid)
      y = jnp.where(valid[..., None], y, 0) if own else y
      return jnp.square(y).sum(), y

    inputs = (0, 1) if own else (0, 1, 2)
    return jax.value_and_grad(loss, inputs, has_aux=True)(state, x, context)

  spoil = lambda y: jnp.where(valid[..., None], y, jnp.nan)
  clean = run(state, x, context)
  dirty = run(state, spoil(x) if own else x, None if own else spoil(context))
  for a, b in zip(*map(jax.tree.leaves, (clean, dirty)), strict=True):
    assert np.isfinite(a).all()
    np.testing.assert_array_equal(a, b)


def test_maps_are_the_softmax_over_what_counts():
  graphdef, state = layer()
  x, context = rows(2, 4), rows(2, 5, seed=2)
  valid = np.array([[1, 1, 0, 1, 1], [1] * 5], bool)
  made = nnx.merge(graphdef, state)
  maps = made.weights(x, context, valid)
  assert maps.shape == (2, HEADS, 4, 5) and maps.dtype == jnp.float32
  np.testing.assert_allclose(maps.sum(-1), 1, atol=FLOAT32)
  np.testing.assert_array_equal(maps[0, :, :, 2], 0)
  value = made.value(context).reshape(2, 5, HEADS, -1)
  y = jnp.einsum('bnts,bsnk->btnk', maps, value).reshape(x.shape)
  np.testing.assert_allclose(
    made.out(y), attend(graphdef, state, x, context, valid), atol=FLOAT32
  )


def test_bfloat16_stays_near_float32():
  graphdef, state = layer()
  x = rows(2, 5)
  y = attend(graphdef, state, x.astype(jnp.bfloat16))
  assert y.dtype == jnp.bfloat16
  expected = attend(graphdef, state, x)
  error = np.abs(y.astype(jnp.float32) - expected).max()
  assert error < BFLOAT16 * np.abs(expected).max()


def test_heads_must_divide_the_width():
  with pytest.raises(ValueError, match='model.heads=5 does not divide dim=12'):
    multihead.MultiHeadAttention(DIM, 5, key=jax.random.key(0))
