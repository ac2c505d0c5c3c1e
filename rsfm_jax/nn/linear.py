"""Dense layers and layer normalisation with explicit precision."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp

Array = jax.Array

# All matrices start from a normal cut at two standard deviations
# (RingMoE's code: every Linear, bias tables and the mask token, std 0.02).
DEFAULT_STD = 0.02


def truncated_normal(
  key: Array, shape: tuple[int, ...], std: float | None = DEFAULT_STD
) -> Array:
  """Normal(0, std) cut at 2 std; `std=None` means 1 / sqrt(fan-in)."""
  scale = shape[-2] ** -0.5 if std is None else std
  return scale * jax.random.truncated_normal(key, -2.0, 2.0, shape)


class Dense(nnx.Module):
  """`y = x W + b`; kernel [D_in, D_out], the bias optional."""

  def __init__(
    self,
    d_in: int,
    d_out: int,
    *,
    key: Array,
    std: float | None = DEFAULT_STD,
    use_bias: bool = True,
  ):
    self.kernel = nnx.Param(truncated_normal(key, (d_in, d_out), std))
    self.bias = nnx.Param(jnp.zeros(d_out)) if use_bias else None

  def __call__(self, x: Array) -> Array:
    """x: [..., D_in] -> [..., D_out], in the dtype of `x`."""
    y = x @ self.kernel[...].astype(x.dtype)
    if self.bias is None:
      return y
    return add_bias(y, self.bias[...])


def add_bias(y: Array, bias: Array) -> Array:
  """Adds a vector over the last axis without implicit rank promotion."""
  shape = (1,) * (y.ndim - 1) + (-1,)
  return y + bias.astype(y.dtype).reshape(shape)


class LayerNorm(nnx.Module):
  """Layer normalisation over the last axis, in float32 whatever comes in."""

  def __init__(self, dim: int, *, eps: float = 1e-6, gain: float = 1.0):
    self.scale = nnx.Param(jnp.full(dim, gain, jnp.float32))
    self.bias = nnx.Param(jnp.zeros(dim))
    self.eps = eps

  def __call__(self, x: Array) -> Array:
    """x: [..., D] -> [..., D], in the dtype of `x`."""
    return normalise(x, self.scale[...], self.bias[...], self.eps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise(x: Array, scale: Array, bias: Array, eps: float) -> Array:
  """Layer normalisation of [..., D] by float32 statistics.

  The written VJP keeps the input, its mean and its inverse deviation; autodiff
  would keep float32 copies of every step between.
  """
  return _normalise_forward(x, scale, bias, eps)[0]


def _normalise_forward(x, scale, bias, eps):
  y = x.astype(jnp.float32)
  mean = y.mean(-1, keepdims=True)
  inverse = jax.lax.rsqrt(jnp.square(y - mean).mean(-1, keepdims=True) + eps)
  shape = (1,) * (y.ndim - 1) + (-1,)
  y = (y - mean) * inverse * scale.reshape(shape) + bias.reshape(shape)
  return y.astype(x.dtype), (x, scale, mean, inverse)


def _normalise_backward(eps, saved, dy):
  del eps
  x, scale, mean, inverse = saved
  shape = (1,) * (x.ndim - 1) + (-1,)
  rows = tuple(range(x.ndim - 1))
  dy = dy.astype(jnp.float32)
  unit = (x.astype(jnp.float32) - mean) * inverse
  inner = dy * scale.reshape(shape)
  along = (inner * unit).mean(-1, keepdims=True)
  dx = inverse * (inner - inner.mean(-1, keepdims=True) - unit * along)
  return dx.astype(x.dtype), (dy * unit).sum(rows), dy.sum(rows)


normalise.defvjp(_normalise_forward, _normalise_backward)
