"""One labelled sample: image, or images of two dates, and target, cut alike."""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.data import adapt
from rsfm_jax.data import augment
from rsfm_jax.data import boxes as boxes_lib
from rsfm_jax.data import pipeline
from rsfm_jax.data import tile_cut

Kind = Literal[
  'class', 'bits', 'number', 'codes', 'numbers', 'boxes', 'oriented_boxes'
]
Pair = Literal['none', 'after']
Form = Literal['whole', 'area', 'scale']
LABEL = 'label'
PLACE = 'place'
SCENE = ('class', 'bits', 'number')
DENSE = ('codes', 'numbers')
BOXES = ('boxes', 'oriented_boxes')
DTYPES = {
  'class': np.int32,
  'bits': np.int32,
  'number': np.float32,
  'codes': np.uint8,
  'numbers': np.float32,
  'boxes': np.float32,
  'oriented_boxes': np.float32,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
  """What is to be predicted.

  Attributes:
    name: 'label', or an array of the records.
    kind: 'class', 'bits' or 'number' per scene; 'codes' or 'numbers' per pixel;
      'boxes' (the hulls of oriented ones) or 'oriented_boxes' of objects.
    classes: K, or the number of bits; 0 where there are none.
    pair: 'after' adds the array `<name>_after`, of the second of two dates.
    count: rows of boxes, `data.max_boxes`.
  """

  name: str
  kind: Kind
  classes: int = 0
  pair: Pair = 'none'
  count: int = 0

  def __post_init__(self):
    choices.check(self.kind, get_args(Kind), key='kind of a target')
    if (self.kind in SCENE) != (self.name == LABEL):
      raise ValueError(
        f'data.target={self.name!r} holds no {self.kind}: the label of a scene '
        'is in the index, what belongs to places in it in an array of the '
        'records.'
      )
    if self.kind in BOXES and self.count < 1:
      raise ValueError(
        f'config.data.max_boxes={self.count} must be at least 1: the most '
        'objects that an image may have.'
      )
    if self.kind == 'codes' and self.classes > tile_cut.UNLABELLED:
      raise ValueError(
        f'{self.classes} classes: {tile_cut.UNLABELLED} stands for unlabelled.'
      )

  @property
  def arrays(self) -> tuple[str, ...]:
    """Of a target of pixels, the arrays of its dates."""
    later = (f'{self.name}_after',) if self.pair == 'after' else ()
    return (self.name, *later)

  def shape(self, side: int) -> tuple[int, ...]:
    """Of one sample in a window; `side` is that of a target of pixels."""
    dates = (2,) if self.pair == 'after' else ()
    boxes = (self.count, len(boxes_lib.COLUMNS))
    return {
      'bits': (self.classes,),
      **dict.fromkeys(DENSE, (*dates, side, side)),
      **dict.fromkeys(BOXES, boxes),
    }.get(self.kind, ())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
  """Which part of an image a training step sees.

  Attributes:
    size: pixels of the output, square.
    form: 'whole' resamples the whole image; 'area' takes a window of random
      area and aspect; 'scale' one of size / scale pixels, for a random scale,
      or the largest that fits into a smaller image (where mmsegmentation's
      RandomResize and RandomCrop would add a border).
    area: range of the window's share of the image.
    aspect: range of width / height of the window.
    scale: range; (1, 1) is a plain random crop.
    symmetry: none, flip (left-right, half of the time) or d4 (all eight).
    filter: how the image is resampled; targets take the nearest pixel.
  """

  size: int
  form: Form = 'whole'
  area: tuple[float, float] = (0.08, 1.0)
  aspect: tuple[float, float] = (3 / 4, 4 / 3)
  scale: tuple[float, float] = (1.0, 1.0)
  symmetry: augment.Symmetry = 'none'
  filter: augment.Filter = 'bilinear'

  def __post_init__(self):
    choices.check(self.form, get_args(Form), key='data.window.form')
    if not 0 < self.scale[0] <= self.scale[1]:
      raise ValueError(
        f'data.window.scale={self.scale} must be a positive range.'
      )
    self._crop()  # Checks the rest.

  def _crop(self) -> augment.Crop:
    return augment.Crop(
      size=self.size,
      area=self.area,
      aspect=self.aspect,
      symmetry=self.symmetry,
      filter=self.filter,
    )

  def box(
    self, rng: np.random.Generator, shape: Sequence[int], step: int = 1
  ) -> augment.Box:
    """The window within an image of (H, W) pixels, on every `step`-th."""
    if self.form == 'whole':
      return augment.Box(0, 0, *shape)
    if self.form == 'area':
      return augment.random_box(rng, shape, self._crop())
    low, high = (math.log(value) for value in self.scale)
    side = round(self.size / math.exp(rng.uniform(low, high)))
    side, shape = side // step, [length // step for length in shape]
    box = augment.exact_box(rng, shape, max(1, min(side, *shape)))
    return augment.Box(*(step * value for value in box))


class Sample(NamedTuple):
  """A record with what the index says of it; the label is that of a scene."""

  arrays: dict[str, np.ndarray]
  id: str
  label: Any
  lonlat: Sequence[float] | None = None
  date: str | None = None


@dataclasses.dataclass(frozen=True)
class Cutter:
  """Cuts image and target of a sample by one window; picklable."""

  adapter: adapt.Adapter
  target: Target
  pair: Pair

  step = 1  # Pixels between places where a window may lie.

  def shape(self, sample: Sample) -> tuple[int, int]:
    return self.adapter.shape(sample.arrays)

  def __call__(
    self,
    sample: Sample,
    box: augment.Box,
    size: int | None,
    *,
    symmetry: int = 0,
    filter: augment.Filter = 'bilinear',
    rng: np.random.Generator | None = None,
  ) -> pipeline.Batch:
    del rng  # One image, or a pair: there is nothing to choose.
    cut = lambda record: self.adapter(
      record, box, size, symmetry=symmetry, filter=filter
    )
    entry = cut(sample.arrays)
    if self.pair == 'after':
      later = cut(self._after(sample))
      entry = {name: np.stack([entry[name], later[name]]) for name in entry}
    target = self._target(sample, box, size, symmetry)
    return {self.adapter.want.name: entry, PLACE: {'target': target}}

  def _after(self, sample: Sample) -> dict[str, np.ndarray]:
    """The record with the later image, or last date, in place of the first."""
    name, arrays = self.adapter.name, sample.arrays
    later, valid = arrays.get(f'{name}/after'), f'{name}/after_valid'
    given = {'valid': arrays[valid]} if valid in arrays else {}
    if later is None and f'{name}/series' in arrays:
      later, valid = arrays[f'{name}/series'][-1], f'{name}/series_valid'
      given = {'valid': arrays[valid][-1]} if valid in arrays else {}
    if later is None or later.shape[:2] != self.shape(sample):
      raise ValueError(
        f'{sample.id}: data.pair=after needs {name}/after or {name}/series of '
        f'{self.shape(sample)} pixels, got '
        f'{"none" if later is None else later.shape[:2]}.'
      )
    out = {n: x for n, x in arrays.items() if n != f'{name}/valid'}
    out[f'{name}/image'] = later
    return out | {f'{name}/{n}': x for n, x in given.items()}

  def _target(
    self, sample: Sample, box: augment.Box, size: int | None, symmetry: int
  ) -> np.ndarray:
    kind, dates = self.target.kind, []
    if kind in SCENE:
      return np.asarray(sample.label, DTYPES[kind])
    if kind in BOXES:
      return self._boxes(sample, box, size, symmetry)
    for name, found in arrays_of(sample, self.target).items():
      if found.shape != self.shape(sample):
        raise ValueError(
          f'{sample.id}: {name} has {found.shape} pixels, the image '
          f'{self.shape(sample)}.'
        )
      inside = box._replace(top=box.top % 1, left=box.left % 1)
      found = augment.cut(found, box)
      if size is not None:
        found = augment.resize(found, inside, size, filter='nearest')
      dates.append(augment.apply_symmetry(found, symmetry))
    found = np.stack(dates) if len(dates) > 1 else dates[0]
    return np.ascontiguousarray(found, DTYPES[kind])

  def _boxes(
    self, sample: Sample, box: augment.Box, size: int | None, symmetry: int
  ) -> np.ndarray:
    """Boxes f32[count, 6] of the window."""
    target, found = self.target, given(sample, self.target, self.target.name)
    columns = len(boxes_lib.COLUMNS)
    if found.ndim != 2 or found.shape[1] < columns:
      raise ValueError(
        f'{sample.id}: {target.name} has shape {found.shape}, not [n, '
        f'{", ".join(boxes_lib.COLUMNS)}].'
      )
    found = found[found[:, 5] != boxes_lib.PADDING, :columns].astype(np.float32)
    odd = found[(found[:, 5] < 0) | (found[:, 5] >= target.classes), 5]
    if odd.size:
      raise ValueError(
        f'{sample.id}: {target.name} has class {odd[0]:g}, but there are '
        f'{target.classes} classes.'
      )
    oriented = target.kind == 'oriented_boxes'
    found = found if oriented else boxes_lib.hull(found)
    try:
      found = boxes_lib.cut(found, box, size, oriented=oriented)
      found = boxes_lib.apply_symmetry(
        found, symmetry, size or box.width, oriented=oriented
      )
      return boxes_lib.pad(found, target.count)
    except ValueError as error:
      raise ValueError(f'{sample.id}: {error}') from error


def given(sample: Sample, target: Target, name: str) -> np.ndarray:
  """An array of a target.

  Raises:
    ValueError: no such array.
  """
  if name not in sample.arrays:
    raise ValueError(
      f'{sample.id}: data.target={target.name!r} needs {name!r}, which is no '
      f'array of the record; it has {sorted(sample.arrays)}.'
    )
  return sample.arrays[name]


def arrays_of(sample: Sample, target: Target) -> dict[str, np.ndarray]:
  """{name: [H, W]} of a target's dates, held against its classes.

  Raises:
    ValueError: no such array, or codes that are no classes.
  """
  out = {}
  for name in target.arrays:
    found = given(sample, target, name)
    found = found[..., 0] if found.ndim == 3 else found
    if target.kind == 'numbers':
      out[name] = found.astype(np.float32)
      continue
    if found.dtype != np.uint8:
      raise ValueError(f'{sample.id}: {name} is {found.dtype}, not uint8.')
    known = found[found != tile_cut.UNLABELLED]
    if known.size and known.max() >= target.classes:
      raise ValueError(
        f'{sample.id}: {name} has code {known.max()}, but there are '
        f'{target.classes} classes; {tile_cut.UNLABELLED} stands for '
        'unlabelled.'
      )
    out[name] = found
  return out
