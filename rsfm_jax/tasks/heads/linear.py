"""Linear heads: one of pooled tokens, one of every token."""

from flax import nnx
import jax
import jax.numpy as jnp

from rsfm_jax.nn import batch_norm
from rsfm_jax.nn import linear
from rsfm_jax.nn import patches
from rsfm_jax.tasks import contract

Array = jax.Array
_STD = 0.01  # DEFAULT (NOT FOUND in the papers): small scores at the start.


class PooledLinear(nnx.Module):
  """Mean over the tokens of one map, then a linear layer."""

  def __init__(self, dim: int, outputs: int, *, level: str, key: Array):
    self.dense = linear.Dense(dim, outputs, key=key, std=_STD)
    self.level = level

  def __call__(
    self,
    features: contract.Features,
    *,
    mode: batch_norm.Mode,
    key: Array | None = None,
  ) -> Array:
    """-> f32[B, K]."""
    del mode, key
    tokens = features.maps[self.level].astype(jnp.float32)
    return self.dense(tokens.mean(tuple(range(1, tokens.ndim - 1))))


class TokenLinear(nnx.Module):
  """A linear layer of every token to the scores of its patch of pixels."""

  def __init__(
    self, dim: int, outputs: int, *, level: str, patch: int, key: Array
  ):
    self.dense = linear.Dense(dim, outputs * patch**2, key=key, std=_STD)
    self.level = level
    self.patch = patch

  def __call__(
    self,
    features: contract.Features,
    *,
    mode: batch_norm.Mode,
    key: Array | None = None,
  ) -> Array:
    """-> f32[B, H, W, K]; channels of a token are (row, column, class)."""
    del mode, key
    tokens = features.maps[self.level].astype(jnp.float32)
    return patches.depth_to_space(self.dense(tokens), self.patch)
