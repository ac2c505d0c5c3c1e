"""A store of whose samples masks hide a part, whatever lies under them.

Beside what the samples themselves declare invalid, whole sensors, bands or
pixels can be hidden; and other values be put in all these places, to show that
nothing depends on them.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, Literal

import numpy as np

from rsfm_jax.data import records as records_lib
from rsfm_jax.data import store as stores

Fill = Literal['kept', 'nan', 'inf', 'noise']
FILLS: tuple[Fill, ...] = ('nan', 'inf', 'noise')  # All but what was there.
_LOUD = 1e4  # Deviation of noise in arrays of floats.


@dataclasses.dataclass(frozen=True)
class Mask:
  """What is hidden; picklable.

  Attributes:
    sensors: of the store, that samples lack.
    bands: {sensor of the store: channels that are absent}.
    pixels: share of the pixels of every image that are nodata, at places that
      are a function of the sample.
    fill: what lies where nothing counts: what was there, or NaN, infinity or
      noise; of integers the lowest, the highest, or any value of their type.
  """

  sensors: tuple[str, ...] = ()
  bands: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
  pixels: float = 0.0
  fill: Fill = 'kept'

  def __call__(
    self, record: Mapping[str, np.ndarray], index: int
  ) -> dict[str, np.ndarray]:
    """The arrays of sample `index`, masked; see `samples`."""
    sensor = lambda name: name.partition('/')[0]
    out = {n: a for n, a in record.items() if sensor(n) not in self.sensors}
    for name in sorted(sensor(n) for n in out if n.endswith('/image')):
      self._hide(out, name, index)
    return out

  def _hide(self, out: dict[str, np.ndarray], name: str, index: int) -> None:
    size, count = out[f'{name}/image'].shape[:2], out[f'{name}/image'].shape[2]
    if hidden := self.bands.get(name):
      here = ~np.isin(np.arange(count), hidden)
      out[f'{name}/band_valid'] = out.get(f'{name}/band_valid', True) & here
    if self.pixels:
      seen = np.random.default_rng([index, 0]).random(size) >= self.pixels
      out[f'{name}/valid'] = out.get(f'{name}/valid', True) & seen
      if f'{name}/series_valid' in out:
        out[f'{name}/series_valid'] = out[f'{name}/series_valid'] & seen
    if self.fill == 'kept':
      return
    bands = np.asarray(out.get(f'{name}/band_valid', True))
    valid = np.asarray(out.get(f'{name}/valid', True))
    dated = np.asarray(out.get(f'{name}/series_valid', valid))
    noise = np.random.default_rng([index, 1])
    for what, counts in (('image', valid), ('series', dated)):
      if (array := out.get(f'{name}/{what}')) is not None:
        other = _other(array, self.fill, noise)
        out[f'{name}/{what}'] = np.where(
          counts[..., None] & bands, array, other
        )


def _other(
  like: np.ndarray, fill: Fill, rng: np.random.Generator
) -> np.ndarray:
  """Values of the type of an array that should not matter."""
  if like.dtype.kind == 'f':
    if fill == 'noise':
      return rng.normal(0, _LOUD, like.shape).astype(like.dtype)
    return np.full_like(like, {'nan': np.nan, 'inf': np.inf}[fill])
  ends = np.iinfo(like.dtype)
  if fill == 'noise':
    return rng.integers(
      ends.min, ends.max, like.shape, like.dtype, endpoint=True
    )
  return np.full_like(like, {'nan': ends.min, 'inf': ends.max}[fill])


class MaskedStore(stores.Store):
  """A store whose samples are masked as they are read."""

  def __init__(self, store: stores.Store, mask: Mask):
    vars(self).update(vars(store))
    self.mask = mask
    self._records = self.source()

  def source(self, split: str | None = None) -> 'MaskedRecords':
    return MaskedRecords(super().source(split), self.mask)


@dataclasses.dataclass(frozen=True)
class MaskedRecords:
  """A Grain source of masked samples; see `records.Records`."""

  records: records_lib.Records
  mask: Mask

  @property
  def indices(self) -> np.ndarray:
    return self.records.indices

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, i: int) -> dict[str, Any]:
    return self.mask(self.records[i], int(self.indices[i]))
