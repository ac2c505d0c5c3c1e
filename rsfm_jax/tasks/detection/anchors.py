"""The boxes that a region proposal network starts from."""

from collections.abc import Sequence

import numpy as np


def grid(
  shape: tuple[int, int],
  stride: float,
  *,
  scale: float,
  ratios: Sequence[float],
) -> np.ndarray:
  """Horizontal anchors of a level, f32[rows * columns * ratios, 5].

  One of `scale * stride` pixels squared per ratio (height over width), centred
  at whole strides from the top left corner as in mmdetection; ratios change
  fastest, then columns.
  """
  rows, columns = shape
  root = np.sqrt(np.asarray(ratios, np.float64))
  sides = scale * stride * np.stack([1 / root, root], -1)
  y, x, which = np.meshgrid(
    np.arange(rows), np.arange(columns), np.arange(len(root)), indexing='ij'
  )
  out = np.zeros((*which.shape, 5))
  out[..., 0], out[..., 1] = x * stride, y * stride
  out[..., 2:4] = sides[which]
  return out.reshape(-1, 5).astype(np.float32)


def inside(anchors: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """bool[A]: horizontal anchors that do not leave (H, W) pixels."""
  half = anchors[:, 2:4] / 2
  low, high = anchors[:, :2] - half, anchors[:, :2] + half
  return (low >= 0).all(1) & (high < np.array(size[::-1])).all(1)
