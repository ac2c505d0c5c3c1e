"""A U-Net decoder over the maps of an encoder (Ronneberger et al.).

In the form of segmentation_models_pytorch's UnetDecoder, without attention:
nearest upsampling, the map of the finer level beside it, two convolutions.
"""

from collections.abc import Sequence

from flax import nnx
import jax
import jax.numpy as jnp

from rsfm_jax.core import rng
from rsfm_jax.nn import batch_norm
from rsfm_jax.nn import convolution
from rsfm_jax.nn import resampling
from rsfm_jax.tasks import contract

Array = jax.Array
Mode = batch_norm.Mode


class UnetBlock(nnx.Module):
  """Upsamples to a finer map, joins it, and convolves twice."""

  def __init__(self, dim: int, skip: int, channels: int, *, key: Array):
    make = lambda c, name: convolution.ConvNorm(
      c, channels, 3, key=rng.named(key, name)
    )
    self.conv_1 = make(dim + skip, 'conv_1')
    self.conv_2 = make(channels, 'conv_2')

  def __call__(self, x: Array, skip: Array | None, *, mode: Mode) -> Array:
    """x: [B, h, w, D] -> [B, H, W, C], the size of `skip` or the double."""
    size = (2 * x.shape[1], 2 * x.shape[2]) if skip is None else skip.shape[1:3]
    y = resampling.nearest(x, *size)
    y = y if skip is None else jnp.concatenate([y, skip], -1)
    return self.conv_2(self.conv_1(y, mode=mode), mode=mode)


class Unet(nnx.Module):
  """Blocks from the coarsest map to the finest, and one beyond it."""

  def __init__(
    self,
    dims: Sequence[int],
    outputs: int,
    *,
    levels: Sequence[str],
    channels: Sequence[int] = (256, 128, 64, 32),
    key: Array,
  ):
    """`dims` are the channels of the maps `levels`, finest first.

    Raises:
      ValueError: not one entry of `channels` per map.
    """
    if len(channels) != len(dims):
      raise ValueError(
        f'task.unet_channels={tuple(channels)} needs one entry per map of '
        f'task.levels={tuple(levels)}.'
      )
    *skips, width = dims
    blocks = {}
    for i, (skip, wide) in enumerate(zip([*skips[::-1], 0], channels)):
      blocks[str(i)] = UnetBlock(
        width, skip, wide, key=rng.named(key, 'block', str(i))
      )
      width = wide
    self.blocks = nnx.Dict(blocks)
    self.scores = convolution.Conv(
      width, outputs, 3, key=rng.named(key, 'scores'), std=0.01
    )
    self.levels = tuple(levels)

  def decode(self, maps: Sequence[Array], *, mode: Mode) -> Array:
    """Maps [B, h, w, D], finest first -> [B, 2 h, 2 w, C] of the finest."""
    *skips, x = maps
    for i, skip in enumerate([*skips[::-1], None]):
      x = self.blocks[str(i)](x, skip, mode=mode)
    return x

  def __call__(
    self, features: contract.Features, *, mode: Mode, key: Array | None = None
  ) -> Array:
    """-> f32[B, 2 h, 2 w, K]."""
    del key
    maps = [features.maps[name].astype(jnp.float32) for name in self.levels]
    return self.scores(self.decode(maps, mode=mode))
