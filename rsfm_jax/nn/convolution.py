"""Convolutions of dense heads, with batch normalisation and ReLU."""

from flax import nnx
import jax
import jax.numpy as jnp

from rsfm_jax.nn import batch_norm
from rsfm_jax.nn import linear

Array = jax.Array


class Conv(nnx.Module):
  """A square convolution that keeps the grid; kernel [k, k, C, D]."""

  def __init__(
    self,
    channels: int,
    dim: int,
    size: int,
    *,
    key: Array,
    std: float | None = None,
    dilation: int = 1,
    use_bias: bool = True,
  ):
    """`std=None` takes He's sqrt(2 / fan-in), for a ReLU that follows."""
    if std is None:
      std = (2 / (size * size * channels)) ** 0.5
    shape = (size, size, channels, dim)
    self.kernel = nnx.Param(linear.truncated_normal(key, shape, std))
    self.bias = nnx.Param(jnp.zeros(dim)) if use_bias else None
    self.dilation = dilation

  def __call__(self, x: Array) -> Array:
    """x: [B, H, W, C] -> [B, H, W, D], zeros beyond the border."""
    y = jax.lax.conv_general_dilated(
      x,
      self.kernel[...].astype(x.dtype),
      window_strides=(1, 1),
      padding='SAME',
      rhs_dilation=(self.dilation,) * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return y if self.bias is None else linear.add_bias(y, self.bias[...])


class ConvNorm(nnx.Module):
  """Convolution without bias, batch normalisation, ReLU."""

  def __init__(
    self,
    channels: int,
    dim: int,
    size: int,
    *,
    key: Array,
    dilation: int = 1,
  ):
    self.conv = Conv(
      channels, dim, size, key=key, dilation=dilation, use_bias=False
    )
    self.norm = batch_norm.BatchNorm(dim)

  def __call__(self, x: Array, *, mode: batch_norm.Mode) -> Array:
    """x: [B, H, W, C] -> [B, H, W, D]."""
    return jax.nn.relu(self.norm(self.conv(x), mode=mode))


def drop_channels(x: Array, rate: float, *, key: Array | None) -> Array:
  """Zeros whole channels of [B, H, W, C] in training; none without a key."""
  if key is None or not rate:
    return x
  keep = jax.random.uniform(key, (x.shape[0], 1, 1, x.shape[-1])) >= rate
  return x * jnp.where(keep, 1 / (1 - rate), 0).astype(x.dtype)
