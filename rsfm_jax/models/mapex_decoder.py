"""The decoder of a MAPEX-style model: dense, one for all sensors (MAE)."""

from collections.abc import Mapping

from flax import nnx
import jax
import jax.numpy as jnp

from rsfm_jax.core import rng
from rsfm_jax.models import mapex_spec as spec_lib
from rsfm_jax.nn import linear
from rsfm_jax.nn import multihead
from rsfm_jax.nn import positions
from rsfm_jax.nn import transformer

Array = jax.Array
Grids = Mapping[str, tuple[int, int]]


class Decoder(nnx.Module):
  """Fills the places of tokens that were left out and predicts their pixels.

  As MAE's: a projection, a mask token, fixed positions in waves, pre-norm
  blocks, a norm. A learnt vector and a linear head per sensor are DEFAULTs.
  """

  def __init__(self, spec: spec_lib.MapexSpec, *, key: Array):
    dim, std = spec.decoder_dim, spec.init_std
    named = lambda *names: rng.named(key, *names)
    vector = lambda *names: nnx.Param(
      linear.truncated_normal(named(*names), (dim,))
    )
    self.input = linear.Dense(spec.embed_dim, dim, key=named('input'), std=std)
    self.mask_token = vector('mask_token')
    self.sensors = nnx.Dict({s: vector('sensors', s) for s in spec.sensors})
    self.blocks = transformer.stacked(
      lambda k: transformer.Block(
        multihead.MultiHeadAttention(
          dim, spec.decoder_heads, key=rng.named(k, 'attention'), std=std
        ),
        transformer.Ffn(
          dim,
          4 * dim,
          key=rng.named(k, 'ffn'),
          std=std,
          activation=spec.activation,
        ),
        dim=dim,
      ),
      spec.decoder_depth,
      key=named('blocks'),
    )
    self.norm = linear.LayerNorm(dim)
    self.heads = nnx.Dict(
      {
        sensor: linear.Dense(
          dim,
          spec.patch_size**2 * channels,
          key=named('heads', sensor),
          std=std,
        )
        for sensor, channels in zip(spec.sensors, spec.channels, strict=True)
      }
    )
    self.spec = spec

  def __call__(
    self,
    latent: Array,
    order: Array,
    kept: Array,
    *,
    grids: Grids,
    valid: Array | None = None,
  ) -> dict[str, Array]:
    """Reconstructs every patch of every sensor.

    Args:
      latent: [B, K, D], normalised tokens that the encoder saw.
      order: i32[B, T], a permutation of the union of tokens; the first K are
        those of `latent`.
      kept: bool[B, K], which of them count.
      grids: {sensor: (h, w)} in the order of the union.
      valid: bool[B, T], tokens to attend to.

    Returns:
      {sensor: [B, h, w, p * p * C]}, pixels as (row, column, C).
    """
    mask = self.mask_token[...].astype(latent.dtype)
    y = jnp.where(kept[..., None], self.input(latent), mask[None, None])
    rest = order.shape[1] - y.shape[1]
    y = jnp.pad(y, ((0, 0), (0, rest), (0, 0)))
    place = jnp.argsort(order, axis=1)  # Where each token stands in `order`.
    y = jnp.where(
      (place < kept.shape[1])[..., None],
      jnp.take_along_axis(y, place[..., None], 1),
      mask[None, None],
    )
    dim = self.spec.decoder_dim
    where = [
      positions.resized_sincos(dim, self.spec.grid, *grid).reshape(-1, dim)
      + self.sensors[sensor][...][None]
      for sensor, grid in grids.items()
    ]
    y = y + jnp.concatenate(where)[None].astype(y.dtype)
    y, _ = transformer.run(
      self.blocks,
      y,
      depth=self.spec.decoder_depth,
      remat=self.spec.remat,
      unroll=self.spec.unroll,
      tokens_valid=valid,
    )
    y, start, out = self.norm(y), 0, {}
    for sensor, (h, w) in grids.items():
      part = self.heads[sensor](y[:, start : start + h * w])
      out[sensor] = part.reshape(len(y), h, w, -1)
      start += h * w
    return out
