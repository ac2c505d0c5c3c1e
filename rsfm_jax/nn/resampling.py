"""Maps of another size: bilinear, nearest, and adaptive average pools.

All are products with a matrix of weights per axis, as torch's `interpolate`
and `adaptive_avg_pool2d` define them.
"""

from collections.abc import Callable
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.core import choices

Array = jax.Array
Align = Literal['pixels', 'corners']


def bilinear(
  x: Array, height: int, width: int, *, align: Align = 'pixels'
) -> Array:
  """x: [B, H, W, C] -> [B, height, width, C], without antialiasing.

  `align`: 'pixels' keeps the outer edges (half-pixel centres, torch's
  align_corners=False), 'corners' the centres of the outer pixels.
  """
  choices.check(align, ('pixels', 'corners'), key='align')
  return _apply(x, height, width, functools.partial(_bilinear, align=align))


def nearest(x: Array, height: int, width: int) -> Array:
  """x: [B, H, W, C] -> [B, height, width, C]; place i takes floor(i H / h)."""
  rows = np.arange(height) * x.shape[1] // height
  columns = np.arange(width) * x.shape[2] // width
  return x[:, rows][:, :, columns]


def adaptive_pool(x: Array, height: int, width: int) -> Array:
  """Means over bins [floor(i H / h), ceil((i + 1) H / h)), which may overlap.

  x: [B, H, W, C] -> [B, height, width, C]; of any size, larger ones too.
  """
  return _apply(x, height, width, _pool)


def _apply(
  x: Array, height: int, width: int, matrix: Callable[[int, int], np.ndarray]
) -> Array:
  if x.shape[1:3] == (height, width) and matrix is not _pool:
    return x
  y = x.astype(jnp.float32)
  exact = jax.lax.Precision.HIGHEST
  rows, columns = matrix(x.shape[1], height), matrix(x.shape[2], width)
  y = jnp.einsum('ih,bhwc->biwc', rows, y, precision=exact)
  y = jnp.einsum('jw,biwc->bijc', columns, y, precision=exact)
  return y.astype(x.dtype)


@functools.cache
def _bilinear(size: int, target: int, *, align: Align) -> np.ndarray:
  """f32[target, size]: weights of the two neighbours of every place."""
  place = np.arange(target, dtype=np.float64)
  if align == 'corners':
    at = place * ((size - 1) / max(target - 1, 1))
  else:
    at = np.maximum((place + 0.5) * (size / target) - 0.5, 0)
  low = np.minimum(np.floor(at).astype(int), size - 1)
  high = np.minimum(low + 1, size - 1)
  matrix = np.zeros((target, size))
  rows = np.arange(target)
  np.add.at(matrix, (rows, low), 1 - (at - low))
  np.add.at(matrix, (rows, high), at - low)
  return matrix.astype(np.float32)


@functools.cache
def _pool(size: int, target: int) -> np.ndarray:
  """f32[target, size]: equal weights within each bin."""
  matrix = np.zeros((target, size), np.float32)
  for i in range(target):
    start, stop = i * size // target, math.ceil((i + 1) * size / target)
    matrix[i, start:stop] = 1 / (stop - start)
  return matrix
