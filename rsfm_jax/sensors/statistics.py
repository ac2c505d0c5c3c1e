"""Streaming statistics per band, and the one function that normalises.

Moments are merged as (count, mean, M2) in float64 (Chan, Golub and LeVeque,
"Updating formulae and a pairwise algorithm for computing sample variances",
1979). Percentiles come from the histogram of sketch.py, within 0.4 % of
numpy.percentile.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple
import zlib

import jax
import numpy as np

from rsfm_jax.sensors import sketch

PERCENTILES = (1, 5, 50, 95, 99)

_FORMAT = 'rsfm_jax.accumulator/1'
_BLOCK = 1 << 16  # Pixels at a time, so that a band of a block stays in cache.
_COUNTED = 1 << 30  # Pixels whose squares of 16 bits still add up in an int64.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistics:
  """What a sensor's pixels look like; tuples have one entry per band.

  A band without a valid pixel has count 0 and zeros everywhere else.

  Attributes:
    mean: arithmetic mean, in the sensor's contract unit.
    std: population standard deviation.
    percentiles: '1', '5', '50', '95', '99' -> values.
    minimum: smallest valid value.
    maximum: largest valid value.
    count: valid, finite pixels.
    bands: names, empty when unknown.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]
  percentiles: dict[str, tuple[float, ...]]
  minimum: tuple[float, ...]
  maximum: tuple[float, ...]
  count: tuple[int, ...]
  bands: tuple[str, ...] = ()

  def select(self, bands: Sequence[str]) -> 'Statistics':
    """The same statistics for some bands, in the given order.

    Raises:
      ValueError: a band that has no statistics.
    """
    missing = [band for band in bands if band not in self.bands]
    if missing:
      raise ValueError(f'no statistics for {missing}; have {self.bands}.')
    rows = [self.bands.index(band) for band in bands]

    def pick(values):
      return tuple(values[row] for row in rows)

    return Statistics(
      mean=pick(self.mean),
      std=pick(self.std),
      percentiles={q: pick(v) for q, v in self.percentiles.items()},
      minimum=pick(self.minimum),
      maximum=pick(self.maximum),
      count=pick(self.count),
      bands=tuple(bands),
    )

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, value: Mapping[str, Any]) -> 'Statistics':
    """Inverse of `to_json`.

    Raises:
      ValueError: unknown or missing keys.
    """
    try:
      tuples = {k: tuple(v) for k, v in value.items() if k != 'percentiles'}
      percentiles = {q: tuple(v) for q, v in value['percentiles'].items()}
      return cls(percentiles=percentiles, **tuples)
    except (KeyError, TypeError, AttributeError) as error:
      raise ValueError(f'not band statistics: {error}') from error


class _Moments(NamedTuple):
  """Count, mean, sum of squared deviations and range of one band."""

  count: int = 0
  mean: float = 0.0
  m2: float = 0.0
  minimum: float = np.inf
  maximum: float = -np.inf

  def merge(self, other: '_Moments') -> '_Moments':
    count = self.count + other.count
    if not count:
      return self
    delta = other.mean - self.mean
    return _Moments(
      count=count,
      mean=self.mean + delta * other.count / count,
      m2=self.m2 + other.m2 + delta * delta * self.count * other.count / count,
      minimum=min(self.minimum, other.minimum),
      maximum=max(self.maximum, other.maximum),
    )


def _of_counts(
  counts: np.ndarray, dtype: np.dtype, histogram: np.ndarray
) -> _Moments:
  """Exact moments of the values of an integer type, by how often they came.

  Args:
    counts: int64 [values], lowest first, not all zero.
    dtype: the type, of 8 or 16 bits.
    histogram: int64 [BINS] of the sketch; the counts are added to it.
  """
  present = np.flatnonzero(counts)
  counts = counts[present]
  np.add.at(histogram, sketch.bin_of_integer(dtype)[present], counts)
  present += int(np.iinfo(dtype).min)
  n, total = int(counts.sum()), int(counts @ present)
  squares = int(counts @ (present * present))
  return _Moments(
    count=n,
    mean=total / n,
    m2=(squares * n - total * total) / n,
    minimum=float(present[0]),
    maximum=float(present[-1]),
  )


def _add_floats(values: np.ndarray, histogram: np.ndarray) -> _Moments:
  """Float path; non-finite values are left out. values: [N], N > 0."""
  with np.errstate(invalid='ignore'):
    mean = values.mean(dtype=np.float64)
  if not np.isfinite(mean):  # Cheaper than looking at every value first.
    values = values[np.isfinite(values)]
    if not values.size:
      return _Moments()
    mean = values.mean(dtype=np.float64)
  counts = np.bincount(sketch.bin_of(values.astype(np.float32, copy=False)))
  histogram[: counts.size] += counts
  deviation = values - mean
  return _Moments(
    count=values.size,
    mean=float(mean),
    m2=float(np.square(deviation).sum()),
    minimum=float(values.min()),
    maximum=float(values.max()),
  )


class Accumulator:
  """Statistics of a stream of images in fixed memory; mergeable.

  Args:
    bands: names of the channels, in order.
  """

  def __init__(self, bands: Sequence[str]):
    self.bands = tuple(bands)
    self._moments = [_Moments() for _ in self.bands]
    self._histograms = np.zeros((len(self.bands), sketch.BINS), np.int64)
    # Small integers are only counted, and made into moments when asked for:
    # [C, values] by type, where a negative value lies at its unsigned one.
    self._counts: dict[np.dtype, np.ndarray] = {}
    self._counted = 0

  def update(self, image: np.ndarray, valid: np.ndarray | None = None) -> None:
    """Adds the pixels of one image.

    Args:
      image: [..., C], any real dtype, in the sensor's contract unit.
      valid: bool [...]; what lies under False has no effect, NaN included.
        Non-finite values are left out too (`count` is per band).

    Raises:
      ValueError: shape or dtype does not fit.
    """
    image = np.asarray(image)
    self._check(image, valid)
    pixels = image.reshape(-1, len(self.bands))
    keep = None if valid is None else np.asarray(valid, bool).reshape(-1)
    for start in range(0, len(pixels), _BLOCK):
      block = pixels[start : start + _BLOCK]
      if keep is not None and not (mask := keep[start : start + _BLOCK]).all():
        block = block.take(np.flatnonzero(mask), axis=0)  # Beats block[mask].
      if not len(block):
        continue
      if block.dtype.kind in 'bui' and block.dtype.itemsize <= 2:
        self._count(block)
      else:
        self._add(np.ascontiguousarray(block.T))

  def _check(self, image: np.ndarray, valid: np.ndarray | None) -> None:
    channels = image.shape[-1] if image.ndim else 0
    if channels != len(self.bands):
      raise ValueError(
        f'image of shape {image.shape} has {channels} channels last, not '
        f'the {len(self.bands)} of {self.bands}.'
      )
    if image.dtype.kind not in 'buif':
      raise ValueError(f'dtype {image.dtype} is not real; give I and Q bands.')
    if valid is not None and np.shape(valid) != image.shape[:-1]:
      raise ValueError(
        f'valid {np.shape(valid)} does not cover image {image.shape}.'
      )

  def _count(self, pixels: np.ndarray) -> None:
    """pixels: [N, C], of at most 16 bits."""
    if pixels.dtype.kind == 'b':
      pixels = pixels.view(np.uint8)
    pixels = pixels.astype(pixels.dtype.newbyteorder('='), copy=False)
    dtype, bits = pixels.dtype, 8 * pixels.dtype.itemsize
    if dtype not in self._counts:
      self._counts[dtype] = np.zeros((len(self.bands), 1 << bits), np.int64)
    pixels = pixels.view(f'u{dtype.itemsize}')
    for c, counts in enumerate(self._counts[dtype]):
      found = np.bincount(pixels[:, c])
      counts[: found.size] += found
    self._counted += len(pixels)
    if self._counted >= _COUNTED:
      self._settle()

  def _settle(self) -> None:
    """Turns what was counted into moments and histograms."""
    for dtype, counts in self._counts.items():
      if dtype.kind == 'i':  # Lowest first.
        counts = np.roll(counts, counts.shape[1] // 2, axis=1)
      for c, band in enumerate(counts):
        if band.any():
          part = _of_counts(band, dtype, self._histograms[c])
          self._moments[c] = self._moments[c].merge(part)
    self._counts, self._counted = {}, 0

  def _add(self, planes: np.ndarray) -> None:
    """planes: [C, N], contiguous."""
    # The sketch reads float32 bits; float64 keeps its precision for M2.
    if planes.dtype not in (np.float32, np.float64):
      planes = planes.astype(np.promote_types(planes.dtype, np.float32))
    for c, plane in enumerate(planes):
      part = _add_floats(plane, self._histograms[c])
      self._moments[c] = self._moments[c].merge(part)

  def merge(self, other: 'Accumulator') -> None:
    """Adds what `other` has seen.

    Raises:
      ValueError: other bands.
    """
    if other.bands != self.bands:
      raise ValueError(f'cannot merge bands {other.bands} into {self.bands}.')
    self._settle()
    other._settle()
    self._histograms += other._histograms
    self._moments = [
      a.merge(b) for a, b in zip(self._moments, other._moments, strict=True)
    ]

  def result(self) -> Statistics:
    self._settle()
    empty = _Moments(minimum=0.0, maximum=0.0)
    some = [m if m.count else empty for m in self._moments]
    columns = [
      sketch.percentiles(
        histogram, PERCENTILES, low=moments.minimum, high=moments.maximum
      )
      for histogram, moments in zip(self._histograms, some, strict=True)
    ]
    return Statistics(
      mean=tuple(m.mean for m in some),
      std=tuple(float(np.sqrt(m.m2 / max(m.count, 1))) for m in some),
      percentiles={
        str(q): tuple(column[i] for column in columns)
        for i, q in enumerate(PERCENTILES)
      },
      minimum=tuple(m.minimum for m in some),
      maximum=tuple(m.maximum for m in some),
      count=tuple(m.count for m in some),
      bands=self.bands,
    )

  def to_json(self) -> dict[str, Any]:
    """The whole state, small: only bins in use are written."""
    self._settle()
    return {
      'format': _FORMAT,
      'bands': list(self.bands),
      # An empty band has an infinite range, which JSON cannot say.
      'moments': [list(m) if m.count else None for m in self._moments],
      'histograms': [sketch.pack(histogram) for histogram in self._histograms],
    }

  @classmethod
  def from_json(cls, value: Mapping[str, Any]) -> 'Accumulator':
    """Inverse of `to_json`.

    Raises:
      ValueError: another format or damaged content.
    """
    try:
      if value['format'] != _FORMAT:
        raise ValueError(f'format {value["format"]!r} is not {_FORMAT!r}')
      self = cls(value['bands'])
      for c, moments in enumerate(value['moments']):
        self._moments[c] = _Moments(*moments) if moments else _Moments()
        sketch.unpack(value['histograms'][c], self._histograms[c])
        if self._histograms[c].sum() != self._moments[c].count:
          raise ValueError(f'histogram of {self.bands[c]} lost pixels')
      return self
    except (KeyError, IndexError, TypeError, ValueError, zlib.error) as error:
      raise ValueError(f'not an accumulator state: {error}') from error


def _rows(
  image: np.ndarray | jax.Array, statistics: Statistics
) -> tuple[np.ndarray, np.ndarray]:
  """Mean and std as float32 that broadcast against image [..., C]."""
  if image.shape[-1] != len(statistics.mean):
    raise ValueError(
      f'image of shape {image.shape} has {image.shape[-1]} channels last; '
      f'the statistics have {len(statistics.mean)} ({statistics.bands}).'
    )
  shape = (1,) * (image.ndim - 1) + (-1,)
  std = np.asarray(statistics.std, np.float32)
  # A constant band becomes zero, not NaN.
  std = np.where(std > 0, std, np.float32(1)).reshape(shape)
  return np.asarray(statistics.mean, np.float32).reshape(shape), std


def normalise(
  image: np.ndarray | jax.Array, statistics: Statistics
) -> np.ndarray | jax.Array:
  """(image - mean) / std: used by training, evaluation and export alike.

  Args:
    image: [..., C] NumPy or JAX, in the sensor's contract unit.
    statistics: of the same bands in the same order.

  Returns:
    float32 [..., C], the kind of array that came in.

  Raises:
    ValueError: the number of channels differs.
  """
  mean, std = _rows(image, statistics)
  return (image.astype(np.float32) - mean) / std


def denormalise(
  image: np.ndarray | jax.Array, statistics: Statistics
) -> np.ndarray | jax.Array:
  """Inverse of `normalise`, back to the contract unit. [..., C] float32."""
  mean, std = _rows(image, statistics)
  return image.astype(np.float32) * std + mean
