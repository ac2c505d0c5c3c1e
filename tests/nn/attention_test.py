"""Window attention against loops over heads and tokens in float64."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.nn import attention
from rsfm_jax.sharding import mesh as meshes

# float32 against float64 loops; values are of order 1.
FLOAT32 = 2e-6
# bfloat16 has 8 bits of mantissa: a few roundings of 2^-9 each.
BFLOAT16 = 3e-2
# Of the largest value; both forms are float32 and sum in another order.
FUSED = 1e-4

DIM, HEADS = 12, 3


def layer(kind, engine='auto'):
  """A layer whose biases and tables, which start near zero, have a size."""
  made = nnx.eval_shape(
    lambda: attention.WindowAttention(
      DIM, HEADS, 4, kind=kind, key=jax.random.key(1), engine=engine
    )
  )
  rng = np.random.default_rng(0)
  graphdef, state = nnx.split(made)
  draw = lambda w: jnp.asarray(0.3 * rng.standard_normal(w.shape), 'float32')
  state = jax.tree.map(draw, state)
  if kind == 'v2_cosine':
    state['logit_scale'][...] += np.log(10)
  return nnx.merge(graphdef, state)


def attend(made, x, *, shifted):
  return compiled(*nnx.split(made), x, shifted=shifted)


@functools.partial(jax.jit, static_argnames=('graphdef', 'shifted'))
def compiled(graphdef, state, x, *, shifted):
  return nnx.merge(graphdef, state)(x, shifted=shifted)


def image(height, width, batch=1, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(
    rng.standard_normal((batch, height, width, DIM)), 'float32'
  )


def slow(made, tokens, bias):
  """One window [T, D] with bias [N, T, T], every product written out."""
  p = jax.tree.map(
    lambda w: np.asarray(w, np.float64), nnx.to_pure_dict(nnx.state(made))
  )
  zero = np.zeros(DIM)
  line = lambda n: tokens @ p[n]['kernel'] + p[n].get('bias', zero)
  q, k, v = line('query'), line('key'), line('value')
  out = np.zeros_like(tokens)
  size = DIM // HEADS
  for head in range(HEADS):
    part = slice(head * size, (head + 1) * size)
    for t in range(len(tokens)):
      logits = np.array(
        [
          score(p, head, q[t, part], k[s, part]) + bias[head, t, s]
          for s in range(len(tokens))
        ]
      )
      weights = np.exp(logits - logits.max())
      out[t, part] = weights / weights.sum() @ v[:, part]
  return out @ p['out']['kernel'] + p['out']['bias']


def score(p, head, q, k):
  if 'bias_table' in p:
    return q @ k / np.sqrt(len(q))
  scale = np.exp(min(p['logit_scale'][head], np.log(100)))
  return scale * q @ k / np.linalg.norm(q) / np.linalg.norm(k)


def v1_bias(made, window):
  table = np.asarray(made.bias_table[...], np.float64)
  middle, side = made.window - 1, 2 * made.window - 1
  at = [divmod(i, window) for i in range(window**2)]
  return np.array(
    [
      [
        [
          table[(p[0] - q[0] + middle) * side + p[1] - q[1] + middle, head]
          for q in at
        ]
        for p in at
      ]
      for head in range(HEADS)
    ]
  )


@pytest.mark.parametrize('side', [4, 2])
def test_v1_is_softmax_of_products_plus_a_table(side):
  """Also with a grid smaller than the window: the middle of the table."""
  made, x = layer('v1_bias'), image(side, side)
  expected = slow(
    made, np.asarray(x, np.float64).reshape(-1, DIM), v1_bias(made, side)
  )
  got = attend(made, x, shifted=False).reshape(-1, DIM)
  np.testing.assert_allclose(got, expected, rtol=FLOAT32, atol=FLOAT32)


def test_v2_is_softmax_of_scaled_cosines_plus_a_continuous_bias():
  made, x = layer('v2_cosine'), image(4, 4)
  bias = np.asarray(made.cpb(4), np.float64)
  expected = slow(made, np.asarray(x, np.float64).reshape(-1, DIM), bias)
  got = attend(made, x, shifted=False).reshape(-1, DIM)
  # Cosines are multiplied by ten before the softmax.
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind', ['v1_bias', 'v2_cosine'])
def test_windows_do_not_see_each_other(kind):
  made, x = layer(kind), image(8, 8)
  y = attend(made, x, shifted=False)
  moved = attend(made, x.at[0, 0, 0].add(1.0), shifted=False)
  np.testing.assert_array_equal(y[0, 4:], moved[0, 4:])
  assert jnp.abs(y - moved)[0, 3, 3].max() > 1e-3


@pytest.mark.parametrize('kind', ['v1_bias', 'v2_cosine'])
def test_a_shift_joins_neighbours_but_not_opposite_edges(kind):
  made, x = layer(kind), image(8, 8)
  change = jnp.abs(
    attend(made, x, shifted=True)
    - attend(made, x.at[0, 3, 3].add(1.0), shifted=True)
  ).max((0, -1))
  assert change[4, 4] > 1e-3 and change[2, 5] > 1e-3
  assert change[1, 1] == 0 and change[6, 6] == 0
  edge = jnp.abs(
    attend(made, x, shifted=True)
    - attend(made, x.at[0, 0, 0].add(1.0), shifted=True)
  ).max((0, -1))
  # (0, 0) shares its rolled window with (7, 7), behind a logit of -100.
  assert edge[1, 1] > 1e-3
  np.testing.assert_allclose(edge[6:, 6:], 0, atol=1e-6)


def test_the_bias_of_v2_lies_between_0_and_16():
  bias = layer('v2_cosine').cpb(4)
  assert bias.shape == (HEADS, 16, 16)
  assert 0 < bias.min() and bias.max() < 16


def test_v2_sees_directions_not_lengths():
  made, x = layer('v2_cosine'), image(4, 4)
  made.key.kernel[...] = made.key.kernel[...] * 8.0
  made.query.kernel[...] = made.query.kernel[...] * 8.0
  made.query.bias[...] = made.query.bias[...] * 8.0
  again = layer('v2_cosine')
  np.testing.assert_allclose(
    attend(made, x, shifted=False),
    attend(again, x, shifted=False),
    rtol=1e-5,
    atol=1e-5,
  )


def test_the_temperature_is_clamped_from_above_and_then_has_no_gradient():
  graphdef, state = nnx.split(layer('v2_cosine'))
  state = nnx.to_pure_dict(state)
  x = image(4, 4)

  @jax.jit
  def total(scale):
    made = nnx.merge(graphdef, state | {'logit_scale': scale})
    return jnp.square(made(x, shifted=False)).sum()

  high = jnp.log(jnp.array([1e3, 1e4, 10.0]))
  at = jnp.log(jnp.array([100.0, 100.0, 10.0]))
  np.testing.assert_allclose(total(high), total(at), rtol=1e-6)
  gradient = jax.jit(jax.grad(total))(high)
  np.testing.assert_array_equal(gradient[:2], 0)
  assert abs(gradient[2]) > 1e-4


def test_only_v1_has_a_bias_on_the_keys():
  names = lambda kind: set(
    trees.flatten(nnx.to_pure_dict(nnx.state(layer(kind))))
  )
  assert 'key/bias' in names('v1_bias')
  assert 'key/bias' not in names('v2_cosine')
  assert {'logit_scale', 'cpb/out/kernel'} <= names('v2_cosine')


@pytest.mark.parametrize('kind', ['v1_bias', 'v2_cosine'])
def test_bfloat16_stays_close_to_float32(kind):
  made, x = layer(kind), image(8, 8)
  y = attend(made, x.astype(jnp.bfloat16), shifted=True)
  assert y.dtype == jnp.bfloat16
  exact = attend(made, x, shifted=True)
  error = jnp.abs(y.astype(jnp.float32) - exact).max() / jnp.abs(exact).max()
  assert 0 < error < BFLOAT16


def test_heads_must_divide_the_width():
  with pytest.raises(ValueError, match='model.heads=5'):
    attention.WindowAttention(12, 5, 4, kind='v1_bias', key=jax.random.key(0))


def test_a_grid_must_hold_whole_windows():
  with pytest.raises(ValueError, match='10 x 8'):
    attend(layer('v1_bias'), image(10, 8), shifted=False)


@pytest.mark.parametrize('layouts', [1, 3])
def test_the_written_gradient_of_attention_is_that_of_autodiff(layouts):
  """`layouts` biases, one per window, repeat over the images."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), 'float32')
  given = [draw(6, 2, 5, 4) for _ in range(3)] + [draw(layouts, 2, 5, 5)]
  cotangent = draw(6, 2, 5, 4)

  def plain(q, k, v, bias):
    logits = jnp.einsum('xntk,xnsk->xnts', q, k)
    logits += jnp.tile(bias, (6 // layouts, 1, 1, 1))
    return jnp.einsum('xnts,xnsk->xntk', jax.nn.softmax(logits), v)

  def gradients(f):
    total = lambda *given: (f(*given) * cotangent).sum()
    return jax.jit(jax.value_and_grad(total, (0, 1, 2, 3)))(*given)

  got, expected = gradients(attention.attend), gradients(plain)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@functools.partial(jax.jit, static_argnames=('graphdef', 'shifted', 'mesh'))
def value_and_gradients(graphdef, state, x, dy, *, shifted, mesh):
  run = lambda state, x: nnx.merge(graphdef, state)(
    x, shifted=shifted, mesh=mesh
  )
  y, vjp = jax.vjp(run, state, x)
  return y, *vjp(dy)


@pytest.mark.parametrize('kind', ['v1_bias', 'v2_cosine'])
def test_the_fused_form_gives_the_same_values_and_gradients(kind):
  """Interpreted, shifted, an image on each of eight devices."""
  mesh = meshes.make_mesh(data=2, fsdp=2, expert=2)
  cut, whole = meshes.batch_sharding(mesh), meshes.replicated(mesh)
  given = jax.device_put([image(8, 8, 8), image(8, 8, 8, seed=1)], cut)
  results = []
  for engine in ('fused', 'plain'):
    graphdef, state = nnx.split(layer(kind, engine))
    state = jax.device_put(state, whole)
    results.append(
      value_and_gradients(graphdef, state, *given, shifted=True, mesh=mesh)
    )
  got, expected = (trees.flatten(as_names(r)) for r in results)
  assert got.keys() == expected.keys()
  for name, value in expected.items():
    # A bias of the keys has no influence: its gradient is zero but for
    # roundings. All others are of order 1 and more.
    limit = FUSED * max(float(jnp.abs(value).max()), 1.0)
    np.testing.assert_allclose(got[name], value, rtol=0, atol=limit)


def as_names(result):
  y, state, dx = result
  return {'y': y, 'x': dx, 'parameters': nnx.to_pure_dict(state)}


@pytest.mark.parametrize('kind', ['v1_bias', 'v2_cosine'])
def test_giants_windows_have_a_kernel(kind):
  """144 tokens, heads of 32, bfloat16, on a mesh of the platform: traced."""
  giant = nnx.eval_shape(
    lambda: attention.WindowAttention(
      448, 14, 12, kind=kind, key=jax.random.key(0), engine='fused'
    )
  )
  x = jax.ShapeDtypeStruct((2, 48, 48, 448), jnp.bfloat16)
  graphdef, state = nnx.split(giant)
  for shifted in (False, True):
    run = lambda state, x: nnx.merge(graphdef, state)(x, shifted=shifted)  # noqa: B023
    program = jax.jit(run).trace(state, x).lower(lowering_platforms=('tpu',))
    assert program.as_text().count('tpu_custom_call') == 1
