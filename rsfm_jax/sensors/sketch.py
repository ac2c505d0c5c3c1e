"""A histogram that holds any float32 in fixed memory, and its percentiles.

A bin is the set of float32 numbers that share sign, exponent and the first
eight bits of the mantissa: 2^17 bins (1 MiB as int64) whatever the range, in
the order of the values, merged by addition.

Error bound of a percentile p: |estimate - numpy.percentile| <= 2^-8 |p| (below
0.4 %), because an order statistic never leaves its bin and a bin is at most
2^-8 of its magnitude wide. Between two order statistics of very different size
the bound holds for the larger one.
"""

import base64
from collections.abc import Sequence
import functools
import zlib

import numpy as np

_SHIFT = 15  # 23 bits of mantissa, of which the first 8 are kept.
BINS = 1 << (32 - _SHIFT)


def bin_of(values: np.ndarray) -> np.ndarray:
  """float32 [N] -> histogram bin [N], in the order of the values."""
  bits = values.view(np.int32)
  # Negative numbers count backwards in sign-magnitude: flip all but the sign.
  ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
  return (ordered >> _SHIFT) + (BINS // 2)


def _edge(bins: np.ndarray) -> np.ndarray:
  """Smallest float32 of each bin, as float64; inverse of `bin_of`."""
  ordered = (bins.astype(np.int64) - BINS // 2) << _SHIFT
  bits = np.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered)
  return bits.astype(np.int32).view(np.float32).astype(np.float64)


@functools.cache
def bin_of_integer(dtype: np.dtype) -> np.ndarray:
  """Bin of every value of an 8 or 16 bit integer type, lowest first."""
  info = np.iinfo(dtype)
  return bin_of(np.arange(info.min, info.max + 1).astype(np.float32))


def percentiles(
  histogram: np.ndarray, wanted: Sequence[float], *, low: float, high: float
) -> list[float]:
  """Percentiles, between order statistics as numpy.percentile does it.

  Args:
    histogram: int64 [BINS].
    wanted: percent, 0 to 100.
    low: smallest value counted, which no percentile may undercut.
    high: largest value counted.

  Returns:
    One value per entry of `wanted`; zeros when nothing was counted.
  """
  total = int(histogram.sum())
  if not total:
    return [0.0] * len(wanted)
  bins = np.flatnonzero(histogram)
  counts = histogram[bins]
  ends = np.cumsum(counts)
  rank = np.asarray(wanted) / 100 * (total - 1)

  def order_statistic(k: np.ndarray) -> np.ndarray:
    i = np.searchsorted(ends, k, side='right')
    share = (k - (ends[i] - counts[i]) + 0.5) / counts[i]
    left, right = _edge(bins[i]), _edge(bins[i] + 1)
    value = left + share * (right - left)
    return np.clip(value, low, high)

  below = order_statistic(np.floor(rank).astype(np.int64))
  above = order_statistic(np.ceil(rank).astype(np.int64))
  return (below + (rank - np.floor(rank)) * (above - below)).tolist()


def pack(histogram: np.ndarray) -> str:
  """Text of the bins in use: (gap, count) pairs, deflated, base 64."""
  bins = np.flatnonzero(histogram)
  gaps = np.diff(bins, prepend=0)
  pairs = np.stack([gaps, histogram[bins]]).astype('<i8')
  return base64.b64encode(zlib.compress(pairs.tobytes(), 6)).decode()


def unpack(text: str, histogram: np.ndarray) -> None:
  """Inverse of `pack`, into zeros.

  Raises:
    ValueError, zlib.error, IndexError: damaged text.
  """
  raw = zlib.decompress(base64.b64decode(text, validate=True))
  gaps, counts = np.frombuffer(raw, '<i8').reshape(2, -1)
  histogram[np.cumsum(gaps)] = counts
