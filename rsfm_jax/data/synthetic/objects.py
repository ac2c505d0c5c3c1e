"""Things on the ground as rotated boxes, and the pixels that they cover.

A box is a row of COLUMNS: centre and size in pixels (`w` along `angle`, `h`
across), `angle` in radians from +x towards +y, class and track number.
"""

import enum
from typing import NamedTuple

import numpy as np

COLUMNS = ('cx', 'cy', 'w', 'h', 'angle', 'class', 'track')


class Thing(enum.IntEnum):
  """Codes of the `class` column; PADDING fills a fixed-length array."""

  PADDING = -1
  BUILDING = 0
  SHIP = 1
  VEHICLE = 2
  STORAGE_TANK = 3


class Pixels(NamedTuple):
  """Pixels covered by boxes; a pixel under two boxes appears twice."""

  row: np.ndarray  # [P]
  column: np.ndarray  # [P]
  box: np.ndarray  # [P] index into the boxes.
  along: np.ndarray  # [P] offset from the centre along `angle`, in pixels.
  across: np.ndarray  # [P]


def boxes(
  centre: np.ndarray,
  length: np.ndarray | float,
  width: np.ndarray | float,
  angle: np.ndarray | float,
  thing: Thing,
) -> np.ndarray:
  """Rows of COLUMNS from centres [n, 2]; tracks are given later."""
  out = np.zeros((len(centre), len(COLUMNS)), np.float32)
  out[:, :2] = centre
  columns = (length, width, angle, float(thing), -1.0)
  for i, column in enumerate(columns, start=2):
    out[:, i] = column
  return out


def corners(box: np.ndarray) -> np.ndarray:
  """The four corners of boxes [n, 5+], in order around. [n, 4, 2] as x, y."""
  signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32) / 2
  offset = signs * box[:, None, 2:4]
  cos, sin = np.cos(box[:, 4])[:, None], np.sin(box[:, 4])[:, None]
  x = offset[..., 0] * cos - offset[..., 1] * sin
  y = offset[..., 0] * sin + offset[..., 1] * cos
  return np.stack([x, y], -1) + box[:, None, :2]


def axis_aligned(box: np.ndarray, size: int | None = None) -> np.ndarray:
  """Upright boxes around rotated ones: [n, 4] as x0, y0, x1, y1.

  With `size`, clipped to the image.
  """
  points = corners(box)
  out = np.concatenate([points.min(1), points.max(1)], -1)
  return out if size is None else np.clip(out, 0, size)


def rasterise(box: np.ndarray, size: int) -> Pixels:
  """Pixels whose centre lies in a box; storage tanks are round.

  Args:
    box: [n, 7].
    size: height and width of the image.
  """
  reach = np.ceil(np.hypot(box[:, 2], box[:, 3]).max(initial=0) / 2) + 1
  span = np.arange(-reach, reach + 1)
  shape = (len(box), len(span), len(span))
  column = np.broadcast_to((np.floor(box[:, :1]) + span)[:, None, :], shape)
  row = np.broadcast_to((np.floor(box[:, 1:2]) + span)[:, :, None], shape)
  dx = column + 0.5 - box[:, 0, None, None]
  dy = row + 0.5 - box[:, 1, None, None]
  cos = np.cos(box[:, 4])[:, None, None]
  sin = np.sin(box[:, 4])[:, None, None]
  along, across = dx * cos + dy * sin, dy * cos - dx * sin
  u, v = along / box[:, 2, None, None], across / box[:, 3, None, None]
  inside = np.maximum(np.abs(u), np.abs(v)) <= 0.5
  round_thing = (box[:, 5] == Thing.STORAGE_TANK)[:, None, None]
  inside &= ~round_thing | (u * u + v * v <= 0.25)
  inside &= (row >= 0) & (row < size) & (column >= 0) & (column < size)
  which, i, j = np.nonzero(inside)
  index = (which, i, j)
  return Pixels(
    row[index].astype(np.intp),
    column[index].astype(np.intp),
    which,
    along[index],
    across[index],
  )


def capacity(size: int) -> int:
  """Most boxes of an image: rows of the padded arrays."""
  return 64 * max(1, round((size / 64) ** 2))


def pad(box: np.ndarray, count: int) -> np.ndarray:
  """Fixed length: [count, 7] float32; class and track are -1 in padding.

  Raises:
    ValueError: more boxes than `count`; objects are never dropped silently.
  """
  if len(box) > count:
    raise ValueError(f'{len(box)} boxes do not fit in {count} rows.')
  out = np.zeros((count, len(COLUMNS)), np.float32)
  out[:, 5:] = float(Thing.PADDING)
  out[: len(box)] = box
  return out
