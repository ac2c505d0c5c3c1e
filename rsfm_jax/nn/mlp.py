"""The two-layer FFN that every expert is made of."""

from collections.abc import Callable
import functools
import math
from typing import Literal

from flax import nnx
import jax
import jax.numpy as jnp

from rsfm_jax.core import choices
from rsfm_jax.nn import linear
from rsfm_jax.nn import remat

Array = jax.Array
Activation = Literal['gelu_tanh', 'gelu']

_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)


@jax.custom_vjp
def gelu(x: Array) -> Array:
  """GELU in its tanh form (RingMoE; MindSpore's default).

  The written VJP keeps x alone and computes the tanh again: on CPU that is
  cheaper than writing and reading it.
  """
  return jax.nn.gelu(x, approximate=True)


def _gelu_forward(x):
  return gelu(x), x


def _gelu_backward(x, dy):
  y = x.astype(jnp.float32)
  inner = _SQRT_2_OVER_PI * (y + 0.044715 * y**3)
  tanh = jnp.tanh(inner)
  slope = _SQRT_2_OVER_PI * (1 + 3 * 0.044715 * y**2)
  derivative = 0.5 * (1 + tanh) + 0.5 * y * (1 - tanh**2) * slope
  return ((dy * derivative).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)

# 'gelu' has the error function (torch's default, and so that of ViT, Swin V2
# and SkySense v1); the tanh form lies within 5e-4 of it.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  'gelu_tanh': gelu,
  'gelu': functools.partial(jax.nn.gelu, approximate=False),
}


def stacked_ffn(
  x: Array,
  w_in: Array,
  b_in: Array,
  w_out: Array,
  b_out: Array,
  *,
  activation: Activation = 'gelu_tanh',
) -> Array:
  """One FFN per leading index, as batched matmuls.

  Args:
    x: [X, R, D] rows of each group.
    w_in: [X, D, F].
    b_in: [X, F].
    w_out: [X, F, D].
    b_out: [X, D].
    activation: one of `ACTIVATIONS`.

  Returns:
    [X, R, D] in the dtype of `x`; products accumulate in float32.
  """
  dot = lambda a, b: jax.lax.dot_general(
    a,
    b.astype(a.dtype),
    (((2,), (1,)), ((0,), (0,))),
    preferred_element_type=jnp.float32,
  ).astype(a.dtype)
  hidden = remat.hidden(dot(x, w_in) + b_in[:, None].astype(x.dtype))
  active = ACTIVATIONS[activation](hidden)
  return dot(active, w_out) + b_out[:, None].astype(x.dtype)


class Mlp(nnx.Module):
  """FFN(D -> F -> D), both layers biased; RingMoE's shared expert."""

  def __init__(
    self,
    dim: int,
    hidden: int,
    *,
    key: Array,
    std: float | None = linear.DEFAULT_STD,
    activation: Activation = 'gelu_tanh',
  ):
    choices.check(activation, ACTIVATIONS, key='activation of an FFN')
    k_in, k_out = jax.random.split(key)
    self.w_in = nnx.Param(linear.truncated_normal(k_in, (dim, hidden), std))
    self.b_in = nnx.Param(jnp.zeros(hidden))
    self.w_out = nnx.Param(linear.truncated_normal(k_out, (hidden, dim), std))
    self.b_out = nnx.Param(jnp.zeros(dim))
    self.activation = activation

  @property
  def weights(self) -> tuple[Array, Array, Array, Array]:
    """w_in [1, D, F], b_in [1, F], w_out [1, F, D], b_out [1, D]."""
    found = (self.w_in, self.b_in, self.w_out, self.b_out)
    return tuple(w[...][None] for w in found)

  def __call__(self, x: Array) -> Array:
    """x: [..., D] -> [..., D]."""
    flat = x.reshape(1, -1, x.shape[-1])
    y = stacked_ffn(flat, *self.weights, activation=self.activation)
    return y.reshape(x.shape)
