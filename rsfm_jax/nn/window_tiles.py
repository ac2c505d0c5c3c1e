"""How window attention on TPU is cut: windows, heads and tiles of logits.

The unit of work is one window of T tokens and as many heads as 128 lanes hold
(four of 32). Logits stand with keys along sublanes and (head, query) along
lanes: queries are cut into tiles of 128 per head, and what 128 leaves of T is
one tile of all heads. So 144 queries of four heads take 4 x 128 + 64 lanes of
5 x 128 rather than 4 x 144 of 4 x 256, and no softmax crosses lanes.

A grid step takes a row of windows of one image or of a few small ones. Tokens
stay in the order of the image: a window is gathered in VMEM, where runs of its
rows cost a load and a store. A shift by half a window makes each row of windows
out of two bands of half its height, of which the last wraps around.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Similarity = Literal['dot', 'cosine']

LANES = 128
# Bytes of the queries of the windows that are computed together: four windows
# of 144 in bfloat16 are enough to hide latency.
TOGETHER = 4 * 144 * LANES * 2
# Logits of larger windows would not fit VMEM.
MAX_TOKENS = 256
# Elements of one block of tokens in bfloat16; half as many in float32. The
# backward pass holds three as large, each twice (one is computed while the
# other is moved), beside bias and logits in 16 MiB of VMEM. Tried with the
# compiler for v4, v5e, v5p and v6e: 48 x 48 tokens of 128 lanes fit.
MAX_BLOCK = 300 * 1024


class Tile(NamedTuple):
  """Lanes of the logits: `size` queries of each of `heads`."""

  heads: tuple[int, ...]
  start: int
  size: int
  lanes: slice


class Run(NamedTuple):
  """`size` neighbouring tokens: in a row of the grid and in their window."""

  row: int
  column: int
  start: int
  size: int


class Plan(NamedTuple):
  """Static sizes of a kernel on [B, H, W, N * K].

  Attributes:
    batch: B.
    height: H.
    width: W.
    rows: height of a window.
    columns: width of a window; (1, T) where windows are cut already.
    shift: 0, or half a window.
    dim: N * K.
    head: K.
    lanes: of a grid step: 128, or all of a smaller dim.
    itemsize: bytes of an element of tokens.
    similarity: 'cosine' divides queries and keys by their length first.
    images: of a grid step, a divisor of B.
    together: windows of a grid step that are computed together.
  """

  batch: int
  height: int
  width: int
  rows: int
  columns: int
  shift: int
  dim: int
  head: int
  lanes: int
  itemsize: int
  similarity: Similarity
  images: int
  together: int

  @property
  def tokens(self) -> int:
    return self.rows * self.columns

  @property
  def down(self) -> int:
    """Rows of windows in an image; a grid step takes one."""
    return self.height // self.rows

  @property
  def across(self) -> int:
    return self.width // self.columns

  @property
  def bands(self) -> int:
    """Blocks of tokens that make up a row of windows."""
    return 2 if self.shift else 1

  @property
  def groups(self) -> int:
    return -(-self.dim // self.lanes)

  @property
  def heads(self) -> int:
    """Heads of a group; the last group may hold fewer real ones."""
    return self.lanes // self.head

  @property
  def whole(self) -> int:
    """Queries in tiles of 128; the rest of all heads share a tile."""
    return self.tokens // LANES * LANES

  @property
  def tiles(self) -> tuple[Tile, ...]:
    found, at = [], 0
    for start in range(0, self.whole, LANES):
      for head in range(self.heads):
        found.append(Tile((head,), start, LANES, slice(at, at + LANES)))
        at += LANES
    rest = self.tokens - self.whole
    if rest:
      heads = tuple(range(self.heads))
      end = at + rest * self.heads
      found.append(Tile(heads, self.whole, rest, slice(at, end)))
    return tuple(found)

  def runs(self, window: int) -> tuple[Run, ...]:
    """Of the window so many to the right; rows count from the window's top."""
    found = []
    first = window * self.columns + self.shift
    for row in range(self.rows):
      start = row * self.columns
      inside = min(self.columns, self.width - first)
      found.append(Run(row, first, start, inside))
      if inside < self.columns:
        found.append(Run(row, 0, start + inside, self.columns - inside))
    return tuple(found)


def make_plan(
  q: Array, *, heads: int, window: int, shift: int, similarity: Similarity
) -> Plan:
  """The plan for queries [B, H, W, N * K]; H = 1 where windows are cut."""
  batch, height, width, dim = q.shape
  rows, columns = (window, window) if height > 1 else (1, window * window)
  plan = Plan(
    batch=0,
    height=height,
    width=width,
    rows=rows,
    columns=columns,
    shift=shift,
    dim=dim,
    head=dim // heads,
    lanes=min(LANES, dim),
    itemsize=q.dtype.itemsize,
    similarity=similarity,
    images=0,
    together=0,
  )
  return for_batch(plan, batch)


def for_batch(plan: Plan, batch: int) -> Plan:
  """The plan for another number of images, as a shard has."""
  size = plan.tokens * plan.lanes * plan.itemsize
  together = max(1, TOGETHER // size)
  images = _divisor(batch, max(1, together // plan.across))
  together = _divisor(images * plan.across, together)
  return plan._replace(batch=batch, images=images, together=together)


def _divisor(number: int, most: int) -> int:
  return max(n for n in range(1, most + 1) if number % n == 0)


def supports(window: int, dim: int, heads: int) -> bool:
  """Whether whole heads fill the lanes of a grid step, and VMEM the logits."""
  fits = dim <= LANES or LANES % (dim // heads) == 0
  return window * window <= MAX_TOKENS and fits


def in_place(plan: Plan) -> bool:
  """Whether windows can be gathered inside the kernel."""
  rows = plan.height if plan.shift else plan.rows
  block = plan.images * rows * plan.width * plan.lanes
  most = MAX_BLOCK * 2 // plan.itemsize
  return plan.shift * 2 in (0, plan.rows) and block <= most


def arrange_bias(bias: Array, plan: Plan) -> Array:
  """f32[N, T, T] by (query, key) -> f32[groups, T, heads * T] of the tiles."""
  extra = plan.groups * plan.heads - bias.shape[0]
  bias = jnp.pad(bias, ((0, extra), (0, 0), (0, 0)))
  bias = bias.reshape(plan.groups, plan.heads, plan.tokens, plan.tokens)
  bias = bias.transpose(0, 3, 1, 2)  # [groups, keys, heads, queries]
  whole = bias[..., : plan.whole].reshape(*bias.shape[:3], -1, LANES)
  whole = whole.swapaxes(2, 3)
  flat = lambda x: x.reshape(plan.groups, plan.tokens, -1)
  return jnp.concatenate([flat(whole), flat(bias[..., plan.whole :])], -1)


def arrange_mask(mask: Array, plan: Plan) -> Array:
  """f32[M, T, T], symmetric -> f32[M, T, whole + heads * rest]."""
  rest = [mask[..., plan.whole :]] * plan.heads
  return jnp.concatenate([mask[..., : plan.whole], *rest], -1)
