"""Maps of whole scenes: windows in, blended strips out, memory flat.

While the device computes a batch of windows the next ones are read and the
last strip is written, each in a thread of its own. A strip is a function of
scene, model and plan, so whoever resumes a map makes the same bytes.
"""

from collections.abc import Callable, Iterator
from concurrent import futures
import functools
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from rsfm_jax.data import mosaic
from rsfm_jax.data import prefetch
from rsfm_jax.data import raster

# Pixels of a window: f32[..., H, W, C] as the model sees them, and bool[H, W].
# Or a tree of such images, where pixels may be a whole number of times larger.
Read = Callable[[raster.Window], tuple[Any, np.ndarray]]
# f32[B, ..., H, W, C] -> f32[B, h, w, K], K numbers that can be averaged.
Model = Callable[[Any], jax.Array]
# Cells of the map, f32[h, w, K] and bool[h, w]; then the number of the step.
Write = Callable[[raster.Window, np.ndarray, np.ndarray, int], None]


class Waited(NamedTuple):
  """Seconds of a map: in all, and how long the model had nothing to do.

  Attributes:
    seconds: from the first window on the device to the last write.
    reading: waited for windows.
    writing: waited for strips to be written, the last one left out.
  """

  seconds: float
  reading: float
  writing: float

  @property
  def share(self) -> float:
    return (self.reading + self.writing) / max(self.seconds, 1e-9)


def make(
  plan: mosaic.Mosaic,
  *,
  read: Read,
  model: Model,
  write: Write,
  batch_size: int,
  done: int = 0,
  advance: Callable[[int], object] = lambda windows: None,
) -> Waited:
  """Runs all windows of a plan through a model.

  Args:
    plan: the windows.
    read: called in a thread, in order.
    model: compiled once: every batch has one shape.
    write: called in another thread, in order, for every finished strip.
    batch_size: windows at a time.
    done: steps that were written before.
    advance: is told of windows as they are finished.
  """
  steps = list(plan.steps(done))
  batches = _batches(plan, steps, read, batch_size)
  writing = 0.0
  with (
    prefetch.to_device(batches, size=2) as ready,
    futures.ThreadPoolExecutor(1, 'write') as writer,
  ):
    found = _scores(ready, model)
    last: futures.Future | None = None
    begin, strip = None, None
    for step in steps:
      if strip is None or strip.left != step.left:
        strip = _Strip(plan, step)
      strip.add(step, found)
      begin = begin or time.perf_counter()
      advance(len(step.columns))
      scores, valid = strip.take(step)
      if not step.writes:
        continue
      if last is not None:
        waits = time.perf_counter()
        last.result()
        writing += time.perf_counter() - waits
      area = raster.Window(step.top, step.left, *valid.shape)
      last = writer.submit(write, area, scores, valid, step.number)
    if last is not None:
      last.result()
  seconds = time.perf_counter() - begin if begin else 0.0
  return Waited(seconds, ready.waited_seconds, writing)


def _batches(
  plan: mosaic.Mosaic,
  steps: list[mosaic.Step],
  read: Read,
  batch_size: int,
) -> Iterator[dict[str, Any]]:
  """Windows of every step, in batches of one shape."""
  size = plan.size * plan.cell
  for step in steps:
    area = plan.pixels(step)
    image, valid = read(area)
    at = [
      plan.columns.starts[k] * plan.cell - area.column for k in step.columns
    ]
    for i in range(0, len(at), batch_size):
      cut = functools.partial(
        _windows, at=at[i : i + batch_size], size=size, rows=batch_size
      )
      seen = cut(valid[..., None])[..., 0]
      yield {'image': jax.tree.map(cut, image), 'valid': seen}


def _windows(
  image: np.ndarray, *, at: list[int], size: int, rows: int
) -> np.ndarray:
  """Squares [rows, ..., s, s, C] of an image [..., s, W, C] of a step.

  Args:
    image: a row of windows; its pixels may be larger than those of the scene.
    at: first columns, at most `rows`, in pixels of the scene.
    size: of a window, in pixels of the scene.
    rows: of the batch; what is left is zero.
  """
  side = image.shape[-3]
  factor = size // side
  shape = rows, *image.shape[:-2], side, image.shape[-1]
  out = np.zeros(shape, image.dtype)
  for row, column in enumerate(at):
    first = column // factor
    out[row] = image[..., first : first + side, :]
  return out


def _scores(
  batches: Iterator[dict[str, jax.Array]], model: Model
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """(scores, valid) of batches; one computes while the last is used."""
  before = None
  for batch in batches:
    now = model(batch['image']), batch['valid']
    if before is not None:
      yield jax.device_get(before)
    before = now
  if before is not None:
    yield jax.device_get(before)


class _Strip:
  """Rows of a panel that are not finished yet."""

  def __init__(self, plan: mosaic.Mosaic, step: mosaic.Step):
    self.plan, self.left, self.right = plan, step.left, step.right
    self.top = step.top
    self._sum: np.ndarray | None = None
    self._valid = np.zeros((0, 0), bool)

  def add(
    self,
    step: mosaic.Step,
    found: Iterator[tuple[np.ndarray, np.ndarray]],
  ) -> None:
    """Adds the windows of a step, taking as many batches as they are."""
    plan, columns = self.plan, iter(step.columns)
    left = len(step.columns)
    down = plan.rows.weights[step.row]
    while left > 0:
      scores, valid = next(found)
      if self._sum is None:
        shape = plan.size, self.right - self.left
        self._sum = np.zeros((*shape, scores.shape[-1]), np.float32)
        self._valid = np.zeros(shape, bool)
      for window, seen in zip(scores[:left], _cells(valid, plan.cell)):
        self._blend(step.row, next(columns), down, window, seen)
      left -= len(scores)

  def _blend(self, row, column, down, window, seen) -> None:
    plan = self.plan
    start = plan.columns.starts[column]
    # The part of the window within the panel and below what is finished.
    first = max(self.left - start, 0)
    stop = min(self.right - start, plan.size)
    skip = self.top - plan.rows.starts[row]  # At least 0: see `steps`.
    across = plan.columns.weights[column, first:stop]
    weight = down[skip:, None] * across
    place = (
      slice(0, plan.size - skip),
      slice(start + first - self.left, start + stop - self.left),
    )
    self._sum[place] += window[skip:, first:stop] * weight[..., None]
    self._valid[place] |= seen[skip:, first:stop]

  def take(self, step: mosaic.Step) -> tuple[np.ndarray, np.ndarray]:
    """Finished rows, which leave the strip."""
    rows = step.bottom - self.top
    out = self._sum[:rows].copy(), self._valid[:rows].copy()
    for array in (self._sum, self._valid):
      array[: len(array) - rows] = array[rows:].copy()
      array[len(array) - rows :] = 0
    self.top = step.bottom
    return out


def _cells(valid: np.ndarray, cell: int) -> np.ndarray:
  """[B, H, W] of pixels -> [B, h, w], any pixel of a cell."""
  if cell == 1:
    return valid
  batch, height, width = valid.shape
  split = batch, height // cell, cell, width // cell, cell
  return valid.reshape(split).any((2, 4))
