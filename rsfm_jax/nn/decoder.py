"""The transformer decoder layer: queries that read a memory.

SkySense V2's QSACL reads fused features with it, "one standard decoder layer"
(arXiv 2507.13812); width, heads and the order of norms are NOT FOUND there.
DEFAULT: width 1024, 16 heads, pre-norm, 16,796,672 parameters.
"""

from typing import Literal

from flax import nnx
import jax

from rsfm_jax.core import choices
from rsfm_jax.core import rng
from rsfm_jax.nn import linear
from rsfm_jax.nn import mlp
from rsfm_jax.nn import multihead

Array = jax.Array
Norm = Literal['pre', 'post']
NORMS = ('pre', 'post')


class DecoderLayer(nnx.Module):
  """Self-attention, attention to a memory, FFN; each with a residual.

  'pre' is x + f(LN(x)); the memory is not normalised and nothing is after the
  last sum. 'post' is LN(x + f(x)).
  """

  def __init__(
    self,
    dim: int,
    heads: int,
    *,
    key: Array,
    hidden: int | None = None,
    norm: Norm = 'pre',
    activation: mlp.Activation = 'gelu',
    eps: float = 1e-5,
    std: float | None = linear.DEFAULT_STD,
  ):
    """A layer of width `dim` with `heads` heads.

    Args:
      dim: D.
      heads: N; divides D.
      key: for the initial weights.
      hidden: F of the FFN, 4 D unless given.
      norm: where the layer norms stand.
      activation: of the FFN; see `mlp.Mlp`.
      eps: of the layer norms; that of torch's layer unless given.
      std: of all matrices; None takes 1 / sqrt(fan-in).
    """
    choices.check(norm, NORMS, key='norm')
    attend = lambda name: multihead.MultiHeadAttention(
      dim, heads, key=rng.named(key, name), std=std
    )
    self.self_attention = attend('self_attention')
    self.cross_attention = attend('cross_attention')
    self.ffn = mlp.Mlp(
      dim,
      4 * dim if hidden is None else hidden,
      key=rng.named(key, 'ffn'),
      std=std,
      activation=activation,
    )
    self.norm_1 = linear.LayerNorm(dim, eps=eps)
    self.norm_2 = linear.LayerNorm(dim, eps=eps)
    self.norm_3 = linear.LayerNorm(dim, eps=eps)
    self.norm = norm

  def __call__(
    self, x: Array, memory: Array, valid: Array | None = None
  ) -> Array:
    """What the queries found.

    Args:
      x: [B, Q, D] queries.
      memory: [B, S, D] tokens to read.
      valid: bool[B, S], which tokens count; see `MultiHeadAttention`.

    Returns:
      [B, Q, D].
    """
    read = lambda y: self.cross_attention(y, memory, valid)
    if self.norm == 'post':
      x = self.norm_1(x + self.self_attention(x))
      x = self.norm_2(x + read(x))
      return self.norm_3(x + self.ffn(x))
    x = x + self.self_attention(self.norm_1(x))
    x = x + read(self.norm_2(x))
    return x + self.ffn(self.norm_3(x))

  def maps(self, x: Array, memory: Array, valid: Array | None = None) -> Array:
    """Where each query looks, for figures: f32[B, N, Q, S], rows sum to 1."""
    if self.norm == 'post':
      asked = self.norm_1(x + self.self_attention(x))
    else:
      asked = self.norm_2(x + self.self_attention(self.norm_1(x)))
    return self.cross_attention.weights(asked, memory, valid)
