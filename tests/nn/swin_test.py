"""A stage scans over pairs of blocks; it must equal a loop over blocks."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.nn import attention
from rsfm_jax.nn import mlp
from rsfm_jax.nn import remat
from rsfm_jax.nn import swin

# The same products in another program; logits of v2 are ten times cosines,
# so that four blocks multiply a rounding further.
REORDERED = {'v1_bias': 1e-5, 'v2_cosine': 1e-4}
DIM = 8


class Ffn(nnx.Module):
  """An MLP that says what it saw, as a routed FFN does."""

  def __init__(self, key):
    self.mlp = mlp.Mlp(DIM, 2 * DIM, key=key, std=None)

  def __call__(self, x, *, power=1.0):
    return self.mlp(x), {'mean': (x**power).mean()}


def make_block(key, kind='v1_bias', gain=1.0, engine='auto'):
  attend = attention.WindowAttention(
    DIM, 2, 4, kind=kind, key=key, std=None, engine=engine
  )
  return swin.SwinBlock(attend, Ffn(key), dim=DIM, gain=gain)


def stage(depth=4, kind='v1_bias', engine='auto', **options):
  block = lambda key, _: make_block(key, kind=kind, engine=engine)
  kinds = ('same',) * depth
  make = lambda: swin.SwinStage(block, kinds, key=jax.random.key(3), **options)
  graphdef, state = nnx.split(nnx.eval_shape(make))
  return nnx.merge(graphdef, jax.jit(lambda: nnx.split(make())[1])())


X = jax.random.normal(jax.random.key(0), (2, 8, 8, DIM))


@pytest.mark.parametrize('kind', ['v1_bias', 'v2_cosine'])
@pytest.mark.parametrize('depth', [1, 4])
def test_the_scan_equals_a_loop_over_blocks(depth, kind):
  made = stage(depth, kind)
  graphdef, weights = nnx.split(made.blocks)

  @jax.jit
  def loop(x, weights):
    means = []
    for i in range(depth):
      block = nnx.merge(graphdef, jax.tree.map(lambda w: w[i], weights))  # noqa: B023
      x, aux = block(x, shifted=i % 2 == 1, power=2)
      means.append(aux['mean'])
    return x, jnp.stack(means)

  expected, means = loop(X, weights)
  y, (aux,) = run(*nnx.split(made), X)
  limit = REORDERED[kind]
  np.testing.assert_allclose(y, expected, rtol=limit, atol=limit)
  np.testing.assert_allclose(aux['mean'], means, rtol=limit)


@functools.partial(jax.jit, static_argnums=0)
def run(graphdef, state, x):
  return nnx.merge(graphdef, state)(x, power=2)


def test_blocks_start_from_different_weights():
  kernels = stage(4).blocks.ffn.mlp.w_in[...]
  assert all(
    (kernels[i] != kernels[j]).any() for i in range(4) for j in range(i)
  )


@functools.cache
def gradients(**options):
  graphdef, weights = nnx.split(stage(4, **options))

  def total(weights, x):
    y, (aux,) = nnx.merge(graphdef, weights)(x)
    return jnp.square(y).mean() + aux['mean'].sum()

  return jax.jit(jax.grad(total, argnums=(0, 1)))(weights, X)


@pytest.mark.parametrize(
  'options',
  [
    *({'remat': name} for name in remat.NAMES if name != 'none'),
    {'unroll': 2},
  ],
)
def test_recomputation_and_unrolling_change_no_gradient(options):
  plain, other = gradients(), gradients(**options)
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_each_policy_keeps_less_than_the_next():
  """What the backward pass of a stage holds, in bytes."""
  held = []
  for name in ('full', 'hidden', 'products', 'none'):
    graphdef, weights = nnx.split(stage(4, remat=name))
    forward = lambda w, g=graphdef: nnx.merge(g, w)(X)[0]
    pull = jax.eval_shape(lambda w, f=forward: jax.vjp(f, w)[1], weights)
    held.append(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pull)))
  assert held == sorted(set(held))


def test_a_block_with_zero_gains_is_the_identity():
  """Norms stand after attention and FFN, on the residual branch."""
  y, _ = make_block(jax.random.key(0), gain=0.0)(X, shifted=True)
  np.testing.assert_array_equal(y, X)


def test_an_odd_depth_is_an_error_that_names_the_key():
  with pytest.raises(ValueError, match='model.depths=3'):
    stage(3)


def test_a_stage_with_the_fused_attention_equals_the_plain_one():
  """An unshifted and a shifted block, recomputed; the kernel interpreted."""

  def outcome(engine):
    graphdef, weights = nnx.split(stage(2, engine=engine, remat='full'))

    def total(weights, x):
      y, (aux,) = nnx.merge(graphdef, weights)(x)
      return jnp.square(y).mean() + aux['mean'].sum()

    # One image: the interpreted kernel is unrolled over windows.
    return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(weights, X[:1])

  fused, plain = outcome('fused'), outcome('plain')
  for a, b in zip(jax.tree.leaves(fused), jax.tree.leaves(plain), strict=True):
    # A bias of the keys has a gradient of zero, but for roundings.
    limit = REORDERED['v1_bias'] * max(float(jnp.abs(b).max()), 0.01)
    np.testing.assert_allclose(a, b, rtol=0, atol=limit)
