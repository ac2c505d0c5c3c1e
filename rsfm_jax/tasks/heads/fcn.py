"""A fully convolutional head on one map (mmsegmentation's FCNHead)."""

from flax import nnx
import jax
import jax.numpy as jnp

from rsfm_jax.core import rng
from rsfm_jax.nn import batch_norm
from rsfm_jax.nn import convolution
from rsfm_jax.tasks import contract

Array = jax.Array


class Fcn(nnx.Module):
  """3x3 convolutions, the input beside their result, scores of every place."""

  def __init__(
    self,
    dim: int,
    outputs: int,
    *,
    level: str,
    channels: int = 256,
    depth: int = 2,
    dropout: float = 0.1,
    key: Array,
  ):
    convs = {}
    for i in range(depth):
      convs[str(i)] = convolution.ConvNorm(
        channels if i else dim, channels, 3, key=rng.named(key, 'conv', str(i))
      )
    self.convs = nnx.Dict(convs)
    self.joined = convolution.ConvNorm(
      dim + channels, channels, 3, key=rng.named(key, 'joined')
    )
    self.scores = convolution.Conv(
      channels, outputs, 1, key=rng.named(key, 'scores'), std=0.01
    )
    self.level = level
    self.dropout = dropout

  def __call__(
    self,
    features: contract.Features,
    *,
    mode: batch_norm.Mode,
    key: Array | None = None,
  ) -> Array:
    """-> f32[B, h, w, K], on the grid of its map."""
    x = features.maps[self.level].astype(jnp.float32)
    y = x
    for i in range(len(self.convs)):
      y = self.convs[str(i)](y, mode=mode)
    y = self.joined(jnp.concatenate([x, y], -1), mode=mode)
    return self.scores(convolution.drop_channels(y, self.dropout, key=key))
