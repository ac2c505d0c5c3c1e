"""BIT: what changed, found by attention over a few tokens of both dates.

Chen, Qi and Shi, "Remote sensing image change detection with transformers":
each date is summed up in L tokens, an encoder relates the tokens of both, a
decoder writes them back into the pixels of each date, and the difference of
the dates is classified. As in its public code, the width is 32, attention is
scaled by the width of the model, and a decoder layer normalises pixels and
tokens by one layer norm.
"""

from flax import nnx
import jax
import jax.numpy as jnp

from rsfm_jax.core import rng
from rsfm_jax.nn import batch_norm
from rsfm_jax.nn import convolution
from rsfm_jax.nn import linear
from rsfm_jax.nn import mlp
from rsfm_jax.nn import resampling
from rsfm_jax.tasks import contract

Array = jax.Array
_EPS = 1e-5


class Attention(nnx.Module):
  """softmax(q k' / sqrt(D)) v, no biases but that of the output."""

  def __init__(self, dim: int, heads: int, head_dim: int, *, key: Array):
    inner = heads * head_dim
    make = lambda name, a, b, bias: linear.Dense(
      a, b, key=rng.named(key, name), std=None, use_bias=bias
    )
    self.query = make('query', dim, inner, False)
    self.key = make('key', dim, inner, False)
    self.value = make('value', dim, inner, False)
    self.out = make('out', inner, dim, True)
    self.heads = heads

  def __call__(self, x: Array, context: Array) -> Array:
    """x: [B, T, D] asks context: [B, S, D] -> [B, T, D]."""
    split = lambda y: y.reshape(*y.shape[:2], self.heads, -1)
    q, k, v = (
      split(layer(y))
      for layer, y in (
        (self.query, x),
        (self.key, context),
        (self.value, context),
      )
    )
    logits = jnp.einsum('btnk,bsnk->bnts', q, k) * x.shape[-1] ** -0.5
    y = jnp.einsum('bnts,bsnk->btnk', jax.nn.softmax(logits, -1), v)
    return self.out(y.reshape(*x.shape[:2], -1))


class Layer(nnx.Module):
  """Pre-norm attention, to itself or to a memory, and FFN, with residuals."""

  def __init__(self, dim: int, heads: int, head_dim: int, *, key: Array):
    self.norm_1 = linear.LayerNorm(dim, eps=_EPS)
    self.attention = Attention(
      dim, heads, head_dim, key=rng.named(key, 'attention')
    )
    self.norm_2 = linear.LayerNorm(dim, eps=_EPS)
    self.ffn = mlp.Mlp(
      dim, 2 * dim, key=rng.named(key, 'ffn'), std=None, activation='gelu'
    )

  def __call__(self, x: Array, memory: Array | None = None) -> Array:
    """x: [B, T, D], memory: [B, S, D] -> [B, T, D]."""
    y = self.norm_1(x)
    context = y if memory is None else self.norm_1(memory)
    x = x + self.attention(y, context)
    return x + self.ffn(self.norm_2(x))


class Bit(nnx.Module):
  """Two maps of one place to the scores of change."""

  def __init__(
    self,
    dim: int,
    outputs: int,
    *,
    level: str,
    width: int = 32,
    tokens: int = 4,
    encoder: int = 1,
    decoder: int = 8,
    heads: int = 8,
    head_dim: int = 8,
    upsample: int = 4,
    key: Array,
  ):
    """The maps' `dim` channels are squeezed to `width` first, as the CNN's.

    Depths, heads and head_dim are those of the public code's
    `base_transformer_pos_s4_dd8_dedim8` (DEFAULT: SkySense V2 names BIT alone).
    """
    self.squeeze = convolution.Conv(
      dim, width, 3, key=rng.named(key, 'squeeze')
    )
    self.select = linear.Dense(
      width, tokens, key=rng.named(key, 'select'), std=None, use_bias=False
    )
    self.positions = nnx.Param(
      jax.random.normal(rng.named(key, 'positions'), (2 * tokens, width))
    )
    layers = lambda name, n: nnx.Dict(
      {
        str(i): Layer(width, heads, head_dim, key=rng.named(key, name, str(i)))
        for i in range(n)
      }
    )
    self.encoder = layers('encoder', encoder)
    self.decoder = layers('decoder', decoder)
    self.joined = convolution.ConvNorm(
      width, width, 3, key=rng.named(key, 'joined')
    )
    self.scores = convolution.Conv(
      width, outputs, 3, key=rng.named(key, 'scores'), std=0.01
    )
    self.level = level
    self.upsample = upsample

  def tokens(self, x: Array) -> Array:
    """x: [B, h, w, D] -> [B, L, D], means weighted over the places."""
    share = jax.nn.softmax(self.select(x), axis=(1, 2))
    return jnp.einsum('bhwl,bhwd->bld', share, x)

  def compare(
    self, before: Array, after: Array, *, mode: batch_norm.Mode
  ) -> Array:
    """Maps [B, h, w, width] of both dates -> f32[B, s h, s w, K]."""
    both = jnp.concatenate([self.tokens(before), self.tokens(after)], 1)
    both = both + self.positions[...][None]
    for i in range(len(self.encoder)):
      both = self.encoder[str(i)](both)
    written = []
    for x, memory in zip((before, after), jnp.split(both, 2, 1)):
      y = x.reshape(len(x), -1, x.shape[-1])
      for i in range(len(self.decoder)):
        y = self.decoder[str(i)](y, memory)
      written.append(y.reshape(x.shape))
    y = jnp.abs(written[0] - written[1])
    size = (side * self.upsample for side in y.shape[1:3])
    return self.scores(self.joined(resampling.bilinear(y, *size), mode=mode))

  def __call__(
    self,
    features: contract.Features,
    *,
    mode: batch_norm.Mode,
    key: Array | None = None,
  ) -> Array:
    """-> f32[B, s h, s w, K]."""
    del key
    pair = features.maps[self.level].astype(jnp.float32)
    before, after = (self.squeeze(pair[:, i]) for i in range(2))
    return self.compare(before, after, mode=mode)
