"""Boxes as rows of five numbers, horizontal and oriented ones alike.

A box is (cx, cy, w, h, angle): centre and sides in pixels, `w` along `angle`,
radians from +x towards +y (clockwise on screen). A horizontal box has angle 0.
An oriented one is in the le90 convention of mmrotate: w >= h, and an angle of
[-pi/2, pi/2).
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
SIZE = 5
_SIGNS = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])


def corners(boxes: Array) -> Array:
  """[..., 5] -> [..., 4, 2] as (x, y), in order around, first top left."""
  signs = jnp.asarray(_SIGNS.T, boxes.dtype).reshape(
    (2,) + (1,) * (boxes.ndim - 1) + (4,)
  )
  cx, cy, w, h, angle = (boxes[..., i, None] for i in range(SIZE))
  along, across = signs[0] * w, signs[1] * h
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return jnp.stack(
    [cx + along * cos - across * sin, cy + along * sin + across * cos], -1
  )


def from_corners(points: Array) -> Array:
  """Corners [..., 4, 2] of rectangles, in order around -> le90 [..., 5]."""
  centre = points.mean(-2)
  first = points[..., 1, :] - points[..., 0, :]
  second = points[..., 2, :] - points[..., 1, :]
  w = jnp.linalg.norm(first, axis=-1)
  h = jnp.linalg.norm(second, axis=-1)
  angle = jnp.arctan2(first[..., 1], first[..., 0])
  return le90(jnp.stack([centre[..., 0], centre[..., 1], w, h, angle], -1))


def wrap(angle: Array) -> Array:
  """Into [-pi/2, pi/2): a box looks alike after half a turn."""
  return (angle + np.pi / 2) % np.pi - np.pi / 2


def le90(boxes: Array) -> Array:
  """The same rectangles [..., 5] with w >= h and an angle of half a turn."""
  cx, cy, w, h, angle = (boxes[..., i] for i in range(SIZE))
  upright = h > w
  angle = wrap(jnp.where(upright, angle + np.pi / 2, angle))
  return jnp.stack([cx, cy, jnp.maximum(w, h), jnp.minimum(w, h), angle], -1)


def edges(boxes: Array) -> Array:
  """Horizontal boxes [..., 5] -> [..., 4] as x0, y0, x1, y1."""
  centre, half = boxes[..., :2], boxes[..., 2:4] / 2
  return jnp.concatenate([centre - half, centre + half], -1)


def from_edges(sides: Array) -> Array:
  """[..., 4] as x0, y0, x1, y1 -> horizontal boxes [..., 5]."""
  low, high = sides[..., :2], sides[..., 2:]
  flat = jnp.zeros_like(low[..., :1])
  return jnp.concatenate([(low + high) / 2, high - low, flat], -1)


def hull(boxes: Array) -> Array:
  """The horizontal boxes around oriented ones, [..., 5]."""
  points = corners(boxes)
  return from_edges(jnp.concatenate([points.min(-2), points.max(-2)], -1))


def clip(boxes: Array, size: tuple[int, int]) -> Array:
  """Horizontal boxes [..., 5] cut off at the border of (H, W) pixels."""
  x0, y0, x1, y1 = jnp.split(edges(boxes), 4, -1)
  height, width = size
  inside = [jnp.clip(x, 0, width) for x in (x0, x1)]
  below = [jnp.clip(y, 0, height) for y in (y0, y1)]
  return from_edges(
    jnp.concatenate([inside[0], below[0], inside[1], below[1]], -1)
  )


def iou(a: Array, b: Array) -> Array:
  """Overlap of horizontal boxes, intersection over union, f32[...].

  `a` and `b`, [..., 5], have one rank and broadcast.
  """
  one, other = edges(a), edges(b)
  low = jnp.maximum(one[..., :2], other[..., :2])
  high = jnp.minimum(one[..., 2:], other[..., 2:])
  both = jnp.maximum(high - low, 0).prod(-1)
  return over_union(both, a, b)


def over_union(intersection: Array, a: Array, b: Array) -> Array:
  """Intersections over the unions of boxes [..., 5]; 0 for empty boxes."""
  union = a[..., 2:4].prod(-1) + b[..., 2:4].prod(-1) - intersection
  return intersection / jnp.maximum(union, 1e-6)
