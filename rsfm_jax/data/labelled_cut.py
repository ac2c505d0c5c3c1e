"""One labelled sample: image, or images of two dates, and target, cut alike."""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.data import adapt
from rsfm_jax.data import augment
from rsfm_jax.data import pipeline
from rsfm_jax.data import tile_cut

Kind = Literal['class', 'bits', 'number', 'codes', 'numbers']
Pair = Literal['none', 'after']
Form = Literal['whole', 'area', 'scale']
LABEL = 'label'
PLACE = 'place'
DENSE = ('codes', 'numbers')
DTYPES = {
  'class': np.int32,
  'bits': np.int32,
  'number': np.float32,
  'codes': np.uint8,
  'numbers': np.float32,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
  """What is to be predicted.

  Attributes:
    name: 'label', or an array of the records.
    kind: 'class', 'bits' or 'number' per scene; 'codes' or 'numbers' per pixel.
    classes: K, or the number of bits; 0 where there are none.
    pair: 'after' adds the array `<name>_after`, of the second of two dates.
  """

  name: str
  kind: Kind
  classes: int = 0
  pair: Pair = 'none'

  def __post_init__(self):
    choices.check(self.kind, get_args(Kind), key='kind of a target')
    dense = self.kind in DENSE
    if dense == (self.name == LABEL):
      raise ValueError(
        f'data.target={self.name!r} holds no {self.kind}: the label of a scene '
        'is in the index, what belongs to pixels in an array of the records.'
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
    dense = (*dates, side, side)
    bits = {'bits': (self.classes,)}
    return dense if self.kind in DENSE else bits.get(self.kind, ())


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
    if kind not in DENSE:
      return np.asarray(sample.label, DTYPES[kind])
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


def arrays_of(sample: Sample, target: Target) -> dict[str, np.ndarray]:
  """{name: [H, W]} of a target's dates, held against its classes.

  Raises:
    ValueError: no such array, or codes that are no classes.
  """
  out = {}
  for name in target.arrays:
    found = sample.arrays.get(name)
    if found is None:
      raise ValueError(
        f'{sample.id}: data.target={target.name!r} needs {name!r}, which is no '
        f'array of the record; it has {sorted(sample.arrays)}.'
      )
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
