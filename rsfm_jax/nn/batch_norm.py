"""Batch normalisation whose running statistics are handed in and out."""

from typing import Literal

from flax import nnx
import jax
import jax.numpy as jnp

from rsfm_jax.core import choices

Array = jax.Array
Mode = Literal['train', 'eval']
MODES = ('train', 'eval')


class BatchNorm(nnx.Module):
  """Over all axes but the last, in float32 whatever comes in.

  As torch's: a training batch is normalised by its biased variance, and moves
  the running variance by its unbiased one. The running statistics are
  `nnx.BatchStat`s: whoever splits the module takes them apart from the
  parameters and, after a call with mode='train', reads the new ones.
  """

  def __init__(self, dim: int, *, eps: float = 1e-5, momentum: float = 0.1):
    self.scale = nnx.Param(jnp.ones(dim))
    self.bias = nnx.Param(jnp.zeros(dim))
    self.mean = nnx.BatchStat(jnp.zeros(dim))
    self.variance = nnx.BatchStat(jnp.ones(dim))
    self.eps = eps
    self.momentum = momentum

  def __call__(self, x: Array, *, mode: Mode) -> Array:
    """x: [..., D] -> [..., D], in the dtype of `x`."""
    choices.check(mode, MODES, key='mode')
    y = x.astype(jnp.float32)
    shape = (1,) * (x.ndim - 1) + (-1,)
    mean, variance = self.mean[...], self.variance[...]
    if mode == 'train':
      axes = tuple(range(x.ndim - 1))
      mean, variance = y.mean(axes), y.var(axes)
      self._move(mean, variance, count=x.size // x.shape[-1])
    scale = self.scale[...] * jax.lax.rsqrt(variance + self.eps)
    y = (y - mean.reshape(shape)) * scale.reshape(shape)
    return (y + self.bias[...].reshape(shape)).astype(x.dtype)

  def _move(self, mean: Array, variance: Array, *, count: int) -> None:
    unbiased = variance * (count / max(count - 1, 1))
    for kept, seen in ((self.mean, mean), (self.variance, unbiased)):
      seen = jax.lax.stop_gradient(seen)
      kept[...] = kept[...] + self.momentum * (seen - kept[...])
