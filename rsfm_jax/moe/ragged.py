"""Products of sorted rows on TPU and GPU: grouped matrix products.

Forward is `jax.lax.ragged_dot`. Its gradients are a trap: XLA for TPU knows the
mode with a ragged row axis alone, copies transposed weights for it, and turns
the gradient of the weights into a product over every expert and every row. So
on TPU the gradients are the grouped kernels that JAX ships (megablox), which
read weights transposed in place and sum each expert's rows in float32.

On NVIDIA GPUs XLA turns all of `ragged_dot` into dense products (jaxlib 0.10.2,
openxla/xla pull request 40189 and its flag aside): E times the work. Tiles are
chosen by arithmetic on memory and traffic; nothing here was timed on a device.

Letters: N rows sorted by expert, E experts, I and J widths of a product.
"""

from typing import Literal

import jax
from jax.experimental.pallas.ops.tpu.megablox import ops as megablox
import jax.numpy as jnp

from rsfm_jax.nn import mlp

Array = jax.Array
Kernel = Literal['xla', 'megablox', 'interpret']

# Rows of a kernel's tile. Every border between experts costs about one tile
# more, so larger tiles waste more than they save.
_TILE_ROWS = 128
# What a kernel may hold of the 16 MiB that XLA gives it.
_VMEM_BYTES = 12 << 20

_BY_ROWS_TRANSPOSED = jax.lax.RaggedDotDimensionNumbers(
  (((1,), (2,)), ((), ())), [0], [0]
)
_OVER_ROWS = jax.lax.RaggedDotDimensionNumbers(
  (((0,), (0,)), ((), ())), [0], []
)


def forward(
  rows: Array,
  counts: Array,
  weights: tuple[Array, ...],
  *,
  activation: mlp.Activation = 'gelu_tanh',
) -> tuple[Array, Array]:
  """(y [N, D], pre-activations [N, F]); y is zero beyond the counts.

  Args:
    rows: [N, D], each expert's rows together, in the order of the experts.
    counts: i32[E], rows of each expert; their sum is at most N.
    weights: (w_in [E, D, F], b_in [E, F], w_out [E, F, D], b_out [E, D]).
    activation: one of `mlp.ACTIVATIONS`.
  """
  w_in, b_in, w_out, b_out = weights
  member = _member(rows, counts)
  hidden = product(rows, w_in, counts) + _spread(b_in, counts, member)
  y = product(mlp.ACTIVATIONS[activation](hidden), w_out, counts)
  y = y + _spread(b_out, counts, member)
  return jnp.where(_live(rows, counts), y, 0), hidden


def backward(
  rows: Array,
  counts: Array,
  weights: tuple[Array, ...],
  hidden: Array,
  dy: Array,
  *,
  activation: mlp.Activation = 'gelu_tanh',
) -> tuple[Array, ...]:
  """Gradients of `forward` for rows [N, D] and, in float32, the weights."""
  w_in, _, w_out, _ = weights
  live = _live(rows, counts)
  member = _member(rows, counts)
  # Kernels leave rows beyond the counts unwritten: anything may stand there.
  dy, hidden = jnp.where(live, dy, 0), jnp.where(live, hidden, 0)
  active, pull = jax.vjp(mlp.ACTIVATIONS[activation], hidden)
  (dh,) = pull(jnp.where(live, product_transposed(dy, w_out, counts), 0))
  dx = jnp.where(live, product_transposed(dh, w_in, counts), 0)
  return (
    dx,
    gradient(rows, dh, counts),
    _sum_by_expert(member, dh),
    gradient(active, dy, counts),
    _sum_by_expert(member, dy),
  )


def product(rows: Array, w: Array, counts: Array) -> Array:
  """[N, I] by [E, I, J] -> [N, J], in the dtype of `rows`."""
  # A float32 result would be rounded in a pass of its own.
  return jax.lax.ragged_dot(
    rows, w.astype(rows.dtype), counts, preferred_element_type=rows.dtype
  )


def product_transposed(
  rows: Array, w: Array, counts: Array, *, kernel: Kernel | None = None
) -> Array:
  """[N, J] by [E, I, J] -> [N, I]; kernel None is megablox on TPU alone."""
  w = w.astype(rows.dtype)

  def native(rows, w, counts):
    return jax.lax.ragged_dot_general(
      rows,
      w,
      counts,
      _BY_ROWS_TRANSPOSED,
      preferred_element_type=rows.dtype,
    )

  def kernels(rows, w, counts):
    n, inner, outer = rows.shape[0], w.shape[2], w.shape[1]
    out = megablox.backend.gmm(
      _whole_tiles(rows),
      w,
      counts,
      preferred_element_type=rows.dtype,
      tiling=product_tiles(inner, outer, rows.dtype.itemsize),
      transpose_rhs=True,
      interpret=kernel == 'interpret',
    )
    return out[:n]

  return _choose(kernel, native, kernels, rows, w, counts)


def gradient(
  a: Array, b: Array, counts: Array, *, kernel: Kernel | None = None
) -> Array:
  """[N, I], [N, J] -> f32[E, I, J], the sum over each expert's rows."""

  def native(a, b, counts):
    return jax.lax.ragged_dot_general(
      a, b, counts, _OVER_ROWS, preferred_element_type=jnp.float32
    )

  def kernels(a, b, counts):
    return megablox.backend.tgmm(
      _whole_tiles(a).swapaxes(0, 1),
      _whole_tiles(b),
      counts,
      preferred_element_type=jnp.float32,
      tiling=gradient_tiles(a.shape[1], b.shape[1]),
      interpret=kernel == 'interpret',
    )

  return _choose(kernel, native, kernels, a, b, counts)


def product_tiles(
  inner: int, outer: int, itemsize: int
) -> tuple[int, int, int]:
  """Tile of (rows, inner, outer): the whole inner axis where it fits.

  Then an expert's weights are read once, not once per tile of rows.
  """
  rows = _TILE_ROWS
  for parts in range(1, inner // 128 + 2):
    tile = _tile(inner, -(-inner // parts))
    # Operands are double buffered; so is the result, beside a float32 sum.
    free = _VMEM_BYTES - 2 * itemsize * rows * tile
    widest = free // (2 * itemsize * (tile + rows) + 4 * rows)
    if widest >= min(outer, 256):
      break
  return rows, tile, _tile(outer, max(widest, 128))


def gradient_tiles(width_a: int, width_b: int) -> tuple[int, int, int]:
  """Tile of (rows, I, J): a float32 sum and its double-buffered result."""
  area = _VMEM_BYTES // 12
  tile = _tile(width_a, 1536)
  return _TILE_ROWS, tile, _tile(width_b, max(area // tile, 128))


def _tile(size: int, limit: int) -> int:
  """At most `limit`, a multiple of 128 or all: as few and equal as can be."""
  if size <= limit:
    return size
  limit = max(limit // 128, 1) * 128
  tiles = -(-size // limit)
  return -(-size // tiles // 128) * 128


def _whole_tiles(rows: Array) -> Array:
  """The kernels want a whole number of tiles of rows."""
  return jnp.pad(rows, ((0, -rows.shape[0] % _TILE_ROWS), (0, 0)))


def _choose(kernel: Kernel | None, native, kernels, *args: Array) -> Array:
  if kernel is None:
    return jax.lax.platform_dependent(*args, tpu=kernels, default=native)
  return (native if kernel == 'xla' else kernels)(*args)


def _live(rows: Array, counts: Array) -> Array:
  """bool[N, 1], false beyond the counts."""
  return jnp.arange(rows.shape[0])[:, None] < counts.sum()


def _member(rows: Array, counts: Array) -> Array:
  """[N, E] in the dtype of `rows`: whose row it is, zeros beyond the counts."""
  at = jnp.arange(rows.shape[0])[:, None]
  ends = jnp.cumsum(counts)[None]
  inside = (at >= ends - counts[None]) & (at < ends)
  return inside.astype(rows.dtype)


def _spread(bias: Array, counts: Array, member: Array) -> Array:
  """[E, I] -> [N, I], each row its expert's: a product, not a gather."""
  # What an expert without rows holds must not pass through 0 * NaN.
  bias = jnp.where(counts[:, None] > 0, bias, 0).astype(member.dtype)
  return jnp.matmul(member, bias)


def _sum_by_expert(member: Array, values: Array) -> Array:
  """[N, E], [N, I] -> f32[E, I]."""
  return jnp.matmul(member.T, values, preferred_element_type=jnp.float32)
