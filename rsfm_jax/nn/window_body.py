"""Window attention on TPU: what one grid step does, forward and backward.

The logits of one head come from all 128 lanes of its keys against its queries
with the other heads' lanes set to zero: on a matrix unit of 128 x 128 the zeros
cost nothing, since 32 rows take as long as 128, and nothing has to move across
lanes.

Each stage of the computation runs over all tiles and all windows of the step
before the next begins: the compiler then has independent work to hide the
latency of the matrix unit behind.
"""

import math
from typing import NamedTuple

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp

from rsfm_jax.nn import window_tiles

Array = jax.Array
Plan = window_tiles.Plan
Tile = window_tiles.Tile

LANES = window_tiles.LANES
# exp(x) is 2^(x log2 e) in hardware: the factor goes into queries and bias.
LOG2_E = math.log2(math.e)


def forward(*refs, plan: Plan, masked: bool):
  """The kernel of `window_pallas.forward`."""
  split = _split(refs, plan, masked, tokens=3, outs=1)
  (*gathered, results), (out,) = split.scratch, split.outs
  for bands, windows in zip(split.tokens, gathered, strict=True):
    _gather(bands, windows, plan)
  for first in range(0, results.shape[0], plan.together):
    _forward_windows(gathered, split.settings, results, first, plan)
  _scatter(results, out, plan)


def _forward_windows(gathered, settings, results, first, plan):
  """The windows of a step that are computed together, from `first` on."""
  each = range(first, first + plan.together)
  windows = [_window(gathered, settings, i, plan) for i in each]
  # Transposed first, not where it is used: nothing else can hide it there.
  turned = [w.v.T for w in windows]
  logits = [_logits(w.k, w.queries, plan) for w in windows]
  dtype, weights = results.dtype, []
  for x, window in zip(logits, windows, strict=True):
    parts = _softmaxes(x, settings, window, plan)
    weights.append([w._replace(e=w.e.astype(dtype)) for w in parts])
  for i, window in enumerate(windows):
    y = _by_query(weights[i], window.v, turned[i], dtype, plan)
    results[first + i] = y


class Gradients(NamedTuple):
  """By q, k, v, bias and scale; each of the shape of its argument."""

  q: Array
  k: Array
  v: Array
  bias: Array
  scale: Array


def backward(*refs, plan: Plan, masked: bool):
  """The kernel of `window_pallas.backward`."""
  split = _split(refs, plan, masked, tokens=4, outs=5)
  gathered, results = split.scratch[:4], split.scratch[4:]
  out = Gradients(*split.outs)

  @pl.when((pl.program_id(1) == 0) & (pl.program_id(2) == 0))
  def _start():
    out.bias[...] = jnp.zeros_like(out.bias)
    out.scale[...] = jnp.zeros_like(out.scale)

  for bands, windows in zip(split.tokens, gathered, strict=True):
    _gather(bands, windows, plan)
  for first in range(0, gathered[0].shape[0], plan.together):
    _backward_windows(gathered, split.settings, out, results, first, plan)
  for windows, ref in zip(results, (out.q, out.k, out.v), strict=True):
    _scatter(windows, ref, plan)


def _backward_windows(gathered, settings, out, results, first, plan):
  """The windows of a step that are computed together, from `first` on."""
  dtype = gathered[0].dtype
  each = range(first, first + plan.together)
  windows = [_window(gathered, settings, i, plan) for i in each]
  dy = [_expand(_real(gathered[3][i], plan), plan) for i in each]
  turned = [w.k.T for w in windows]
  logits = [_logits(w.k, w.queries, plan) for w in windows]
  weights, dweights = [], []
  for i, window in enumerate(windows):
    parts = _softmaxes(logits[i], settings, window, plan)
    weights.append(
      [w.e if w.inverse is None else w.e * w.inverse for w in parts]
    )
    dweights.append(_logits(window.v, dy[i], plan))
  dlogits = [
    [_dsoftmax(w, dw) for w, dw in zip(*pair, strict=True)]
    for pair in zip(weights, dweights, strict=True)
  ]
  for n, tile in enumerate(plan.tiles):
    out.bias[0, :, tile.lanes] += sum(row[n] for row in dlogits)
  dq_ref, dk_ref, dv_ref = results
  for i, window in enumerate(windows):
    cast = [x.astype(dtype) for x in dlogits[i]]
    dv_ref[first + i] = _by_key(weights[i], dy[i]).astype(dtype)
    # The queries hold log2(e), which is no part of the natural logits.
    dk = _by_key(cast, window.queries) * (1 / LOG2_E)
    parts = [Weights(x) for x in cast]
    dq = _by_query(parts, window.k, turned[i], jnp.float32, plan)
    q, k = (_real(gathered[n][first + i], plan) for n in (0, 1))
    unit = q.astype(jnp.float32)
    if plan.similarity == 'cosine':
      unit = unit * window.q_inverse
    out.scale[0] += (unit * dq).sum(0, keepdims=True)
    dq = dq * settings.scale[0]
    if plan.similarity == 'cosine':
      dq = _dunit(dq, unit, window.q_inverse, dtype, plan)
      unit = k.astype(jnp.float32) * window.k_inverse
      dk = _dunit(dk, unit, window.k_inverse, dtype, plan)
    dq_ref[first + i] = dq.astype(dtype)
    dk_ref[first + i] = dk.astype(dtype)


class Settings(NamedTuple):
  """References to what a step reads beside tokens; see `window_pallas`."""

  scale: jax.Ref
  bias: jax.Ref
  mask: jax.Ref | None = None
  kinds: jax.Ref | None = None


class Refs(NamedTuple):
  """All references of a step.

  Attributes:
    tokens: q, k, v (and dy), each a list of bands of a row of windows.
    settings: the rest of the inputs.
    outs: of the call.
    scratch: [windows, T, lanes] for each input and output of tokens.
  """

  tokens: list
  settings: Settings
  outs: list
  scratch: list


def _split(refs, plan: Plan, masked: bool, *, tokens: int, outs: int) -> Refs:
  """References in the order of `pallas_call`: inputs, outputs, scratch."""
  bands = [refs[i * plan.bands : (i + 1) * plan.bands] for i in range(tokens)]
  refs = refs[tokens * plan.bands :]
  count = 4 if masked else 2
  settings = Settings(*refs[:count])
  return Refs(bands, settings, refs[count : count + outs], refs[count + outs :])


def _gather(bands, windows, plan: Plan):
  """Tokens of a row of windows, in the order of the image, into windows."""
  height = plan.rows // plan.bands
  for i in range(windows.shape[0]):
    image, column = divmod(i, plan.across)
    for run in plan.runs(column):
      band, row = divmod(run.row, height)
      source = slice(run.column, run.column + run.size)
      target = slice(run.start, run.start + run.size)
      windows[i, target] = bands[band][image, row, source]


def _scatter(windows, out, plan: Plan):
  """Inverse of `_gather`."""
  for i in range(windows.shape[0]):
    image, column = divmod(i, plan.across)
    for run in plan.runs(column):
      row = run.row
      if plan.shift:
        top = pl.program_id(2) * plan.rows + plan.shift
        row = jax.lax.rem(top + row, plan.height)
      target = slice(run.column, run.column + run.size)
      source = slice(run.start, run.start + run.size)
      out[image, row, target] = windows[i, source]


class Window(NamedTuple):
  """One window and group of heads.

  Attributes:
    queries: [heads * T, lanes] of `_expand`, times scale and `LOG2_E`.
    k: [T, lanes].
    v: [T, lanes].
    mask: which mask the window takes, or None.
    q_inverse: f32[T, lanes], 1 / length of the head's query (cosine).
    k_inverse: f32[T, lanes], 1 / length of the head's key (cosine).
  """

  queries: Array
  k: Array
  v: Array
  mask: Array | None = None
  q_inverse: Array | None = None
  k_inverse: Array | None = None


class Weights(NamedTuple):
  """Softmax over keys: `e` [T, lanes] times `inverse` f32[1, lanes], or e."""

  e: Array
  inverse: Array | None = None


def _window(gathered, settings: Settings, i: int, plan: Plan) -> Window:
  dtype = gathered[0].dtype
  q, k, v = (_real(x[i], plan) for x in gathered[:3])
  scaled = q.astype(jnp.float32) * (settings.scale[0] * LOG2_E)
  q_inverse = k_inverse = kind = None
  if plan.similarity == 'cosine':
    q_inverse, k_inverse = _inverse_length(q, plan), _inverse_length(k, plan)
    scaled = scaled * q_inverse
    k = (k.astype(jnp.float32) * k_inverse).astype(dtype)
  if settings.mask is not None:
    image, column = divmod(i, plan.across)
    image = pl.program_id(1) * plan.images + image
    index = (image * plan.down + pl.program_id(2)) * plan.across + column
    kinds = settings.kinds
    kind = kinds[jax.lax.rem(index, kinds.shape[0])]
  queries = _expand(scaled.astype(dtype), plan)
  return Window(queries, k, v, kind, q_inverse, k_inverse)


def _logits(by_key: Array, expanded: Array, plan: Plan) -> list[Array]:
  """Per tile f32[T, lanes]: [T, lanes] against the rows of `_expand`."""
  return [_dot(by_key, expanded[tile.lanes], 1, 1) for tile in plan.tiles]


def _softmaxes(
  logits: list[Array], settings: Settings, window: Window, plan: Plan
) -> list[Weights]:
  """Per tile, with the bias of the heads and the mask of the window."""
  found = []
  for x, tile in zip(logits, plan.tiles, strict=True):
    x = x + settings.bias[0, :, tile.lanes]
    if window.mask is not None:
      end = tile.start + LANES if tile.start < plan.whole else None
      x = x + settings.mask[window.mask, :, tile.start : end]
    found.append(_softmax(x, tile))
  return found


def _softmax(x: Array, tile: Tile) -> Weights:
  """Over the keys; `x` are logits times log2(e).

  A whole tile leaves the division to the product that follows, which has
  fewer rows than there are keys.
  """
  e = jnp.exp2(x - x.max(0, keepdims=True))
  inverse = 1 / e.sum(0, keepdims=True)
  return Weights(e, inverse) if tile.size == LANES else Weights(e * inverse)


def _dsoftmax(weights: Array, dweights: Array) -> Array:
  inner = (weights * dweights).sum(0, keepdims=True)
  return weights * (dweights - inner)


def _by_query(
  tiles: list[Weights], x: Array, turned: Array, dtype: jnp.dtype, plan: Plan
) -> Array:
  """Sum over keys of weights times x [T, lanes], per head: [T, lanes].

  `turned` is x transposed: tiles of one head are the stationary operand of a
  product with 32 rows, and only its small result has to be transposed.
  """
  rows = []
  for start in range(0, plan.whole, LANES):
    first = start // LANES * plan.heads
    heads = []
    for h, (e, inverse) in enumerate(tiles[first : first + plan.heads]):
      y = _dot(_rows(turned, h, plan.head), e, 1, 0)
      heads.append(y if inverse is None else y * inverse)
    rows.append(jnp.concatenate(heads, 0).astype(dtype).T)
  if plan.whole < plan.tokens:
    y = _dot(tiles[-1].e, x, 0, 0)
    size = plan.tokens - plan.whole
    parts = [_keep(_rows(y, h, size), h, plan) for h in range(plan.heads)]
    rows.append(sum(parts).astype(dtype))
  return jnp.concatenate(rows, 0)


def _by_key(tiles: list[Array], expanded: Array) -> Array:
  """Sum over queries of weights times what `_expand` gave: f32[T, lanes]."""
  together = [tile.astype(expanded.dtype) for tile in tiles]
  return _dot(jnp.concatenate(together, 1), expanded, 1, 0)


def _expand(x: Array, plan: Plan) -> Array:
  """[T, lanes] -> [heads * T, lanes]: rows in the order of the tiles' lanes.

  A head's rows are zero in the lanes of other heads.
  """
  part = lambda tile: x[tile.start : tile.start + tile.size]
  rows = [_keep(part(tile), h, plan) for tile in plan.tiles for h in tile.heads]
  return jnp.concatenate(rows, 0)


def _keep(x: Array, head: int, plan: Plan) -> Array:
  """Zero but in the lanes of one head."""
  lane = jax.lax.broadcasted_iota(jnp.int32, (1, plan.lanes), 1)
  first = head * plan.head
  inside = (lane >= first) & (lane < first + plan.head)
  return jnp.where(inside, x, jnp.zeros_like(x))


def _real(x: Array, plan: Plan) -> Array:
  """Zero in lanes beyond the dim: what the last block holds there is undefined.

  Zeros of the expanded queries would not help: 0 times NaN is NaN.
  """
  if plan.dim % plan.lanes == 0:
    return x
  left = plan.dim - pl.program_id(0) * plan.lanes
  lane = jax.lax.broadcasted_iota(jnp.int32, (1, plan.lanes), 1)
  return jnp.where(lane < left, x, jnp.zeros_like(x))


def _rows(x: Array, index: int, size: int) -> Array:
  return x[index * size : (index + 1) * size]


def _inverse_length(x: Array, plan: Plan) -> Array:
  """f32[T, lanes]: 1 / Euclidean norm of the head that a lane belongs to."""
  square = jnp.square(x.astype(jnp.float32))
  total = _over_head(square, x.dtype, plan)
  return jax.lax.rsqrt(jnp.maximum(total, 1e-24))


def _dunit(
  dy: Array, unit: Array, inverse: Array, dtype: jnp.dtype, plan: Plan
) -> Array:
  """Gradient through x / |x|."""
  along = _over_head(unit * dy, dtype, plan)
  return inverse * (dy - unit * along)


def _over_head(x: Array, dtype: jnp.dtype, plan: Plan) -> Array:
  """Sum over the lanes of each head, in all of its lanes, by a product."""
  shape = (plan.lanes, plan.lanes)
  head = lambda axis: jax.lax.div(
    jax.lax.broadcasted_iota(jnp.int32, shape, axis), jnp.int32(plan.head)
  )
  ones = (head(0) == head(1)).astype(dtype)
  return _dot(x.astype(dtype), ones, 1, 0)


def _dot(a: Array, b: Array, axis_a: int, axis_b: int) -> Array:
  """Product in float32; float32 operands are not rounded to bfloat16."""
  exact = a.dtype == jnp.float32
  return jax.lax.dot_general(
    a,
    b,
    (((axis_a,), (axis_b,)), ((), ())),
    precision=jax.lax.Precision.HIGHEST if exact else None,
    preferred_element_type=jnp.float32,
  )
