"""Both engines against a plain loop over the experts, values and gradients."""

import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.moe import blocks
from rsfm_jax.moe import grouped
from rsfm_jax.moe import ragged
from rsfm_jax.nn import mlp

# Sums of float32 products in another order, and a GELU whose slope cancels,
# relative to the largest entry.
REORDERED = 5e-6
# bf16 keeps 8 bits: hidden rows, GELU and output are each rounded once.
BF16 = 2e-2
ROWS, DIM, HIDDEN, EXPERTS = 300, 5, 7, 4

COUNTS = {
  'even': (75, 75, 75, 75),
  'uneven': (13, 170, 1, 116),
  'an empty expert': (140, 0, 100, 60),
  'empty ends': (0, 150, 150, 0),
  'all on the first': (300, 0, 0, 0),
  'all on the last': (0, 0, 0, 300),
  'rows left over': (40, 0, 33, 100),
  'no rows at all': (0, 0, 0, 0),
}
ENGINES = ('blocks', 'ragged')


def problem(rows=ROWS, dim=DIM, hidden=HIDDEN, experts=EXPERTS):
  """(rows [N, D], weights, cotangent [N, D]); nothing is zero."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), 'float32')
  weights = (
    draw(experts, dim, hidden) * dim**-0.5,
    draw(experts, hidden),
    draw(experts, hidden, dim) * hidden**-0.5,
    draw(experts, dim),
  )
  return draw(rows, dim), weights, draw(rows, dim)


def with_gradients(f, x, weights, cotangent):
  """{name: array} of f(x, *weights) and its pullback of the cotangent."""
  y, pull = jax.vjp(f, x, *weights)
  names = ('y', 'rows', 'w_in', 'b_in', 'w_out', 'b_out')
  return dict(zip(names, (y, *pull(cotangent)), strict=True))


def loop(counts):
  """One FFN after another on its own rows; zeros for what is left."""

  def f(x, w_in, b_in, w_out, b_out):
    out, begin = [], 0
    for e, count in enumerate(counts):
      hidden = x[begin : begin + count] @ w_in[e] + b_in[e][None]
      hidden = jax.nn.gelu(hidden, approximate=True)
      out.append(hidden @ w_out[e] + b_out[e][None])
      begin += count
    return jnp.concatenate([*out, jnp.zeros_like(x[begin:])])

  return f


@functools.partial(jax.jit, static_argnums=0)
def step(engine, counts, x, weights, cotangent):
  f = lambda x, *w: grouped.ffn(x, counts, *w, engine=engine)
  return with_gradients(f, x, weights, cotangent)


def run(engine, counts, *args):
  """Counts are data: every routing of a shape is one compiled program."""
  return step(engine, jnp.array(counts, jnp.int32), *args)


@functools.cache
def oracle(counts):
  return jax.jit(with_gradients, static_argnums=0)(loop(counts), *problem())


def same(got, expected, tolerance):
  assert got.keys() == expected.keys()
  for name, value in expected.items():
    largest = float(jnp.abs(value).max())
    np.testing.assert_allclose(
      got[name], value, rtol=0, atol=tolerance * largest, err_msg=name
    )


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('name', COUNTS)
def test_an_engine_equals_the_loop(engine, name):
  got = run(engine, COUNTS[name], *problem())
  same(got, oracle(COUNTS[name]), REORDERED)


@pytest.mark.parametrize('engine', ENGINES)
def test_the_counts_are_data(engine):
  """One compiled program serves every routing; the oracle is NumPy's."""
  x, weights, _ = problem()
  f = jax.jit(lambda counts: grouped.ffn(x, counts, *weights, engine=engine))
  x, weights = np.float64(x), [np.float64(w) for w in weights]
  for counts in COUNTS.values():
    expected = np.zeros_like(x)
    ends = np.cumsum(counts)
    for e, rows in enumerate(map(slice, ends - counts, ends)):
      h = x[rows] @ weights[0][e] + weights[1][e]
      h *= (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3))) / 2
      expected[rows] = h @ weights[2][e] + weights[3][e]
    got = f(jnp.array(counts, jnp.int32))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
  assert f._cache_size() == 1


@pytest.mark.parametrize('engine', ENGINES)
def test_what_stands_beyond_the_counts_is_never_read(engine):
  counts = COUNTS['rows left over']
  used = sum(counts)
  x, weights, cotangent = problem()
  expected = oracle(counts)
  poisoned = (v.at[used:].set(jnp.nan) for v in (x, cotangent))
  x, cotangent = poisoned
  got = run(engine, counts, x, weights, cotangent)
  same(got, expected, REORDERED)
  np.testing.assert_array_equal(got['y'][used:], 0)
  np.testing.assert_array_equal(got['rows'][used:], 0)


def test_an_expert_without_rows_may_hold_nan():
  """On CPU only: there `ragged_dot` multiplies unused experts by zeros."""
  counts = COUNTS['an empty expert']
  x, weights, cotangent = problem()
  expected = oracle(counts)
  poisoned = tuple(w.at[1].set(jnp.nan) for w in weights)
  got = run('blocks', counts, x, poisoned, cotangent)
  same(got, expected, REORDERED)
  for name in ('w_in', 'b_in', 'w_out', 'b_out'):
    np.testing.assert_array_equal(got[name][1], 0)


def test_biases_of_an_expert_without_rows_may_hold_nan():
  counts = COUNTS['an empty expert']
  x, (w_in, b_in, w_out, b_out), cotangent = problem()
  weights = (w_in, b_in.at[1].set(jnp.nan), w_out, b_out.at[1].set(jnp.nan))
  assert all(
    jnp.isfinite(v).all()
    for v in run('ragged', counts, x, weights, cotangent).values()
  )


@pytest.mark.parametrize('engine', ENGINES)
def test_bf16_rows_with_float32_weights(engine):
  """Products take bf16, gradients of the weights come back in float32."""
  args = problem(dim=32, hidden=48)
  expected = with_gradients(loop(COUNTS['uneven']), *args)
  x, weights, cotangent = args
  got = run(
    engine,
    COUNTS['uneven'],
    x.astype(jnp.bfloat16),
    weights,
    cotangent.astype(jnp.bfloat16),
  )
  assert got['y'].dtype == got['rows'].dtype == jnp.bfloat16
  assert all(got[n].dtype == jnp.float32 for n in ('w_in', 'b_in', 'w_out'))
  same({k: v.astype(jnp.float32) for k, v in got.items()}, expected, BF16)


@pytest.mark.parametrize('engine', ENGINES)
def test_sums_over_many_rows_stay_float32(engine):
  """4,099 needs more bits than bf16 has, and a bf16 sum would stop at 256."""
  n = 4099
  x = jnp.ones((n, 1), jnp.bfloat16)
  one = jnp.ones((1, 1))
  # Pre-activations of 8, whose GELU is 8 in any precision.
  weights = (one[None], 7 * one, one[None], one)
  got = run(engine, (n,), x, weights, jnp.ones((n, 1), jnp.bfloat16))
  np.testing.assert_array_equal(got['b_out'], [[n]])
  np.testing.assert_array_equal(got['w_out'], [[[8 * n]]])


def test_what_kernels_leave_unwritten_never_leaks(monkeypatch):
  """On TPU rows beyond the counts hold whatever the memory held."""
  counts = COUNTS['rows left over']
  args = problem()
  expected = oracle(counts)
  beyond = (np.arange(ROWS) >= sum(counts))[:, None]
  for name in ('product', 'product_transposed'):
    whole = getattr(ragged, name)
    dirty = lambda *a, f=whole: jnp.where(beyond, jnp.nan, f(*a))
    monkeypatch.setattr(ragged, name, dirty)
  # Traced anew: the cached program has the clean products.
  got = step.__wrapped__('ragged', jnp.array(counts, jnp.int32), *args)
  same(got, expected, REORDERED)


def test_the_written_vjp_equals_autodiff_of_ragged_dot():
  """The oracle of the kernels: JAX's own gradient of its own product."""
  counts = jnp.array(COUNTS['uneven'], jnp.int32)
  owner = np.repeat(np.arange(EXPERTS), COUNTS['uneven'])

  def plain(x, w_in, b_in, w_out, b_out):
    hidden = jax.lax.ragged_dot(x, w_in, counts) + b_in[owner]
    hidden = jax.nn.gelu(hidden, approximate=True)
    return jax.lax.ragged_dot(hidden, w_out, counts) + b_out[owner]

  args = problem()
  expected = jax.jit(with_gradients, static_argnums=0)(plain, *args)
  for engine in ENGINES:
    same(run(engine, COUNTS['uneven'], *args), expected, REORDERED)


@pytest.mark.parametrize('counts', [(140, 0, 100, 60), (40, 0, 33, 100)])
def test_the_kernels_of_the_tpu_equal_the_native_products(counts):
  """Interpreted on CPU; 300 rows are not a whole number of tiles."""
  x, (w, *_), _ = problem(dim=128, hidden=256)
  rng = np.random.default_rng(1)
  wide = jnp.asarray(rng.standard_normal((ROWS, 256)), 'float32')
  used = sum(counts)
  counts = jnp.array(counts, jnp.int32)
  back, grad = (
    [
      jax.jit(lambda *a, f=f, k=k: f(*a, counts, kernel=k))(*args)
      for k in ('interpret', 'xla')
    ]
    for f, args in (
      (ragged.product_transposed, (wide, w)),
      (ragged.gradient, (x, wide)),
    )
  )
  # A kernel leaves rows beyond the counts as they were.
  same({'rows': back[0][:used]}, {'rows': back[1][:used]}, REORDERED)
  same({'w': grad[0]}, {'w': grad[1]}, REORDERED)


@pytest.mark.parametrize(
  ('inner', 'outer'), [(5632, 1408), (1408, 5632), (448, 1792), (64, 32)]
)
def test_tiles_fit_the_fast_memory(inner, outer):
  """Whole axes or multiples of 128, what the TPU's layout allows."""
  rows, i, j = ragged.product_tiles(inner, outer, 2)
  held = 2 * 2 * (rows * i + i * j + rows * j) + 4 * rows * j
  assert held <= 14 << 20
  assert inner % i == 0 and (i == inner or i % 128 == 0)
  assert j == outer or j % 128 == 0
  rows, i, j = ragged.gradient_tiles(inner, outer)
  assert 12 * i * j + 2 * 2 * rows * (i + j) <= 14 << 20
  assert all(t == s or t % 128 == 0 for t, s in ((i, inner), (j, outer)))


@pytest.mark.parametrize(
  ('rows', 'hidden', 'expected'),
  [
    (4096, 1024, (512, 128, 32)),
    (36864, 64, (1024, 256, 64, 32)),
    (2304, 256, (1024, 256, 64, 32)),
    (100, 256, (64, 32)),
    (24, 8, (16,)),
    (1, 8, (1,)),
  ],
)
def test_block_sizes_by_hand(rows, hidden, expected):
  assert blocks.block_sizes(rows, hidden) == expected


def test_experts_without_rows_change_no_bit_of_the_others():
  """What extracting a sensor and dropping unused experts rely on."""
  x, weights, _ = problem(300, 16, 24, 4)
  counts = jnp.array([130, 0, 170, 0], jnp.int32)
  run = jax.jit(functools.partial(grouped.ffn, engine='blocks'))
  used = np.array([0, 2])
  np.testing.assert_array_equal(
    run(x, counts, *weights), run(x, counts[used], *(w[used] for w in weights))
  )


def test_no_copy_of_the_weights_per_block():
  """The trap this module avoids: [blocks, D, F] picked and scatter-added."""
  rows, dim, hidden, experts = 1024, 40, 48, 3
  x, weights, cotangent = problem(rows, dim, hidden, experts)
  counts = jnp.array([500, 24, 500], jnp.int32)

  def sizes(f):
    step = lambda x, w, ct: with_gradients(f, x, w, ct)
    text = jax.jit(step).lower(x, weights, cotangent).as_text()
    found = re.findall(r'tensor<([\dx]+)x[a-z]+\d+>', text)
    return {int(np.prod([int(d) for d in s.split('x')])) for s in found}

  largest = max(rows * hidden, experts * dim * hidden)
  for_blocks = lambda x, *w: grouped.ffn(x, counts, *w, engine='blocks')
  assert max(sizes(for_blocks)) == largest
  picked = jnp.repeat(jnp.arange(3), 11, total_repeat_length=32)
  per_block = lambda x, *w: mlp.stacked_ffn(
    x.reshape(32, 32, dim), *(v[picked] for v in w)
  ).reshape(x.shape)
  # The check sees the trap where it is.
  assert max(sizes(per_block)) >= 32 * dim * hidden > largest


def test_the_platform_decides_when_the_program_is_lowered():
  """One traced function holds loops for CPU and grouped products for TPU."""
  x, weights, _ = problem(dim=128, hidden=128)
  counts = jnp.array(COUNTS['even'], jnp.int32)
  traced = jax.jit(lambda x: grouped.ffn(x, counts, *weights)).trace(x)
  on_cpu, on_tpu = (
    traced.lower(lowering_platforms=(p,)).as_text() for p in ('cpu', 'tpu')
  )
  assert 'stablehlo.while' in on_cpu and 'ragged_dot' not in on_cpu
  assert 'ragged_dot' in on_tpu and 'stablehlo.while' not in on_tpu


def test_it_works_under_scan_and_remat():
  """A stage scans its blocks and computes them again in the backward pass."""
  x, weights, cotangent = problem()
  counts = COUNTS['uneven']
  stacked = tuple(jnp.stack([w, 2 * w]) for w in weights)
  array = jnp.array(counts, jnp.int32)

  def scanned(x, *stacked):
    layer = jax.checkpoint(lambda x, w: (grouped.ffn(x, array, *w), None))
    return jax.lax.scan(layer, x, stacked)[0]

  def plain(x, *stacked):
    for i in range(2):
      x = loop(counts)(x, *(w[i] for w in stacked))
    return x

  got, expected = (
    jax.jit(with_gradients, static_argnums=0)(f, x, stacked, cotangent)
    for f in (scanned, plain)
  )
  same(got, expected, 10 * REORDERED)


def test_wrong_input_is_refused():
  x, weights, _ = problem()
  counts = jnp.array(COUNTS['even'], jnp.int32)
  with pytest.raises(ValueError, match=r"engine='fast' .*'blocks', 'ragged'"):
    grouped.ffn(x, counts, *weights, engine='fast')
  with pytest.raises(ValueError, match=r'rows \(300, 5\) and weights'):
    grouped.ffn(x, counts[:3], *weights)


@pytest.mark.parametrize('rows', [1, 40, 300])
def test_a_symbolic_number_of_rows_gives_the_same(rows):
  """Fewer than a block too: `jax.export` knows the number when it runs."""
  (number,) = jax.export.symbolic_shape('n')
  x, weights, _ = problem()
  counts = jnp.asarray([rows // 2, 0, rows - rows // 2, 0], jnp.int32)
  like = lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype)
  f = jax.jit(functools.partial(grouped.ffn, engine='blocks'))
  exported = jax.export.export(f)(
    jax.ShapeDtypeStruct((number, DIM), x.dtype),
    like(counts),
    *map(like, weights),
  )
  got = exported.call(x[:rows], counts, *weights)
  want = loop(np.asarray(counts))(x[:rows], *weights)
  assert got.shape == (rows, DIM)
  np.testing.assert_allclose(got, want, atol=REORDERED * np.abs(want).max())
