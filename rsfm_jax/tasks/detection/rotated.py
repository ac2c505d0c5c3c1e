"""Overlap of oriented boxes: the exact area of a polygon, without a sort.

The border of the intersection of two convex polygons is what of each border
lies within the other. By Green's theorem its area is half the sum, over these
pieces from p + s d to p + t d, of (t - s) cross(p, d). A piece of an edge of a
rectangle within another rectangle is found by cutting a line at two slabs
(Liang and Barsky), so that all shapes are static.
"""

import jax
import jax.numpy as jnp

from rsfm_jax.tasks.detection import boxes as boxes_lib

Array = jax.Array
# Of edges of both boxes that lie on each other that of the first counts, if the
# boxes are on one side of it, and never that of the second: slabs are widened
# or narrowed by this share of the sides.
_MARGIN = 1e-5
_FLAT = 1e-9


def intersection(a: Array, b: Array) -> Array:
  """Areas f32[...] of boxes [..., 5] of one rank, which broadcast."""
  a, b = jnp.broadcast_arrays(a.astype(jnp.float32), b.astype(jnp.float32))
  # In the frame of `a`: what is large and equal cancels first.
  x, y = _turned(b[..., 0] - a[..., 0], b[..., 1] - a[..., 1], -a[..., 4])
  turn = b[..., 4] - a[..., 4]
  zero = jnp.zeros_like(turn)
  first = _edges(zero, zero, a[..., 2], a[..., 3], zero)
  second = _edges(x, y, b[..., 2], b[..., 3], turn)
  margin = _MARGIN * (a[..., 2] + a[..., 3])
  margin = jnp.minimum(margin, _MARGIN * (b[..., 2] + b[..., 3]))
  x, y, turn = (value[..., None] for value in (x, y, -turn))
  px, py = _turned(first[0] - x, first[1] - y, turn)
  dx, dy = _turned(first[2], first[3], turn)
  margin = margin[..., None]
  # The inside of a box is to the left of its edges.
  of_first = _inside(
    (px, py, dx, dy),
    b,
    x=(margin * jnp.sign(-dy), margin * jnp.sign(dy)),
    y=(margin * jnp.sign(dx), margin * jnp.sign(-dx)),
  )
  narrow = (-margin, -margin)
  of_second = _inside(second, a, x=narrow, y=narrow)
  area = _swept(first, of_first) + _swept(second, of_second)
  least = jnp.minimum(a[..., 2:4].prod(-1), b[..., 2:4].prod(-1))
  return jnp.clip(area, 0, jnp.maximum(least, 0))


def iou(a: Array, b: Array) -> Array:
  """Intersection over union f32[...]; `a` and `b` as in `intersection`."""
  return boxes_lib.over_union(intersection(a, b), a, b)


def _turned(x: Array, y: Array, angle: Array) -> tuple[Array, Array]:
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return x * cos - y * sin, x * sin + y * cos


def _edges(x, y, w, h, angle) -> tuple[Array, ...]:
  """Starts and directions (x, y, dx, dy) of four edges, each [..., 4]."""
  points = boxes_lib.corners(jnp.stack([x, y, w, h, angle], -1))
  steps = jnp.roll(points, -1, -2) - points
  return points[..., 0], points[..., 1], steps[..., 0], steps[..., 1]


def _inside(
  edges: tuple[Array, ...],
  box: Array,
  *,
  x: tuple[Array, Array],
  y: tuple[Array, Array],
) -> Array:
  """Share of each edge within the slabs of a box, seen in its frame.

  `x` and `y` are by how much each slab is wider at its lower and upper side.
  """
  start, stop = jnp.zeros_like(edges[0]), jnp.ones_like(edges[0])
  for at, step, side, margins in (
    (edges[0], edges[2], box[..., 2], x),
    (edges[1], edges[3], box[..., 3], y),
  ):
    half = side[..., None] / 2
    lower, upper = -half - margins[0], half + margins[1]
    flat = jnp.abs(step) < _FLAT
    safe = jnp.where(flat, 1.0, step)
    one, other = (lower - at) / safe, (upper - at) / safe
    within = (at >= lower) & (at <= upper)
    low = jnp.where(flat, jnp.where(within, 0.0, 2.0), jnp.minimum(one, other))
    high = jnp.where(
      flat, jnp.where(within, 1.0, -1.0), jnp.maximum(one, other)
    )
    start, stop = jnp.maximum(start, low), jnp.minimum(stop, high)
  return jnp.maximum(stop - start, 0)


def _swept(edges: tuple[Array, ...], share: Array) -> Array:
  """Area between the origin and the shares of edges, f32[...]."""
  x, y, dx, dy = edges
  return (share * (x * dy - y * dx)).sum(-1) / 2
