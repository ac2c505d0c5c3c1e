"""Absolute positions: learnt tables for any grid size, and fixed waves."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.core import choices

Array = jax.Array
Kind = Literal['bicubic', 'bicubic_antialias']

# Keys' parameter of the cubic kernel in torch's interpolation, with and
# without anti-aliasing.
_CUBIC = {'bicubic': -0.75, 'bicubic_antialias': -0.5}


def resize(
  table: Array, height: int, width: int, *, kind: Kind = 'bicubic'
) -> Array:
  """Resamples a table of positions, pixel centres aligned at half pixels.

  Args:
    table: [g, k, D] learnt positions of a grid.
    height: rows of the grid that is wanted.
    width: its columns.
    kind: 'bicubic' is torch's (a = -0.75, borders repeated), which SkySense v1
      and MAE call; 'bicubic_antialias' is timm's (a = -0.5, taps cut at the
      borders, the kernel wider where the grid shrinks).

  Returns:
    [height, width, D], the table itself where the size is the same.
  """
  choices.check(kind, _CUBIC, key='kind of a resize')
  rows, columns, _ = table.shape
  if (rows, columns) == (height, width):
    return table
  y = jnp.einsum(
    'hg,gkd->hkd',
    resize_matrix(rows, height, kind),
    table.astype(jnp.float32),
    precision=jax.lax.Precision.HIGHEST,
  )
  y = jnp.einsum(
    'wk,hkd->hwd',
    resize_matrix(columns, width, kind),
    y,
    precision=jax.lax.Precision.HIGHEST,
  )
  return y.astype(table.dtype)


@functools.cache
def resize_matrix(size: int, target: int, kind: Kind) -> np.ndarray:
  """Weights of all source places for every target place: f32[target, size]."""
  scale = size / target
  centre = (np.arange(target) + 0.5) * scale - 0.5
  spread = max(scale, 1.0) if kind == 'bicubic_antialias' else 1.0
  reach = int(np.ceil(2 * spread)) + 1
  taps = np.floor(centre)[:, None] + np.arange(-reach, reach + 1)
  weight = _cubic((taps - centre[:, None]) / spread, _CUBIC[kind])
  if kind == 'bicubic_antialias':
    weight = np.where((taps >= 0) & (taps < size), weight, 0)
    weight /= weight.sum(1, keepdims=True)
  place = np.clip(taps, 0, size - 1).astype(int)
  matrix = np.zeros((target, size))
  np.add.at(matrix, (np.arange(target)[:, None], place), weight)
  return matrix.astype(np.float32)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
  """Keys' piecewise cubic kernel, zero beyond 2."""
  d = np.abs(distance)
  near = ((a + 2) * d - (a + 3)) * d**2 + 1
  far = ((d - 5) * d + 8) * d * a - 4 * a
  return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


@functools.cache
def sincos(dim: int, height: int, width: int) -> np.ndarray:
  """Fixed sine and cosine positions: f32[height, width, dim] (MAE).

  The first half of `dim` encodes the column, the second half the row; each
  half is all sines, then all cosines, with frequencies 10000^(-k / (dim/4)).

  Raises:
    ValueError: `dim` is not a multiple of 4.
  """
  if dim % 4:
    raise ValueError(f'dim={dim} of sine positions is no multiple of 4.')
  frequency = 10000.0 ** (-np.arange(dim // 4) / (dim / 4))
  rows, columns = np.meshgrid(
    np.arange(height), np.arange(width), indexing='ij'
  )
  angles = [place[..., None] * frequency for place in (columns, rows)]
  waves = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
  return np.concatenate(waves, -1).astype(np.float32)


def resized_sincos(dim: int, side: int, height: int, width: int) -> Array:
  """The `sincos` of a square grid of `side`, resized to another grid.

  So that a grid of any size stays within the range that was trained on.
  """
  return resize(jnp.asarray(sincos(dim, side, side)), height, width)
