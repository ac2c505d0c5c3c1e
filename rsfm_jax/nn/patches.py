"""Patch embedding, patch merging and their inverse, depth to space."""

from typing import Literal

from flax import nnx
import jax
import jax.numpy as jnp

from rsfm_jax.core import choices
from rsfm_jax.nn import linear

Array = jax.Array
Merge = Literal['reduce', 'keep']


def space_to_depth(x: Array, block: int) -> Array:
  """[B, H, W, C] -> [B, H/s, W/s, s*s*C], ordered (row, column, C)."""
  b, h, w, c = x.shape
  if h % block or w % block:
    raise ValueError(
      f'An image of {h} x {w} pixels cannot be cut into blocks of {block}.'
    )
  x = x.reshape(b, h // block, block, w // block, block, c)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, h // block, w // block, block * block * c)


def depth_to_space(x: Array, block: int) -> Array:
  """[B, h, w, s*s*C] -> [B, h*s, w*s, C], channels as (row, column, C).

  This is MindSpore's DCR order, not the CRD order of a pixel shuffle.
  """
  b, h, w, d = x.shape
  c = d // (block * block)
  x = x.reshape(b, h, w, block, block, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, h * block, w * block, c)


def repeated(cells: Array, block: int) -> Array:
  """[B, h, w] -> [B, h*s, w*s], what holds of each cell's pixels."""
  b, h, w = cells.shape
  cells = jnp.broadcast_to(cells[:, :, None, :, None], (b, h, block, w, block))
  return cells.reshape(b, h * block, w * block)


class PatchEmbed(nnx.Module):
  """Convolution with kernel = stride = p, then layer norm (eps 1e-6).

  ViT and MAE have no norm there: `use_norm=False`.
  """

  def __init__(
    self,
    channels: int,
    dim: int,
    patch: int,
    *,
    key: Array,
    std: float | None = linear.DEFAULT_STD,
    use_norm: bool = True,
  ):
    if std is None:
      std = (patch * patch * channels) ** -0.5
    self.kernel = nnx.Param(
      linear.truncated_normal(key, (patch, patch, channels, dim), std)
    )
    self.bias = nnx.Param(jnp.zeros(dim))
    self.norm = linear.LayerNorm(dim) if use_norm else None

  def __call__(self, image: Array) -> Array:
    """image: [B, H, W, C] -> [B, H/p, W/p, D]."""
    patch, _, _, dim = self.kernel.shape
    x = space_to_depth(image, patch)
    y = x @ self.kernel[...].reshape(-1, dim).astype(x.dtype)
    y = linear.add_bias(y, self.bias[...])
    return y if self.norm is None else self.norm(y)


class PatchMerging(nnx.Module):
  """Halves the grid: Linear(4D -> 2D, no bias), then layer norm (eps 1e-4).

  The norm comes after the reduction, as in RingMoE's code; neighbours are
  concatenated as (0,0), (1,0), (0,1), (1,1) in (row, column).
  """

  def __init__(
    self,
    dim: int,
    *,
    key: Array,
    std: float | None = linear.DEFAULT_STD,
    gain: float = 1.0,
  ):
    self.kernel = nnx.Param(
      linear.truncated_normal(key, (4 * dim, 2 * dim), std)
    )
    self.norm = linear.LayerNorm(2 * dim, eps=1e-4, gain=gain)

  def __call__(self, x: Array) -> Array:
    """x: [B, H, W, D] -> [B, H/2, W/2, 2D].

    Raises:
      ValueError: an odd height or width.
    """
    b, h, w, d = x.shape
    if h % 2 or w % 2:
      raise ValueError(f'A grid of {h} x {w} tokens cannot be halved.')
    x = x.reshape(b, h // 2, 2, w // 2, 2, d)
    x = x.transpose(0, 1, 3, 4, 2, 5).reshape(b, h // 2, w // 2, 4 * d)
    return self.norm(x @ self.kernel[...].astype(x.dtype))


class AdaptivePatchMerging(nnx.Module):
  """Doubles the width and halves the grid, or keeps it, by one kernel.

  'reduce': LN(sum over a, b of x[2i+a, 2j+b] W[a, b]). 'keep':
  LN(x[i, j] W'), W' the mean of W over a and b, which needs no other weights
  (SkySense V2, section 3.1 and Fig. 3). On a constant image the products
  differ by exactly 4, which the norm after them removes. Where the norm
  stands, its eps and that there is no bias are NOT FOUND in the paper:
  SkySense v1's post-norm with eps 1e-5 is the default here.
  """

  def __init__(
    self,
    dim: int,
    *,
    key: Array,
    std: float | None = linear.DEFAULT_STD,
  ):
    if std is None:
      std = (4 * dim) ** -0.5
    shape = (2, 2, dim, 2 * dim)
    self.kernel = nnx.Param(linear.truncated_normal(key, shape, std))
    self.norm = linear.LayerNorm(2 * dim, eps=1e-5)

  def __call__(self, x: Array, mode: Merge) -> Array:
    """x: [B, H, W, D] -> [B, H/2, W/2, 2D], or [B, H, W, 2D] for 'keep'.

    Raises:
      ValueError: 'reduce' and an odd height or width.
    """
    choices.check(mode, ('reduce', 'keep'), key='mode of a merging')
    kernel = self.kernel[...]
    if mode == 'keep':
      return self.norm(x @ kernel.mean((0, 1)).astype(x.dtype))
    _, h, w, d = x.shape
    if h % 2 or w % 2:
      raise ValueError(f'A grid of {h} x {w} tokens cannot be halved.')
    flat = kernel.reshape(4 * d, 2 * d).astype(x.dtype)
    return self.norm(space_to_depth(x, 2) @ flat)
