"""Windows of a token grid: cutting, shifting, masks, relative positions.

Everything that depends on sizes only is NumPy and becomes a constant of the
compiled program.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# What is added to the logits of tokens that a cyclic shift made neighbours.
MASKED_LOGIT = -100.0


class Layout(NamedTuple):
  """How one block cuts a grid: window side and cyclic shift, in tokens."""

  window: int
  shift: int


def layout(height: int, width: int, window: int, *, shifted: bool) -> Layout:
  """Clips the window to the grid; a grid of one window is never shifted.

  Raises:
    ValueError: the grid is not a multiple of the window.
  """
  side = min(height, width)
  if side <= window:
    window, shifted = side, False
  if height % window or width % window:
    raise ValueError(
      f'A grid of {height} x {width} tokens cannot be cut into windows of '
      f'{window}: choose an image size that is a multiple of patch x '
      'window at every stage, or change model.window.'
    )
  return Layout(window, window // 2 if shifted else 0)


def partition(x: Array, window: int) -> Array:
  """[B, H, W, D] -> [B * windows, w * w, D]."""
  b, h, w, d = x.shape
  x = x.reshape(b, h // window, window, w // window, window, d)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, window * window, d)


def merge(x: Array, window: int, height: int, width: int) -> Array:
  """Inverse of `partition`."""
  d = x.shape[-1]
  x = x.reshape(-1, height // window, width // window, window, window, d)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, d)


def roll(x: Array, shift: int) -> Array:
  """Cyclic shift of both grid axes; `shift > 0` moves towards the origin."""
  if not shift:
    return x
  return jnp.roll(x, (-shift, -shift), axis=(1, 2))


@functools.cache
def relative_index(window: int, table_window: int) -> np.ndarray:
  """Rows of a [(2t-1)^2, N] bias table for all pairs in a window: i32[w², w²].

  A window smaller than the table's uses the table's middle.
  """
  grid = np.stack(np.meshgrid(*[np.arange(window)] * 2, indexing='ij'))
  flat = grid.reshape(2, -1)
  offset = flat[:, :, None] - flat[:, None, :] + table_window - 1
  return (offset[0] * (2 * table_window - 1) + offset[1]).astype(np.int32)


@functools.cache
def shift_mask(height: int, width: int, window: int, shift: int) -> np.ndarray:
  """Added logits f32[windows, w², w²]: 0 or `MASKED_LOGIT`."""
  region = np.zeros((height, width), np.int32)
  cuts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
  for i, rows in enumerate(cuts):
    for j, columns in enumerate(cuts):
      region[rows, columns] = 3 * i + j
  region = (
    region.reshape(height // window, window, width // window, window)
    .transpose(0, 2, 1, 3)
    .reshape(-1, window * window)
  )
  differs = region[:, :, None] != region[:, None, :]
  return np.where(differs, MASKED_LOGIT, 0.0).astype(np.float32)


@functools.cache
def log_coordinates(window: int, table_window: int) -> np.ndarray:
  """Log-spaced relative coordinates of Swin V2's CPB, f32[(2w-1)², 2].

  Offsets are divided by the pre-training window minus one, times 8, then
  sign(x) log2(1 + |x|) / log2(8) (Swin V2, Eq. 4; RingMoE's unused classes).
  """
  offsets = np.arange(-(window - 1), window, dtype=np.float32)
  grid = np.stack(np.meshgrid(offsets, offsets, indexing='ij'), -1)
  grid = grid * 8.0 / max(table_window - 1, 1)
  grid = np.sign(grid) * np.log2(np.abs(grid) + 1.0) / np.log2(8.0)
  return grid.reshape(-1, 2).astype(np.float32)
