"""Features of regions, upright or turned, from the levels of a pyramid.

He et al., "Mask R-CNN", RoIAlign, in mmcv's aligned form: the value of pixel i
lies at i + 0.5, a point more than one pixel outside the map is 0, and of others
outside the border counts. Regions of an angle are sampled along their sides,
as mmcv's RoIAlignRotated (clockwise).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
_FINEST = 14  # Strides of the finest level: 56 pixels at stride 4, mmdetection.


def levels(rois: Array, strides: Sequence[float]) -> Array:
  """Which level a region is taken from, i32[...] (Lin et al., FPN, eq. 1)."""
  side = jnp.sqrt(jnp.maximum(rois[..., 2] * rois[..., 3], 0))
  level = jnp.floor(jnp.log2(side / (_FINEST * strides[0]) + 1e-6))
  return jnp.clip(level, 0, len(strides) - 1).astype(jnp.int32)


def align(
  maps: Sequence[Array],
  strides: Sequence[float],
  rois: Array,
  *,
  size: int,
  points: int,
) -> Array:
  """Regions [B, R, 5] in pixels -> f32[B, R, size, size, C].

  Args:
    maps: [B, h, w, C], finest first.
    strides: pixels per place of each map.
    rois: no gradient reaches them.
    size: bins per side.
    points: sampling points per side of a bin, whose mean is taken.
  """
  rois = jax.lax.stop_gradient(rois)
  shapes = np.array([x.shape[1:3] for x in maps], np.int32)
  ends = np.cumsum(shapes.prod(1))
  batch, channels = len(rois), maps[0].shape[-1]
  flat = jnp.concatenate([x.reshape(batch, -1, channels) for x in maps], 1)
  level = levels(rois, strides)
  of = lambda values: jnp.asarray(values)[level][..., None]
  start = of((ends - shapes.prod(1)).astype(np.int32))
  height, width = of(shapes[:, 0]), of(shapes[:, 1])
  stride = of(np.asarray(strides, np.float32))
  pick = jax.vmap(lambda x, index: x[index])

  def sample(total, offset):
    """Adds the bilinear values at one point of every bin."""
    x, y = (place / stride - 0.5 for place in _places(rois, size, offset))
    seen = (x >= -1) & (x <= width) & (y >= -1) & (y <= height)
    x, y = jnp.clip(x, 0, width - 1), jnp.clip(y, 0, height - 1)
    left, top = jnp.floor(x), jnp.floor(y)
    for down in (0, 1):
      for right in (0, 1):
        row = jnp.minimum(top.astype(jnp.int32) + down, height - 1)
        column = jnp.minimum(left.astype(jnp.int32) + right, width - 1)
        weight = jnp.where(right, x - left, 1 - (x - left))
        weight *= jnp.where(down, y - top, 1 - (y - top))
        found = pick(flat, start + row * width + column)
        total += jnp.where(seen, weight, 0)[..., None] * found
    return total, None

  offsets = (jnp.arange(points, dtype=jnp.float32) + 0.5) / points
  pairs = jnp.stack(jnp.meshgrid(offsets, offsets), -1).reshape(-1, 2)
  zero = jnp.zeros((*rois.shape[:2], size * size, channels), jnp.float32)
  total, _ = jax.lax.scan(sample, zero, pairs)
  return (total / points**2).reshape(*rois.shape[:2], size, size, channels)


def _places(rois: Array, size: int, offset: Array) -> tuple[Array, Array]:
  """x and y, [B, R, size * size], of one point (f32[2]) of every bin."""
  bins = jnp.arange(size, dtype=jnp.float32)
  rows, columns = jnp.meshgrid(bins, bins, indexing='ij')
  along = ((columns + offset[0]) / size - 0.5).reshape(1, 1, -1)
  across = ((rows + offset[1]) / size - 0.5).reshape(1, 1, -1)
  cx, cy, w, h, angle = (rois[..., i, None] for i in range(5))
  along, across = along * w, across * h
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return cx + along * cos - across * sin, cy + along * sin + across * cos
