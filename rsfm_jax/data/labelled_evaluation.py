"""Labelled splits in order: whole images, crops, or windows that cover them."""

from collections.abc import Iterator
import dataclasses
from typing import Any, Literal, NamedTuple, get_args

import grain
import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.data import augment
from rsfm_jax.data import labelled
from rsfm_jax.data import labelled_cut
from rsfm_jax.data import pipeline
from rsfm_jax.data import tile_cut

Fit = Literal['native', 'crop', 'resize', 'tiles']
# What padding rows hold where it is not zero.
_FILL = {'index': -1, 'region': -1, 'day': -1}


def batches(
  data: labelled.Data,
  split: str,
  batch_size: int,
  *,
  fit: Fit = 'native',
  size: int | None = None,
  threads: int = 2,
) -> Iterator[pipeline.Batch]:
  """A split once, in order, without chance, in batches of one shape.

  Args:
    data: store, sensors and target.
    split: which split.
    batch_size: rows; the last batch is filled up, `valid` False.
    fit: `native` (all images have one size), centre `crop` or `resize` of
      the whole image to `size`, where targets take the nearest pixel; or
      `tiles`, which covers every image with windows of `size` pixels. Where
      they overlap at the far borders, the target is unlabelled in the later
      one, so that every pixel counts once (mmsegmentation would average).
    size: output pixels, square.
    threads: samples read at a time.

  Yields:
    what `labelled.batches` yields, and in 'place' index i64[B], which counts
    the samples of the store, -1 where padded.

  Raises:
    ValueError: see `labelled.batches`.
  """
  choices.check(fit, get_args(Fit), key='evaluation.fit')
  if (size is None) != (fit == 'native'):
    raise ValueError(f'fit={fit!r} does not go with size={size}.')
  indices, cutter = data.store.indices(split), data.cutter()
  samples: Any = labelled.Samples(data, indices)
  if fit == 'tiles':
    samples = _Tiles(samples, cutter, size)
    indices = indices[[number for number, _ in samples.windows]]
    ds = grain.MapDataset.source(samples).map(_Tile(cutter, size))
  else:
    first = cutter.shape(samples[0])
    ds = grain.MapDataset.source(samples)
    ds = ds.map(_Fitted(cutter, fit, size, first))
  ds = ds.batch(batch_size, drop_remainder=False)
  parts = pipeline.read(ds, step=0, workers=0, threads=threads)
  for start, part in zip(range(0, len(indices), batch_size), parts):
    part = labelled.counting(part)
    part[labelled_cut.PLACE]['index'] = indices[start : start + batch_size]
    yield {
      name: pipeline.pad(arrays, batch_size, fill=_FILL)
      for name, arrays in part.items()
    }


class Cover(NamedTuple):
  """A window of a cover of an image, and how much of it was seen before.

  Attributes:
    top, left: of the window.
    rows, columns: at its top and left that windows before it hold.
  """

  top: int
  left: int
  rows: int
  columns: int


def cover(shape: tuple[int, int], size: int) -> list[Cover]:
  """Windows of size x size pixels over all of an image, row by row.

  Raises:
    ValueError: the image is smaller than that.
  """
  if min(shape) < size:
    raise ValueError(
      f'evaluation.fit=tiles: an image of {shape[0]} x {shape[1]} pixels is '
      f'smaller than data.window.size={size}.'
    )
  sides = []
  for length in shape:
    starts = [min(at, length - size) for at in range(0, length, size)]
    sides.append([(at, i * size - at) for i, at in enumerate(starts)])
  return [
    Cover(top, left, rows, columns)
    for top, rows in sides[0]
    for left, columns in sides[1]
  ]


class _Tiles:
  """A Grain source of (sample, window) over the samples of another.

  Attributes:
    windows: (number of the sample, window) each.
  """

  def __init__(self, samples: labelled.Samples, cutter: Any, size: int):
    if cutter.target.kind not in labelled_cut.DENSE:
      raise ValueError(
        'evaluation.fit=tiles is for targets of pixels, not for '
        f'{cutter.target.kind}; use resize or crop.'
      )
    self.samples = samples
    self.windows = [
      (number, window)
      for number in range(len(samples))
      for window in cover(cutter.shape(samples[number]), size)
    ]

  def __len__(self) -> int:
    return len(self.windows)

  def __getitem__(self, i: int) -> tuple[labelled_cut.Sample, Cover]:
    number, window = self.windows[i]
    return self.samples[number], window


@dataclasses.dataclass(frozen=True)
class _Tile:
  """A window, its target unlabelled where others hold it already."""

  cutter: Any
  size: int

  def __call__(self, tile: tuple[labelled_cut.Sample, Cover]) -> pipeline.Batch:
    sample, window = tile
    box = augment.Box(window.top, window.left, self.size, self.size)
    out = self.cutter(sample, box, self.size)
    target = out[labelled_cut.PLACE]['target'].copy()
    codes = self.cutter.target.kind == 'codes'
    seen = tile_cut.UNLABELLED if codes else np.nan
    # The target may have another number of pixels than the window.
    rows, columns = (
      count * target.shape[-1] // self.size
      for count in (window.rows, window.columns)
    )
    target[..., :rows, :] = seen
    target[..., :columns] = seen
    out[labelled_cut.PLACE]['target'] = target
    return out


@dataclasses.dataclass(frozen=True)
class _Fitted:
  """One fixed window, nothing random."""

  cutter: Any
  fit: Fit
  size: int | None
  first: tuple[int, int]

  def __call__(self, sample: labelled_cut.Sample) -> pipeline.Batch:
    shape = self.cutter.shape(sample)
    if self.fit == 'native' and shape != self.first:
      raise ValueError(
        f'{sample.id} has {shape} pixels, the first image {self.first}; set '
        'evaluation.fit=crop or resize and evaluation.size.'
      )
    whole = augment.Box(0, 0, *shape)
    if self.fit != 'crop':
      return self.cutter(sample, whole, self.size)
    box, step = augment.centre_box(shape, self.size), self.cutter.step
    box = box._replace(top=box.top // step * step, left=box.left // step * step)
    return self.cutter(sample, box, self.size)
