"""Blocks with drop path, and one scan over a run of them."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.nn import attention
from rsfm_jax.nn import multihead
from rsfm_jax.nn import swin
from rsfm_jax.nn import transformer

REORDERED = 1e-5
DIM = 8


def make_global(key):
  k_1, k_2 = jax.random.split(key)
  return transformer.Block(
    multihead.MultiHeadAttention(DIM, 2, key=k_1, std=0.5),
    transformer.Ffn(DIM, 16, key=k_2, std=0.5),
    dim=DIM,
  )


def make_swin(key):
  k_1, k_2 = jax.random.split(key)
  attend = attention.WindowAttention(
    DIM, 2, 2, kind='v2_cosine', key=k_1, std=0.5
  )
  return swin.SwinBlock(
    attend, transformer.Ffn(DIM, 16, key=k_2, std=0.5), dim=DIM
  )


def tokens(*shape):
  return jax.random.normal(jax.random.key(9), (*shape, DIM))


@functools.partial(jax.jit, static_argnums=0, static_argnames='how')
def program(graphdef, state, x, key, *, how):
  how = dict(how)
  if 'rates' in how:
    how['rates'] = np.array(how['rates'], np.float32)
  return transformer.run(nnx.merge(graphdef, state), x, key=key, **how)


def run(blocks, x, *, key=None, **how):
  """`transformer.run` as one program."""
  return program(*nnx.split(blocks), x, key, how=tuple(how.items()))


def one_by_one(blocks, x, *, depth, start=0, shifts=False):
  """The slow oracle: a loop over the blocks."""
  graphdef, state = nnx.split(blocks)

  @jax.jit
  def loop(state, x):
    for i in range(depth):
      block = nnx.merge(graphdef, jax.tree.map(lambda w: w[i], state))  # noqa: B023
      x, _ = block(x, **({'shifted': (start + i) % 2 == 1} if shifts else {}))
    return x

  return loop(state, x)


@pytest.mark.parametrize('depth', [1, 3])
def test_a_run_of_global_blocks_is_a_loop_over_them(depth):
  blocks = transformer.stacked(make_global, depth, key=jax.random.key(0))
  x = tokens(2, 5)
  y, aux = run(blocks, x, depth=depth)
  expected = one_by_one(blocks, x, depth=depth)
  np.testing.assert_allclose(y, expected, rtol=REORDERED, atol=REORDERED)
  assert aux is None
  assert float(jnp.abs(y - x).max()) > 0.1


@pytest.mark.parametrize(('start', 'depth'), [(0, 4), (1, 2), (1, 3), (1, 1)])
def test_windows_shift_by_the_place_in_the_stage(start, depth):
  """Also in runs that start at an odd block, or are of odd length."""
  blocks = transformer.stacked(make_swin, depth, key=jax.random.key(0))
  x = tokens(2, 4, 4)
  how = dict(depth=depth, shifts=True)
  y, _ = run(blocks, x, start=start, **how)
  expected = one_by_one(blocks, x, start=start, **how)
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
  other, _ = run(blocks, x, start=1 - start, **how)
  assert float(jnp.abs(other - expected).max()) > 1e-3


@pytest.mark.parametrize('remat', ['full', 'products'])
def test_recomputing_changes_no_gradient(remat):
  blocks = transformer.stacked(make_global, 2, key=jax.random.key(0))
  graphdef, state = nnx.split(blocks)
  key, rates = jax.random.key(3), np.array([0.2, 0.5], np.float32)

  def loss(state, remat):
    y, _ = transformer.run(
      nnx.merge(graphdef, state),
      tokens(4, 5),
      depth=2,
      key=key,
      rates=rates,
      remat=remat,
    )
    return jnp.square(y).sum()

  step = jax.jit(jax.grad(loss), static_argnums=1)
  for a, b in zip(
    jax.tree.leaves(step(state, 'none')),
    jax.tree.leaves(step(state, remat)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_drop_path_zeros_whole_images_and_keeps_the_mean():
  y = jnp.ones((4000, 2, 3))
  out = np.asarray(
    transformer.drop_path(y, jnp.float32(0.25), key=jax.random.key(0))
  )
  assert set(np.unique(out.round(4))) == {0.0, np.float32(1.3333)}
  np.testing.assert_array_equal(out, out[:, :1, :1] * np.ones((1, 2, 3)))
  assert abs(out.mean() - 1) < 0.03
  # At rate 0 every bit stays.
  same = transformer.drop_path(y, jnp.float32(0), key=jax.random.key(0))
  np.testing.assert_array_equal(same, y)


@pytest.mark.parametrize('make', [make_global, make_swin])
def test_dropping_is_for_training_only_and_by_the_key(make):
  blocks = transformer.stacked(make, 2, key=jax.random.key(0))
  x = tokens(6, 4) if make is make_global else tokens(6, 4, 4)
  rates = (0.0, 0.9)
  output = lambda **how: run(blocks, x, depth=2, **how)[0]
  plain = output()
  np.testing.assert_array_equal(output(rates=rates), plain)
  np.testing.assert_array_equal(output(key=jax.random.key(1)), plain)
  first, again, other = (
    output(key=jax.random.key(k), rates=rates) for k in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert float(jnp.abs(first - other).max()) > 1e-3


def test_a_layer_scale_of_zero_is_no_block_at_all():
  block = transformer.Block(
    multihead.MultiHeadAttention(DIM, 2, key=jax.random.key(0)),
    transformer.Ffn(DIM, 16, key=jax.random.key(1)),
    dim=DIM,
    layer_scale=0.0,
  )
  x = tokens(2, 5)
  np.testing.assert_array_equal(block(x)[0], x)


def test_nothing_attends_to_tokens_that_are_not_valid():
  block = make_global(jax.random.key(0))
  x, valid = tokens(2, 5), jnp.arange(5)[None] < jnp.array([[3], [5]])
  dirty = jnp.where(valid[..., None], x, 99.0)
  y = [block(x, tokens_valid=valid)[0] for x in (x, dirty)]
  np.testing.assert_array_equal(y[0][valid], y[1][valid])
  np.testing.assert_allclose(
    y[0][0, :3], block(x[:1, :3])[0][0], rtol=REORDERED, atol=REORDERED
  )
  assert float(jnp.abs(y[0] - block(x)[0])[0].max()) > 1e-3
