"""A feature pyramid (Lin et al., FPN) over the maps of an encoder.

As mmdetection's FPN: every map is brought to one width, the coarser one is
added upsampled, a 3x3 convolution follows, and one more level is every second
place of the coarsest. Before that each map has a layer norm, as the outputs of
mmdetection's Swin have.
"""

from collections.abc import Sequence

from flax import nnx
import jax
import jax.numpy as jnp

from rsfm_jax.core import rng
from rsfm_jax.nn import convolution
from rsfm_jax.nn import linear
from rsfm_jax.nn import resampling

Array = jax.Array


def xavier(channels: int, dim: int, size: int) -> float:
  """Glorot's standard deviation for a square convolution."""
  return (2 / (size * size * (channels + dim))) ** 0.5


class FeaturePyramid(nnx.Module):
  """Maps of several widths to levels of one width and one more."""

  def __init__(self, dims: Sequence[int], channels: int, *, key: Array):
    """`dims` are the channels of the maps, finest first."""
    norms, lateral, smooth = {}, {}, {}
    for i, dim in enumerate(dims):
      norms[str(i)] = linear.LayerNorm(dim)
      lateral[str(i)] = convolution.Conv(
        dim,
        channels,
        1,
        key=rng.named(key, 'lateral', str(i)),
        std=xavier(dim, channels, 1),
      )
      smooth[str(i)] = convolution.Conv(
        channels,
        channels,
        3,
        key=rng.named(key, 'smooth', str(i)),
        std=xavier(channels, channels, 3),
      )
    self.norms = nnx.Dict(norms)
    self.lateral = nnx.Dict(lateral)
    self.smooth = nnx.Dict(smooth)

  def __call__(self, maps: Sequence[Array]) -> list[Array]:
    """[B, h, w, D], finest first -> f32[B, h, w, C], one level more."""
    path: list[Array] = []
    for i in reversed(range(len(maps))):
      side = self.norms[str(i)](maps[i].astype(jnp.float32))
      side = self.lateral[str(i)](side)
      if path:
        side = side + resampling.nearest(path[0], *side.shape[1:3])
      path.insert(0, side)
    out = [self.smooth[str(i)](x) for i, x in enumerate(path)]
    return [*out, out[-1][:, ::2, ::2]]
