"""UPerNet: pyramid pooling on top of a feature pyramid.

Xiao et al., "Unified perceptual parsing", in mmsegmentation's form (UPerHead),
which SkySense and PANGAEA use: channels 512, pools of 1, 2, 3 and 6 bins.
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


def _like(x: Array, other: Array) -> Array:
  return resampling.bilinear(x, *other.shape[1:3])


class PyramidPool(nnx.Module):
  """Means over bins of several sizes, each squeezed and brought back."""

  def __init__(
    self, dim: int, channels: int, bins: Sequence[int], *, key: Array
  ):
    self.squeeze = nnx.Dict(
      {
        str(n): convolution.ConvNorm(
          dim, channels, 1, key=rng.named(key, str(n))
        )
        for n in bins
      }
    )
    self.bins = tuple(bins)

  def __call__(self, x: Array, *, mode: Mode) -> Array:
    """x: [B, H, W, D] -> [B, H, W, bins * channels]."""
    out = []
    for n in self.bins:
      pooled = resampling.adaptive_pool(x, n, n)
      out.append(_like(self.squeeze[str(n)](pooled, mode=mode), x))
    return jnp.concatenate(out, -1)


class UperNet(nnx.Module):
  """Scores on the grid of the finest of its maps."""

  def __init__(
    self,
    dims: Sequence[int],
    outputs: int,
    *,
    levels: Sequence[str],
    channels: int = 512,
    bins: Sequence[int] = (1, 2, 3, 6),
    dropout: float = 0.1,
    key: Array,
  ):
    """`dims` are the channels of the maps `levels`, finest first."""
    made = lambda c, size, *names: convolution.ConvNorm(
      c, channels, size, key=rng.named(key, *names)
    )
    *below, top = range(len(dims))
    self.pool = PyramidPool(
      dims[top], channels, bins, key=rng.named(key, 'pool')
    )
    self.bottleneck = made(dims[top] + len(bins) * channels, 3, 'bottleneck')
    self.lateral = nnx.Dict(
      {str(i): made(dims[i], 1, 'lateral', str(i)) for i in below}
    )
    self.smooth = nnx.Dict(
      {str(i): made(channels, 3, 'smooth', str(i)) for i in below}
    )
    self.joined = made(len(dims) * channels, 3, 'joined')
    self.scores = convolution.Conv(
      channels, outputs, 1, key=rng.named(key, 'scores'), std=0.01
    )
    self.levels = tuple(levels)
    self.dropout = dropout

  def __call__(
    self, features: contract.Features, *, mode: Mode, key: Array | None = None
  ) -> Array:
    """-> f32[B, h, w, K]."""
    maps = [features.maps[name].astype(jnp.float32) for name in self.levels]
    *below, last = maps
    top = jnp.concatenate([last, self.pool(last, mode=mode)], -1)
    path = [self.bottleneck(top, mode=mode)]
    for i in reversed(range(len(below))):
      side = self.lateral[str(i)](below[i], mode=mode)
      path.insert(0, side + _like(path[0], side))
    out = [
      self.smooth[str(i)](x, mode=mode) for i, x in enumerate(path[:-1])
    ] + path[-1:]
    y = jnp.concatenate([_like(x, out[0]) for x in out], -1)
    y = self.joined(y, mode=mode)
    return self.scores(convolution.drop_channels(y, self.dropout, key=key))
