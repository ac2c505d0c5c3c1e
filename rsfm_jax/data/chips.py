"""Where chips are cut from a scene, and which are worth keeping."""

from typing import Literal

import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.data import raster

Cut = Literal['tile', 'centre']


def windows(
  height: int,
  width: int,
  *,
  size: int | None,
  stride: int | None = None,
  cut: Cut = 'tile',
) -> list[raster.Window]:
  """Windows of `size` x `size` pixels, row by row.

  `tile` covers the scene every `stride` pixels (default: `size`, no overlap);
  the last row and column move back to end at the edge, so that every pixel
  is in a chip. `centre` takes one chip from the middle. Without a size the
  whole scene is one chip.

  Raises:
    ValueError: the scene is smaller than a chip, or the stride is not within
      1..size (larger would leave pixels out).
  """
  choices.check(cut, ('tile', 'centre'), key='cut')
  if size is None:
    return [raster.Window(0, 0, height, width)]
  stride = stride or size
  if not 1 <= stride <= size:
    raise ValueError(f'stride={stride} must be within 1..{size}, the chip.')
  if min(height, width) < size:
    raise ValueError(f'a scene of {height} x {width} is smaller than {size=}.')
  if cut == 'centre':
    row, column = (height - size) // 2, (width - size) // 2
    return [raster.Window(row, column, size, size)]
  return [
    raster.Window(row, column, size, size)
    for row in _starts(height, size, stride)
    for column in _starts(width, size, stride)
  ]


def nodata_share(valid: np.ndarray) -> float:
  """Share of False in bool[H, W]."""
  return 1.0 - np.count_nonzero(valid) / valid.size


def _starts(length: int, size: int, stride: int) -> list[int]:
  starts = list(range(0, length - size + 1, stride))
  if starts[-1] + size < length:
    starts.append(length - size)
  return starts
