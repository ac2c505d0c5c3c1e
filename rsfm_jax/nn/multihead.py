"""Multi-head attention over sequences, to themselves or to a context."""

from flax import nnx
import jax
import jax.numpy as jnp

from rsfm_jax.core import rng
from rsfm_jax.nn import attention
from rsfm_jax.nn import linear
from rsfm_jax.nn import remat

Array = jax.Array

# Finite, so that a sequence without any valid key is no 0 / 0.
_MASKED = -1e30


class MultiHeadAttention(nnx.Module):
  """softmax(q k' / sqrt(K)) v with biases on q, k, v and the output."""

  def __init__(
    self,
    dim: int,
    heads: int,
    *,
    key: Array,
    std: float | None = linear.DEFAULT_STD,
  ):
    if dim % heads:
      raise ValueError(f'model.heads={heads} does not divide dim={dim}.')
    dense = lambda name: linear.Dense(
      dim, dim, key=rng.named(key, name), std=std
    )
    self.query = dense('query')
    self.key = dense('key')
    self.value = dense('value')
    self.out = dense('out')
    self.heads = heads

  def __call__(
    self,
    x: Array,
    context: Array | None = None,
    valid: Array | None = None,
  ) -> Array:
    """Softmax in float32; the result has the dtype of `x`.

    Args:
      x: [B, T, D] what asks.
      context: [B, S, D] what is asked, `x` itself unless given.
      valid: bool[B, S], which rows of the context count. Whatever the others
        hold, NaN included, changes no bit of what the counting rows give; a
        sequence with none that count attends to nothing (zeros before `out`).

    Returns:
      [B, T, D].
    """
    b, t, dim = x.shape
    x, context = _cleared(x, context, valid)
    kept = remat.kept
    q, k = self._pair(x, context)
    v = self._split(kept(self.value(context)))
    bias = jnp.zeros((1, self.heads, t, context.shape[1]), jnp.float32)
    if valid is not None:
      v = jnp.where(valid[:, None, :, None], v, 0).astype(v.dtype)
      bias = jnp.where(valid[:, None, None], bias, _MASKED)
    y = kept(attention.attend(q, k, v, bias))
    return kept(self.out(y.transpose(0, 2, 1, 3).reshape(b, t, dim)))

  def weights(
    self,
    x: Array,
    context: Array | None = None,
    valid: Array | None = None,
  ) -> Array:
    """What looks at what, for figures: f32[B, N, T, S]; rows sum to 1."""
    q, k = self._pair(*_cleared(x, context, valid))
    logits = jnp.einsum(
      'bntk,bnsk->bnts', q, k, preferred_element_type=jnp.float32
    )
    if valid is not None:
      logits = jnp.where(valid[:, None, None], logits, _MASKED)
    return jax.nn.softmax(logits, axis=-1)

  def _split(self, y: Array) -> Array:
    """[B, T, D] -> [B, N, T, K]."""
    b, t, dim = y.shape
    y = y.reshape(b, t, self.heads, dim // self.heads)
    return y.transpose(0, 2, 1, 3)

  def _pair(self, x: Array, context: Array) -> tuple[Array, Array]:
    """Scaled queries [B, N, T, K] and keys [B, N, S, K]."""
    scale = (x.shape[-1] // self.heads) ** -0.5
    q = self._split(remat.kept(self.query(x)) * scale)
    return q, self._split(remat.kept(self.key(context)))


def _cleared(
  x: Array, context: Array | None, valid: Array | None
) -> tuple[Array, Array]:
  """Who asks and what is asked, with zeros in rows that do not count.

  Before any product: 0 * NaN is NaN, forward and in the gradients.
  """
  clear = lambda y: y if valid is None else jnp.where(valid[..., None], y, 0)
  if context is None:
    x = clear(x)
    return x, x
  return x, clear(context)
