"""A map of any size from windows: where they lie and how they are blended.

Pure geometry, in cells of the map: a pixel of the scene, or the square of
pixels of one token. Windows lie on a grid of `stride` cells; the last one of
an axis is moved back, so that it ends where the scene does. `halo` cells at
an edge of a window, where a model lacks context, do not count, but for edges
of the scene; where windows still overlap their weights fall linearly. Weights
are separable and sum to 1 in every cell.

The map is made panel by panel (a range of columns), each from top to bottom,
so that memory depends on window and panel alone.
"""

from collections.abc import Iterator
import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from rsfm_jax.data import raster


class Axis(NamedTuple):
  """Windows along rows or columns.

  Attributes:
    starts: first cell of each of N windows.
    weights: f32[N, size]; over all windows of a cell they sum to 1.
  """

  starts: tuple[int, ...]
  weights: np.ndarray


class Step(NamedTuple):
  """The windows of one row within one panel.

  Attributes:
    number: of the step; finished steps are a prefix of all.
    row: of `Mosaic.rows`.
    columns: indices of `Mosaic.columns` whose windows count in the panel.
    left: first column of the panel.
    right: one past its last.
    top: first row of the map that is not finished before the step.
    bottom: one past the last row that is finished by it.
    writes: whether rows `top` to `bottom` are wanted; steps before those that
      a resumed map begins with only add to what overlaps.
  """

  number: int
  row: int
  columns: tuple[int, ...]
  left: int
  right: int
  top: int
  bottom: int
  writes: bool


def axis(length: int, *, size: int, stride: int, halo: int) -> Axis:
  """Windows of `size` cells over `length` cells.

  A window that is longer than the axis reaches beyond its end.
  """
  last = max(length - size, 0)
  starts = tuple(min(at, last) for at in range(0, last + stride, stride))
  ramp = max(size - 2 * halo - stride, 1)
  place = np.arange(size) + 0.5
  weights = np.ones((len(starts), size))
  for k in range(len(starts)):
    if k > 0:
      weights[k] *= ((place - halo) / ramp).clip(0, 1)
    if k < len(starts) - 1:
      weights[k] *= ((size - halo - place) / ramp).clip(0, 1)
  total = np.zeros(max(length, size))
  for start, weight in zip(starts, weights):
    total[start : start + size] += weight
  for start, weight in zip(starts, weights):
    weight /= total[start : start + size]
  return Axis(starts, weights.astype(np.float32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mosaic:
  """Which windows a map is made of, in cells.

  Attributes:
    height: of the map.
    width: of the map.
    size: edge of a window.
    stride: from window to window.
    halo: at every edge of a window, where its output does not count.
    cell: pixels of the scene along one edge of a cell.
    panel: columns of a panel.
  """

  height: int
  width: int
  size: int
  stride: int
  halo: int
  cell: int = 1
  panel: int = 1024

  def __post_init__(self):
    pixels = f'{self.size * self.cell} pixels'
    if min(self.height, self.width, self.size, self.cell, self.panel) < 1:
      raise ValueError(f'{self}: every size must be at least 1.')
    if not 0 <= 2 * self.halo < self.size:
      raise ValueError(
        f'--halo {self.halo * self.cell} pixels on both sides leave nothing '
        f'of a window of {pixels}.'
      )
    if not 0 < self.stride <= self.size - 2 * self.halo:
      raise ValueError(
        f'--stride {self.stride * self.cell} must be within {self.cell} and '
        f'{(self.size - 2 * self.halo) * self.cell}: windows of {pixels} '
        f'count but for a halo of {self.halo * self.cell}.'
      )

  @functools.cached_property
  def rows(self) -> Axis:
    return axis(self.height, size=self.size, stride=self.stride, halo=self.halo)

  @functools.cached_property
  def columns(self) -> Axis:
    return axis(self.width, size=self.size, stride=self.stride, halo=self.halo)

  @property
  def panels(self) -> int:
    return -(-self.width // self.panel)

  def __len__(self) -> int:
    """Steps of the whole map."""
    return self.panels * len(self.rows.starts)

  def steps(self, done: int = 0) -> Iterator[Step]:
    """Steps from number `done` on, and those whose windows overlap them."""
    rows, columns = self.rows, self.columns
    count = len(rows.starts)
    bottoms = [start + self.halo for start in rows.starts[1:]] + [self.height]
    first_panel, first_row = divmod(done, count)
    for panel in range(first_panel, self.panels):
      left = panel * self.panel
      right = min(left + self.panel, self.width)
      used = _touching(columns, left, right)
      begin = first_row if panel == first_panel else 0
      top = bottoms[begin - 1] if begin else 0
      above = _touching(rows, top, top + 1)[0] if begin else 0
      for row in range(above, count):
        yield Step(
          number=panel * count + row,
          row=row,
          columns=used,
          left=left,
          right=right,
          top=bottoms[row - 1] if row else 0,
          bottom=bottoms[row],
          writes=row >= begin,
        )

  def pixels(self, step: Step) -> raster.Window:
    """What the windows of a step see; it may reach beyond the scene."""
    starts = [self.columns.starts[k] for k in step.columns]
    width = starts[-1] - starts[0] + self.size
    return raster.Window(
      self.rows.starts[step.row] * self.cell,
      starts[0] * self.cell,
      self.size * self.cell,
      width * self.cell,
    )


def _touching(windows: Axis, first: int, stop: int) -> tuple[int, ...]:
  """Windows that count for any cell of [first, stop)."""
  found = []
  for k, (start, weight) in enumerate(zip(*windows)):
    if (weight[max(first - start, 0) : max(stop - start, 0)] > 0).any():
      found.append(k)
  return tuple(found)
