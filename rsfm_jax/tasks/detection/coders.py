"""What a detector regresses: a box relative to the one it started from."""

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.tasks.detection import boxes as boxes_lib

Array = jax.Array
# A box grows by at most this factor in one step (mmdetection's default).
_MOST = abs(math.log(16 / 1000))


class Coder(Protocol):
  """Turns boxes into `size` numbers relative to a base, and back."""

  size: int

  def encode(self, base: Array, boxes: Array) -> Array:
    """[..., 5] and [..., 5] -> [..., size]."""

  def decode(self, base: Array, deltas: Array) -> Array:
    """[..., 5] and [..., size] -> [..., 5]."""


def _scaled(deltas: list[Array], stds: tuple[float, ...]) -> Array:
  return jnp.stack([delta / std for delta, std in zip(deltas, stds)], -1)


def _parts(deltas: Array, stds: tuple[float, ...]) -> list[Array]:
  return [deltas[..., i] * std for i, std in enumerate(stds)]


def _log(new: Array, old: Array) -> Array:
  """log(new / old), finite for the boxes of padding too."""
  return jnp.log(jnp.maximum(new, 1e-3) / jnp.maximum(old, 1e-3))


def _grown(side: Array, delta: Array) -> Array:
  return side * jnp.exp(jnp.clip(delta, -_MOST, _MOST))


@dataclasses.dataclass(frozen=True)
class Deltas:
  """dx / w, dy / h, log w, log h of horizontal boxes (R-CNN).

  Attributes:
    stds: what the numbers are divided by.
  """

  stds: tuple[float, ...] = (1.0,) * 4
  size: int = 4

  def encode(self, base: Array, boxes: Array) -> Array:
    cx, cy, w, h, _ = (base[..., i] for i in range(5))
    w, h = jnp.maximum(w, 1e-3), jnp.maximum(h, 1e-3)
    return _scaled(
      [
        (boxes[..., 0] - cx) / w,
        (boxes[..., 1] - cy) / h,
        _log(boxes[..., 2], w),
        _log(boxes[..., 3], h),
      ],
      self.stds,
    )

  def decode(self, base: Array, deltas: Array) -> Array:
    dx, dy, dw, dh = _parts(deltas, self.stds)
    cx, cy, w, h, _ = (base[..., i] for i in range(5))
    made = [cx + dx * w, cy + dy * h, _grown(w, dw), _grown(h, dh)]
    return jnp.stack([*made, jnp.zeros_like(dx)], -1)


@dataclasses.dataclass(frozen=True)
class Midpoints:
  """Oriented boxes from horizontal ones, by midpoint offsets.

  Xie et al., "Oriented R-CNN for Object Detection" (arXiv 2108.05699), eq. 1
  to 3: the box around the oriented one, and how far its top corner lies from
  the middle of the top side, its right corner from that of the right side, as
  shares of the sides. The parallelogram of a prediction becomes a rectangle
  by its longer diagonal. Where a side of the box is a side of the hull, the
  right one of two top corners counts and the lower one of two right corners,
  as in mmrotate.
  """

  stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 0.5, 0.5)
  size: int = 6

  def encode(self, base: Array, boxes: Array) -> Array:
    around, points = boxes_lib.hull(boxes), boxes_lib.corners(boxes)
    x, y = points[..., 0], points[..., 1]
    # A tenth of a pixel, as mmrotate: corners that are as good as level.
    top = y - y.min(-1, keepdims=True) <= 0.1
    right = x.max(-1, keepdims=True) - x <= 0.1
    far = jnp.finfo(x.dtype).min
    alpha = jnp.where(top, x, far).max(-1) - around[..., 0]
    beta = jnp.where(right, y, far).max(-1) - around[..., 1]
    plain = Deltas(self.stds[:4]).encode(base, around)
    sides = jnp.maximum(around[..., 2:4], 1e-3)
    offsets = _scaled(
      [alpha / sides[..., 0], beta / sides[..., 1]], self.stds[4:]
    )
    return jnp.concatenate([plain, offsets], -1)

  def decode(self, base: Array, deltas: Array) -> Array:
    around = Deltas(self.stds[:4]).decode(base, deltas[..., :4])
    alpha, beta = _parts(deltas[..., 4:], self.stds[4:])
    cx, cy, w, h, _ = (around[..., i] for i in range(5))
    alpha, beta = jnp.clip(alpha, -0.5, 0.5) * w, jnp.clip(beta, -0.5, 0.5) * h
    # Half diagonals, to the top and to the right corner.
    up = jnp.stack([alpha, -h / 2], -1)
    aside = jnp.stack([w / 2, beta], -1)
    lengths = [
      jnp.maximum(jnp.linalg.norm(d, axis=-1, keepdims=True), 1e-6)
      for d in (up, aside)
    ]
    longer = jnp.maximum(*lengths)
    up, aside = up * (longer / lengths[0]), aside * (longer / lengths[1])
    centre = jnp.stack([cx, cy], -1)
    points = [centre + d for d in (up, aside, -up, -aside)]
    return boxes_lib.from_corners(jnp.stack(points, -2))


@dataclasses.dataclass(frozen=True)
class RotatedDeltas:
  """Offsets along the sides of an oriented base, log sides, the turn.

  mmrotate's DeltaXYWHAOBBoxCoder with edge_swap and proj_xy: of the two ways
  to name the sides of a box that with the smaller turn is learnt.
  """

  stds: tuple[float, ...] = (1.0,) * 5
  size: int = 5

  def encode(self, base: Array, boxes: Array) -> Array:
    cx, cy, w, h, angle = (base[..., i] for i in range(5))
    gx, gy, gw, gh, ga = (boxes[..., i] for i in range(5))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    w, h = jnp.maximum(w, 1e-3), jnp.maximum(h, 1e-3)
    straight = boxes_lib.wrap(ga - angle)
    swapped = boxes_lib.wrap(ga - angle + np.pi / 2)
    keep = jnp.abs(straight) < jnp.abs(swapped)
    return _scaled(
      [
        ((gx - cx) * cos + (gy - cy) * sin) / w,
        ((gy - cy) * cos - (gx - cx) * sin) / h,
        _log(jnp.where(keep, gw, gh), w),
        _log(jnp.where(keep, gh, gw), h),
        jnp.where(keep, straight, swapped),
      ],
      self.stds,
    )

  def decode(self, base: Array, deltas: Array) -> Array:
    dx, dy, dw, dh, turn = _parts(deltas, self.stds)
    cx, cy, w, h, angle = (base[..., i] for i in range(5))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x = cx + dx * w * cos - dy * h * sin
    y = cy + dx * w * sin + dy * h * cos
    found = [x, y, _grown(w, dw), _grown(h, dh), angle + turn]
    return boxes_lib.le90(jnp.stack(found, -1))
