"""Boxes of objects as targets: an array of a record, cut with its image.

A record holds `boxes` f32[n, 6 or more]: (cx, cy, w, h, angle, class), centre
and sides in pixels, `w` along `angle`, radians from +x towards +y; further
columns are not read, and rows of class -1 are padding. A batch has the same six
columns, `data.max_boxes` rows an image.
"""

from collections.abc import Sequence

import numpy as np

from rsfm_jax.data import augment

COLUMNS = ('cx', 'cy', 'w', 'h', 'angle', 'class')
PADDING = -1
# Sides that are scaled alike, but for rounding, leave oriented boxes right.
_ALIKE = 0.01


def row(points: Sequence[Sequence[float]], label: int) -> np.ndarray:
  """One row from four corners of a rectangle (x, y), in order around.

  Corners drawn by hand are no exact rectangle: the sides are means of opposite
  edges, along the direction of the first pair. The longer one is `w`, the angle
  in [-pi/2, pi/2).
  """
  points = np.asarray(points, np.float64).reshape(4, 2)
  first = (points[1] - points[0] + points[2] - points[3]) / 2
  second = (points[2] - points[1] + points[3] - points[0]) / 2
  w, h = np.hypot(*first), np.hypot(*second)
  along = first if w >= h else second
  angle = np.arctan2(along[1], along[0])
  centre = points.mean(0)
  sides = max(w, h), min(w, h)
  return np.array([*centre, *sides, _wrapped(angle), label], np.float32)


def upright(sides: Sequence[float], label: int) -> np.ndarray:
  """One row from (x0, y0, x1, y1)."""
  x0, y0, x1, y1 = map(float, sides)
  middle = ((x0 + x1) / 2, (y0 + y1) / 2)
  return np.array([*middle, x1 - x0, y1 - y0, 0, label], np.float32)


def hull(boxes: np.ndarray) -> np.ndarray:
  """The horizontal boxes around oriented ones, [n, 6]."""
  out = boxes.copy()
  cos, sin = np.abs(np.cos(boxes[:, 4])), np.abs(np.sin(boxes[:, 4]))
  out[:, 2] = boxes[:, 2] * cos + boxes[:, 3] * sin
  out[:, 3] = boxes[:, 2] * sin + boxes[:, 3] * cos
  out[:, 4] = 0
  return out


def cut(
  boxes: np.ndarray, window: augment.Box, size: int | None, *, oriented: bool
) -> np.ndarray:
  """Boxes [n, 6] of a window, in its pixels: those with their centre in it.

  Horizontal boxes are cut off at the border of the window, oriented ones not.

  Args:
    boxes: [n, 6] in pixels of the stored image.
    window: within the image.
    size: pixels of the output, square; None keeps the window's own.
    oriented: else they have angle 0.

  Raises:
    ValueError: oriented boxes would be stretched.
  """
  width, height = (
    (window.width, window.height) if size is None else (size, size)
  )
  scale = np.array([width / window.width, height / window.height])
  if oriented and abs(scale[0] / scale[1] - 1) > _ALIKE:
    raise ValueError(
      f'a window of {window.height:g} x {window.width:g} pixels brought to '
      f'{height} x {width} would bend oriented boxes; pack square chips, or '
      'choose windows of their form by data.window.form=scale.'
    )
  boxes = boxes.copy()
  boxes[:, :2] = (boxes[:, :2] - (window.left, window.top)) * scale
  boxes[:, 2:4] *= scale
  inside = (boxes[:, :2] >= 0) & (boxes[:, :2] < (width, height))
  boxes = boxes[inside.all(1)]
  if oriented:
    return boxes
  low = np.maximum(boxes[:, :2] - boxes[:, 2:4] / 2, 0)
  high = np.minimum(boxes[:, :2] + boxes[:, 2:4] / 2, (width, height))
  boxes[:, :2], boxes[:, 2:4] = (low + high) / 2, high - low
  return boxes


def apply_symmetry(
  boxes: np.ndarray, number: int, size: float, *, oriented: bool
) -> np.ndarray:
  """Boxes [n, 6] where `augment.apply_symmetry` puts what they are around.

  Args:
    boxes: in an image of `size` x `size` pixels.
    number: 0 to 7, of the symmetry.
    size: side of the image.
    oriented: else quarter turns exchange the sides.
  """
  boxes = boxes.copy()
  if number % 2:
    boxes[:, 0] = size - boxes[:, 0]
    boxes[:, 4] = -boxes[:, 4]
  for _ in range(number // 2):
    x, y = boxes[:, 0].copy(), boxes[:, 1].copy()
    boxes[:, 0], boxes[:, 1] = y, size - x
    if oriented:
      boxes[:, 4] -= np.pi / 2
    else:
      boxes[:, 2:4] = boxes[:, [3, 2]]
  if oriented:
    boxes[:, 4] = _wrapped(boxes[:, 4])
  return boxes


def pad(boxes: np.ndarray, count: int) -> np.ndarray:
  """Fixed length: f32[count, 6], class -1 in padding.

  Raises:
    ValueError: more boxes than `count`; objects are never dropped silently.
  """
  if len(boxes) > count:
    raise ValueError(
      f'{len(boxes)} boxes are more than config.data.max_boxes={count}.'
    )
  out = np.zeros((count, len(COLUMNS)), np.float32)
  out[:, 5] = PADDING
  out[: len(boxes)] = boxes
  return out


def _wrapped(angle):
  return (angle + np.pi / 2) % np.pi - np.pi / 2
