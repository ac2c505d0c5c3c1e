"""Products of sorted rows on CPU: loops over the experts and their blocks.

XLA on CPU has no grouped product: `jax.lax.ragged_dot` computes every expert on
every row. Here each expert's rows are walked in blocks of falling size, with a
trip count that follows the data: nothing is padded in memory, an expert without
rows costs nothing, and its weights are copied once, not once per block. A block
may reach past its expert by at most an eighth of its size (the last one by
more); those rows are masked.

Letters: N rows sorted by expert, E experts, D embed, F hidden.
"""

from collections.abc import Callable

import jax
from jax import export
import jax.numpy as jnp

from rsfm_jax.nn import mlp

Array = jax.Array

# The largest block's hidden rows should stay in a core's second-level cache.
_CACHE_BYTES = 2 << 20
_LARGEST, _SMALLEST = 1024, 32
# Each size is a loop of its own to compile.
_STEP = 4


def block_sizes(rows: int, hidden: int) -> tuple[int, ...]:
  """Falling powers of two, for `rows` rows of width `hidden`.

  They do not depend on the number of experts: a model from which unused experts
  were taken gives the same bits. The choice is not a delicate one: with d 256,
  hidden 1,024 and 8 experts on two cores, ladders from 256..16 to 512..32 gave
  layers within 3 % of each other at 4,096 tokens, and so did 512 and 1,024 at
  16,384 rows. A symbolic number of rows (`jax.export`) has the ladder of many.
  """
  top = _CACHE_BYTES // (4 * hidden)
  if not export.is_symbolic_dim(rows):
    top = min(top, rows)
  sizes = [1 << max(min(top, _LARGEST), 1).bit_length() - 1]
  while sizes[-1] > _SMALLEST:
    sizes.append(max(sizes[-1] // _STEP, _SMALLEST))
  return tuple(sizes)


def forward(
  rows: Array,
  counts: Array,
  weights: tuple[Array, ...],
  *,
  activation: mlp.Activation = 'gelu_tanh',
) -> tuple[Array, Array]:
  """(y [N, D], pre-activations [N, F]); zeros beyond the counts.

  Args:
    rows: [N, D], each expert's rows together, in the order of the experts.
    counts: i32[E], rows of each expert; their sum is at most N.
    weights: (w_in [E, D, F], b_in [E, F], w_out [E, F, D], b_out [E, D]).
    activation: one of `mlp.ACTIVATIONS`.
  """
  w_in, b_in, w_out, b_out = weights
  active = mlp.ACTIVATIONS[activation]
  number, width = rows.shape[0], w_in.shape[-1]
  sizes = block_sizes(number, width)
  if export.is_symbolic_dim(number):
    # Whatever the size will be, the largest block lies inside the array.
    rows = jnp.pad(rows, ((0, sizes[0]), (0, 0)))

  def expert(index, begin, end, carry):
    w_1, b_1, w_2, b_2 = (
      _at(w, index).astype(rows.dtype) for w in (w_in, b_in, w_out, b_out)
    )

    def block(carry, cut, put, live):
      del live
      y, hidden = carry
      h = _dot(cut(rows), w_1, 0) + b_1[None]
      out = _dot(active(h), w_2, 0) + b_2[None]
      return put(y, out), put(hidden, h)

    return _walk(begin, end, sizes, rows.shape[0], block, carry)

  hidden = jax.lax.full_like(rows, 0, shape=(rows.shape[0], width))
  carry = (jnp.zeros_like(rows), hidden)
  y, hidden = _each_expert(counts, expert, carry)
  return y[:number], hidden[:number]


def backward(
  rows: Array,
  counts: Array,
  weights: tuple[Array, ...],
  hidden: Array,
  dy: Array,
  *,
  activation: mlp.Activation = 'gelu_tanh',
) -> tuple[Array, ...]:
  """Gradients of `forward` for rows [N, D] and, in float32, the weights.

  Args:
    rows, counts, weights, activation: as in `forward`.
    hidden: [N, F], what `forward` returned.
    dy: [N, D].
  """
  w_in, _, w_out, _ = weights

  def expert(index, begin, end, carry):
    w_1, w_2 = (_at(w, index).astype(rows.dtype) for w in (w_in, w_out))

    def block(carry, cut, put, live):
      dx, *sums = carry
      x, h, g = (jnp.where(live, cut(v), 0) for v in (rows, hidden, dy))
      active, pull = jax.vjp(mlp.ACTIVATIONS[activation], h)
      (dh,) = pull(_dot(g, w_2, 1))
      terms = (
        _sum_rows(x, dh),
        dh.sum(0, dtype=jnp.float32),
        _sum_rows(g, active),
        g.sum(0, dtype=jnp.float32),
      )
      sums = [_add_at(s, t, index) for s, t in zip(sums, terms, strict=True)]
      return put(dx, _dot(dh, w_1, 1)), *sums

    return _walk(begin, end, sizes, rows.shape[0], block, carry)

  experts, dim, width = w_in.shape
  sizes = block_sizes(rows.shape[0], width)
  shapes = ((dim, width), (width,), (dim, width), (dim,))
  dw = [
    jax.lax.full_like(dy, 0, jnp.float32, (experts, *shape)) for shape in shapes
  ]
  dx, dw_in, db_in, dw_out, db_out = _each_expert(
    counts, expert, (jnp.zeros_like(rows), *dw)
  )
  # Summed as [E, D, F]: see `_sum_rows`.
  return dx, dw_in, db_in, dw_out.swapaxes(1, 2), db_out


def _each_expert(counts: Array, expert: Callable, carry):
  """Folds expert(index, first row, end, carry) over the experts."""
  ends = jnp.cumsum(counts)

  def body(index, carry):
    end = ends[index]
    return expert(index, end - counts[index], end, carry)

  return jax.lax.fori_loop(0, len(counts), body, carry)


def _walk(begin, end, sizes: tuple[int, ...], rows: int, block, carry):
  """Folds `block` over the rows from `begin` to `end`, large blocks first.

  block(carry, cut, put, live) gets `cut`, which takes its rows out of an array,
  `put`, which writes them where they are live, and live: bool[size, 1].
  """

  def loop(position, carry, size, slack):
    def body(state):
      position, carry = state
      # The last block of all would leave the array: it starts earlier.
      start = jnp.minimum(position, rows - size)
      at = start + jnp.arange(size, dtype=jnp.int32)
      live = ((at >= position) & (at < end))[:, None]
      cut = lambda v: jax.lax.dynamic_slice_in_dim(v, start, size)
      put = lambda v, new: jax.lax.dynamic_update_slice_in_dim(
        v, jnp.where(live, new, cut(v)), start, 0
      )
      return position + size, block(carry, cut, put, live)

    inside = lambda state: state[0] + (size - slack) <= end
    return jax.lax.while_loop(inside, body, (position, carry))

  position = begin
  for size in sizes:
    slack = size // 8 if size != sizes[-1] else size - 1
    position, carry = loop(position, carry, size, slack)
  return carry


def _dot(a: Array, b: Array, axis: int) -> Array:
  """Contracts the last axis of `a` with `axis` of `b`, in the dtype of `a`."""
  out = jax.lax.dot_general(
    a, b, (((1,), (axis,)), ((), ())), preferred_element_type=jnp.float32
  )
  return out.astype(a.dtype)


def _sum_rows(narrow: Array, wide: Array) -> Array:
  """[R, D], [R, F] -> f32[D, F].

  XLA's product over leading axes is slow on CPU, and up to twice as slow with
  the wide operand on the left. So the narrow one is transposed before, behind a
  barrier that keeps XLA from folding the transpose into the product: 1.0 to 1.9
  times as fast alone, within the noise of a whole layer.
  """
  return jax.lax.dot_general(
    jax.lax.optimization_barrier(narrow.T),
    wide,
    (((1,), (0,)), ((), ())),
    preferred_element_type=jnp.float32,
  )


def _at(stacked: Array, index: Array) -> Array:
  return jax.lax.dynamic_index_in_dim(stacked, index, keepdims=False)


def _add_at(stacked: Array, value: Array, index: Array) -> Array:
  """In place inside a loop: XLA fuses the slice, the sum and the update."""
  return jax.lax.dynamic_update_index_in_dim(
    stacked, _at(stacked, index) + value, index, 0
  )
