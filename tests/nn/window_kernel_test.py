"""Fused window attention, interpreted, against the plain form."""

import functools
import re

import jax
import jax.numpy as jnp
from jax.sharding import AbstractDevice
from jax.sharding import AbstractMesh
from jax.sharding import AxisType
import numpy as np
import pytest

from rsfm_jax.nn import attention
from rsfm_jax.nn import window_kernel
from rsfm_jax.nn import window_tiles
from rsfm_jax.nn import windows
from rsfm_jax.sharding import mesh as meshes

# Largest error over largest value. Both sides are float32; sums over up to 256
# keys in another order.
FLOAT32 = 3e-6
# The scale's gradient is one sum over all tokens, of terms of both signs.
FLOAT32_SUM = 5e-5
# bfloat16 operands with float32 sums: a few roundings of 2^-9 on either side.
BFLOAT16 = 2e-2

NAMES = ('y', 'q', 'k', 'v', 'bias', 'scale')


def plain(q, k, v, bias, scale, *, window, shift, similarity='dot'):
  """By `attention.attend`, the oracle, window by window."""
  heads, (_, height, width, dim) = len(bias), q.shape

  def split(y):
    y = windows.partition(windows.roll(y, shift), window)
    return y.reshape(*y.shape[:2], heads, -1).transpose(0, 2, 1, 3)

  unit = lambda y: y / jnp.linalg.norm(y, axis=-1, keepdims=True)
  a, b = split(q), split(k)
  if similarity == 'cosine':
    a, b = unit(a), unit(b)
  a = a * scale.astype(q.dtype)[None, :, None, None]
  bias = bias[None]
  if shift:
    bias += windows.shift_mask(height, width, window, shift)[:, None]
  y = attention.attend(a, b, split(v), bias)
  y = y.transpose(0, 2, 1, 3).reshape(-1, window**2, dim)
  return windows.roll(windows.merge(y, window, height, width), -shift)


def given(batch, grid, window, heads, head=32, dtype='float32'):
  """q, k, v, bias, scale of order 1, and a cotangent."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), 'float32')
  tokens = [draw(batch, *grid, heads * head).astype(dtype) for _ in range(4)]
  scale = (0.5 + jnp.abs(draw(heads))) * head**-0.5
  bias = draw(heads, window**2, window**2)
  return (*tokens[:3], bias, scale), tokens[3]


@functools.partial(jax.jit, static_argnames=('f', 'settings'))
def value_and_gradients(f, inputs, dy, settings):
  y, vjp = jax.vjp(functools.partial(f, **dict(settings)), *inputs)
  return (y, *vjp(dy))


def errors(inputs, dy, **settings):
  """{name: largest error over largest value} of the kernel."""
  settings = tuple(settings.items())
  got = value_and_gradients(window_kernel.attend, inputs, dy, settings)
  exact = jax.tree.map(lambda x: x.astype(jnp.float32), (inputs, dy))
  expected = value_and_gradients(plain, *exact, settings)
  compare = lambda a, b: float(
    jnp.abs(a.astype(jnp.float32) - b).max() / jnp.abs(b).max()
  )
  return {
    name: compare(a, b) for name, a, b in zip(NAMES, got, expected, strict=True)
  }


@pytest.mark.parametrize(
  'batch, grid, window, shift, heads, head',
  [
    (2, (8, 8), 4, 2, 4, 32),
    (1, (12, 18), 6, 3, 6, 32),  # The second 128 lanes hold two heads.
    (2, (8, 8), 8, 0, 3, 32),  # One window; all of 96 lanes are one group.
    (1, (16, 24), 8, 4, 8, 16),
    (1, (24, 24), 12, 6, 4, 32),
    (2, (6, 9), 3, 0, 1, 32),
    (1, (6, 6), 3, 1, 4, 32),  # Not half a window: shifted outside.
  ],
)
def test_values_and_gradients_are_those_of_the_plain_form(
  batch, grid, window, shift, heads, head
):
  inputs, dy = given(batch, grid, window, heads, head)
  found = errors(inputs, dy, window=window, shift=shift)
  assert found.pop('scale') < FLOAT32_SUM
  assert max(found.values()) < FLOAT32, found


@pytest.mark.parametrize(
  'grid, window, shift', [((12, 12), 6, 3), ((12, 12), 12, 0)]
)
def test_cosine_attention_is_that_of_the_plain_form(grid, window, shift):
  found = errors(
    *given(1, grid, window, 4), window=window, shift=shift, similarity='cosine'
  )
  assert found.pop('scale') < FLOAT32_SUM
  assert max(found.values()) < FLOAT32, found


@pytest.mark.parametrize('similarity', ['dot', 'cosine'])
def test_bfloat16_stays_close_to_float32(similarity):
  inputs, dy = given(2, (12, 12), 6, 4, dtype='bfloat16')
  settings = dict(window=6, shift=3, similarity=similarity)
  found = errors(inputs, dy, **settings)
  assert max(found.values()) < BFLOAT16, found
  attend = functools.partial(window_kernel.attend, **settings)
  y, gradients = jax.eval_shape(
    lambda *x: (attend(*x), jax.vjp(attend, *x)[1](dy)), *inputs
  )
  dtypes = [str(x.dtype) for x in (y, *gradients)]
  assert dtypes == ['bfloat16'] * 4 + ['float32'] * 2


def test_large_logits_neither_overflow_nor_vanish():
  (q, k, v, bias, scale), dy = given(2, (4, 4), 4, 4)
  inputs = (40 * q, 40 * k, v, bias.at[1].add(500.0), scale)
  settings = (('window', 4), ('shift', 0))
  got = value_and_gradients(window_kernel.attend, inputs, dy, settings)
  expected = value_and_gradients(plain, inputs, dy, settings)
  assert all(jnp.isfinite(x).all() for x in got)
  # Of logits of some thousands float32 leaves 1e-4.
  for name, a, b in zip(NAMES, got, expected, strict=True):
    if name in ('y', 'v', 'bias'):
      np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3, err_msg=name)


def plan_of(batch, grid, window, heads, *, shift=0, dtype=jnp.bfloat16):
  q = jax.ShapeDtypeStruct((batch, *grid, 32 * heads), dtype)
  return window_tiles.make_plan(
    q, heads=heads, window=window, shift=shift, similarity='dot'
  )


def test_the_bias_of_a_tile_is_that_of_its_heads_and_queries():
  plan = plan_of(2, (24, 24), 12, 6)
  bias = np.arange(6 * 144 * 144, dtype=np.float32).reshape(6, 144, 144)
  arranged = window_tiles.arrange_bias(jnp.asarray(bias), plan)
  assert arranged.shape == (2, 144, 4 * 144)
  assert sum(tile.size * len(tile.heads) for tile in plan.tiles) == 4 * 144
  for tile in plan.tiles:
    queries = slice(tile.start, tile.start + tile.size)
    for i, head in enumerate(tile.heads):
      start = tile.lanes.start + i * tile.size
      np.testing.assert_array_equal(
        arranged[0, :, start : start + tile.size], bias[head, queries].T
      )
  np.testing.assert_array_equal(arranged[1, :, 256:512], 0)


@pytest.mark.parametrize('shift', [0, 2])
def test_the_runs_of_a_window_are_those_of_roll_and_partition(shift):
  plan = plan_of(1, (4, 12), 4, 4, shift=shift)
  place = np.arange(48).reshape(1, 4, 12, 1)
  rolled = np.roll(place, (-shift, -shift), (1, 2))
  expected = np.asarray(windows.partition(rolled, 4))[..., 0]
  for window in range(3):
    got = np.full(16, -1)
    for run in plan.runs(window):
      row = (run.row + shift) % 4
      columns = slice(run.column, run.column + run.size)
      got[run.start : run.start + run.size] = place[0, row, columns, 0]
    np.testing.assert_array_equal(got, expected[window])


@pytest.mark.parametrize(
  'batch, grid, window, images, together',
  [
    (32, (48, 48), 12, 1, 4),
    (32, (24, 24), 12, 2, 4),
    (6, (1, 144), 12, 3, 3),
    (32, (96, 96), 12, 1, 4),  # Eight windows in a row.
  ],
)
def test_a_step_takes_rows_of_windows_of_whole_images(
  batch, grid, window, images, together
):
  plan = plan_of(batch, grid, window, 4)
  assert (plan.images, plan.together) == (images, together)


def test_large_shifted_images_are_cut_outside():
  in_place = lambda *args, **kw: window_tiles.in_place(plan_of(*args, **kw))
  assert in_place(1, (48, 48), 12, 4, shift=6)
  assert in_place(1, (96, 96), 12, 4)
  assert not in_place(1, (96, 96), 12, 4, shift=6)
  assert not in_place(1, (21, 21), 7, 4, shift=3)


def mesh_of(platform, kind='any'):
  """One device of a kind that need not be here."""
  count = len(meshes.AXES)
  return AbstractMesh(
    (1,) * count,
    meshes.AXES,
    axis_types=(AxisType.Auto,) * count,
    abstract_device=AbstractDevice(kind, 1, platform),
  )


def traced(platform, engine='auto', heads=4, window=4, size=128):
  """`choose` on tokens of a mesh of a platform."""
  sharding = meshes.batch_sharding(mesh_of(platform)) if platform else None
  x = jax.ShapeDtypeStruct((2, 8, 8, size), jnp.float32, sharding=sharding)
  bias = jnp.zeros((heads, window**2, window**2))
  settings = dict(window=window, shift=window // 2)

  def layer(x):
    of = lambda f: lambda x: f(x, x, x, bias, jnp.ones(heads), **settings)
    return window_kernel.choose(
      x,
      plain=of(plain),
      fused=of(window_kernel.attend),
      window=window,
      heads=heads,
      engine=engine,
    )

  return jax.jit(layer).trace(x)


def chosen(platform, engine='auto', **sizes):
  """The program of `choose` for a platform."""
  found = traced(platform, engine, **sizes)
  name = {'gpu': 'cuda'}.get(platform, platform)
  return found.lower(lowering_platforms=(name,)).as_text()


def test_the_devices_of_the_tokens_choose():
  assert 'tpu_custom_call' in chosen('tpu')
  assert 'custom_call' not in chosen('cpu')
  assert 'custom_call' not in chosen('gpu')


@pytest.mark.parametrize('platform', ['cpu', 'gpu', None])
def test_where_no_kernel_runs_none_is_traced(platform):
  """Without a mesh the default backend chooses, which is a CPU here."""
  program = str(traced(platform).jaxpr)
  assert 'pallas_call' not in program and 'cond' not in program
  assert program == str(traced(platform, 'plain').jaxpr)


def test_engines_can_be_forced():
  assert 'custom_call' not in chosen('tpu', 'plain')
  assert 'tpu_custom_call' in chosen('tpu', 'fused')
  assert chosen('cpu', 'fused') != chosen('cpu', 'plain')
  with pytest.raises(ValueError, match="model.attention_engine='fast'"):
    chosen('cpu', 'fast')


@pytest.mark.parametrize(
  'window, kind, per_cycle',
  [
    (12, 'TPU v5', 2**17),
    (6, 'TPU v5', 2**17),
    (12, 'TPU v6 lite', 2**19),  # Wider units, which are filled no better.
  ],
)
def test_the_cost_of_a_kernel_is_what_its_schedule_takes(
  window, kind, per_cycle
):
  """Cycles a window and four heads; a roofline divides by the chip's peak."""
  sharding = meshes.batch_sharding(mesh_of('tpu', kind))
  x = jax.ShapeDtypeStruct(
    (4, 2 * window, 2 * window, 128), jnp.bfloat16, sharding=sharding
  )
  bias = jnp.zeros((4, window**2, window**2))

  def run(x):
    attend = functools.partial(window_kernel.attend, window=window)
    y, vjp = jax.vjp(lambda x: attend(x, x, x, bias, jnp.ones(4)), x)
    return vjp(y)

  program = str(jax.jit(run).trace(x).jaxpr)
  declared = re.findall(r'CostEstimate\(flops=(\d+)', program)
  cycles = [int(n) / per_cycle / 16 for n in dict.fromkeys(declared)]
  assert cycles == {12: [575, 1280], 6: [135, 240]}[window]


def test_sizes_without_a_kernel_take_the_plain_form_unless_forced():
  odd = dict(heads=6, size=6 * 24)  # 24 does not divide 128 lanes.
  assert 'custom_call' not in chosen('tpu', **odd)
  with pytest.raises(ValueError, match='6 heads of 24: at most 256'):
    chosen('tpu', 'fused', **odd)
  assert not window_tiles.supports(window=17, dim=128, heads=4)


@pytest.mark.parametrize('window, shift', [(4, 0), (4, 2), (3, 1)])
def test_devices_attend_to_their_own_images_without_gathering(window, shift):
  mesh = meshes.make_mesh(data=2, fsdp=2, expert=2)
  grid = (2 * window, 2 * window)
  inputs, dy = given(8, grid, window, 4)
  cut, whole = meshes.batch_sharding(mesh), meshes.replicated(mesh)
  spread = jax.device_put((inputs, dy), ((cut, cut, cut, whole, whole), cut))
  settings = (('window', window), ('shift', shift))
  compiled = value_and_gradients.lower(
    window_kernel.attend, *spread, (*settings, ('mesh', mesh))
  ).compile()
  text = compiled.as_text()
  assert 'all-gather' not in text and 'all-to-all' not in text
  assert 'all-reduce' in text  # Of the gradients of bias and scale.
  got = compiled(*spread)
  assert got[0].sharding.is_equivalent_to(cut, 4)
  expected = value_and_gradients(plain, inputs, dy, settings)
  for name, a, b in zip(NAMES, got, expected, strict=True):
    a, b = jax.device_get((a, b))
    error = float(np.abs(a - b).max() / np.abs(b).max())
    assert error < (FLOAT32_SUM if name == 'scale' else FLOAT32), (name, error)


def test_images_must_divide_over_the_devices():
  inputs, _ = given(6, (4, 4), 4, 1)
  with pytest.raises(ValueError, match='6 images do not divide over 8'):
    window_kernel.attend(*inputs, window=4, mesh=meshes.make_mesh(data=8))
