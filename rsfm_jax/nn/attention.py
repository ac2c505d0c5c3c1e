"""Window attention: learnt bias tables (Swin V1) or cosine with CPB (V2)."""

import functools
import math
from typing import Literal

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rsfm_jax.core import rng
from rsfm_jax.nn import linear
from rsfm_jax.nn import remat
from rsfm_jax.nn import window_kernel
from rsfm_jax.nn import windows

Array = jax.Array
Kind = Literal['v1_bias', 'v2_cosine']

# Swin V2 section 3.2: the temperature is kept above 0.01.
MAX_LOGIT_SCALE = math.log(100.0)
CPB_HIDDEN = 512


class ContinuousBias(nnx.Module):
  """Log-CPB: an MLP 2 -> 512 -> N over log-spaced offsets (Swin V2, Eq. 3)."""

  def __init__(self, heads: int, table_window: int, *, key: Array):
    k_in, k_out = jax.random.split(key)
    self.hidden = linear.Dense(2, CPB_HIDDEN, key=k_in)
    self.out = linear.Dense(CPB_HIDDEN, heads, key=k_out, use_bias=False)
    self.table_window = table_window

  def __call__(self, window: int) -> Array:
    """Bias for all pairs of a window: f32[N, w², w²]."""
    coordinates = windows.log_coordinates(window, self.table_window)
    table = self.out(jax.nn.relu(self.hidden(jnp.asarray(coordinates))))
    table = 16.0 * jax.nn.sigmoid(table)
    index = windows.relative_index(window, window)
    return table[index].transpose(2, 0, 1)


class WindowAttention(nnx.Module):
  """Multi-head self-attention inside the windows of a grid.

  `v1_bias` is what RingMoE's code executes: softmax(q k' / sqrt(K) + B), all
  of q, k, v biased. `v2_cosine` is Swin V2: cosine similarity times a learnt
  temperature per head, log-CPB, no bias on k.

  `engine` says which of two forms computes it: see `window_kernel.choose`;
  `cpb_window` is the window whose largest offset log-CPB counts as 1, that of
  pre-training where weights came from a smaller one (Swin V2, section 3.3).
  """

  def __init__(
    self,
    dim: int,
    heads: int,
    window: int,
    *,
    kind: Kind,
    key: Array,
    std: float | None = linear.DEFAULT_STD,
    engine: window_kernel.Engine = 'auto',
    cpb_window: int | None = None,
  ):
    if dim % heads:
      raise ValueError(f'model.heads={heads} does not divide dim={dim}.')
    dense = lambda name, bias=True: linear.Dense(
      dim, dim, key=rng.named(key, name), std=std, use_bias=bias
    )
    self.query = dense('query')
    self.key = dense('key', kind == 'v1_bias')
    self.value = dense('value')
    self.out = dense('out')
    self.heads = heads
    self.window = window
    self.kind = kind
    self.engine = engine
    if kind == 'v1_bias':
      table = ((2 * window - 1) ** 2, heads)
      self.bias_table = nnx.Param(
        linear.truncated_normal(rng.named(key, 'bias_table'), table)
      )
    else:
      start = jnp.full(heads, math.log(10.0), jnp.float32)
      self.logit_scale = nnx.Param(start)
      self.cpb = ContinuousBias(
        heads, cpb_window or window, key=rng.named(key, 'cpb')
      )

  def _bias(self, window: int) -> Array:
    """f32[N, w², w²]."""
    if self.kind == 'v2_cosine':
      return self.cpb(window)
    index = windows.relative_index(window, self.window)
    return self.bias_table[...][index].transpose(2, 0, 1)

  def _temperature(self) -> Array:
    """f32[N] of `v2_cosine`."""
    return jnp.exp(jnp.minimum(self.logit_scale[...], MAX_LOGIT_SCALE))

  def _scaled(self, q: Array, k: Array) -> tuple[Array, Array]:
    """q, k: [X, N, T, K] such that q k' are the logits before the bias."""
    if self.kind == 'v1_bias':
      return q * q.shape[-1] ** -0.5, k
    scale = self._temperature().astype(q.dtype)
    return _unit(q) * scale[None, :, None, None], _unit(k)

  def __call__(
    self, x: Array, *, shifted: bool, mesh: Mesh | None = None
  ) -> Array:
    """x: [B, H, W, D] -> [B, H, W, D]; softmax in float32.

    Args:
      x: tokens of the grid.
      shifted: whether the windows are shifted by half their side.
      mesh: the devices that B is cut over, if any.
    """
    layout = windows.layout(*x.shape[1:3], self.window, shifted=shifted)
    return window_kernel.choose(
      x,
      plain=functools.partial(self._plain, layout=layout),
      fused=functools.partial(self._fused, layout=layout, mesh=mesh),
      window=layout.window,
      heads=self.heads,
      engine=self.engine,
    )

  def _plain(self, x: Array, *, layout: windows.Layout) -> Array:
    _, height, width, dim = x.shape
    window, shift = layout
    tokens = windows.partition(windows.roll(x, shift), window)
    bias = self._bias(window)[None]
    if shift:
      mask = windows.shift_mask(height, width, window, shift)
      bias = bias + mask[:, None]
    # Heads become a leading batch axis before the products: on CPU this is
    # six times faster than contracting [X, T, N, K] in place.
    split = lambda y: y.reshape(
      y.shape[0], y.shape[1], self.heads, -1
    ).transpose(0, 2, 1, 3)
    kept = remat.kept
    q, k = self._scaled(
      split(kept(self.query(tokens))), split(kept(self.key(tokens)))
    )
    y = kept(attend(q, k, split(kept(self.value(tokens))), bias))
    y = self.out(y.transpose(0, 2, 1, 3).reshape(-1, window * window, dim))
    y = kept(y)
    return windows.roll(windows.merge(y, window, height, width), -shift)

  def _fused(
    self, x: Array, *, layout: windows.Layout, mesh: Mesh | None
  ) -> Array:
    """The same by the kernel; tokens stay in the order of the image."""
    if self.kind == 'v1_bias':
      size = x.shape[-1] // self.heads
      scale = jnp.full(self.heads, size**-0.5, jnp.float32)
    else:
      scale = self._temperature()
    kept = remat.kept
    y = window_kernel.attend(
      kept(self.query(x)),
      kept(self.key(x)),
      kept(self.value(x)),
      self._bias(layout.window),
      scale,
      window=layout.window,
      shift=layout.shift,
      similarity='dot' if self.kind == 'v1_bias' else 'cosine',
      mesh=mesh,
    )
    return kept(self.out(kept(y)))


@jax.custom_vjp
def attend(q: Array, k: Array, v: Array, bias: Array) -> Array:
  """softmax(q k' + bias) v.

  The written VJP keeps q, k, v and the weights only. What autodiff keeps
  beside them (the exponentials and their broadcast sums) is as large again,
  and moving it is what attention costs on CPU.

  Args:
    q: [X, N, T, K], scaled; X runs over images, then windows.
    k: [X, N, T, K].
    v: [X, N, T, K].
    bias: f32[W, N, T, T]; W divides X and runs fastest: 1, or the windows.

  Returns:
    [X, N, T, K] in the dtype of v.
  """
  return _attend_forward(q, k, v, bias)[0]


def _attend_forward(q, k, v, bias):
  logits = jnp.einsum(
    'xntk,xnsk->xnts', q, k, preferred_element_type=jnp.float32
  )
  shape = logits.shape
  logits = logits.reshape(-1, *bias.shape) + bias[None]
  weights = jax.nn.softmax(logits.reshape(shape), axis=-1).astype(v.dtype)
  y = jnp.einsum('xnts,xnsk->xntk', weights, v)
  return y, (q, k, v, weights, y, bias)


def _attend_backward(saved, dy):
  q, k, v, weights, y, bias = saved
  f32 = jnp.float32
  dweights = jnp.einsum('xntk,xnsk->xnts', dy, v, preferred_element_type=f32)
  # sum_s weights dweights, without reading both again.
  inner = (dy.astype(f32) * y.astype(f32)).sum(-1, keepdims=True)
  dlogits = weights.astype(f32) * (dweights - inner)
  dbias = dlogits.reshape(-1, *bias.shape).sum(0)
  dlogits = dlogits.astype(q.dtype)
  dq = jnp.einsum('xnts,xnsk->xntk', dlogits, k)
  # XLA:CPU contracts a leading axis of many small products element by element;
  # the barrier keeps it from folding the transposes back into the products.
  turned = jax.lax.optimization_barrier(
    (dlogits.swapaxes(2, 3), weights.swapaxes(2, 3))
  )
  dk = jnp.einsum('xnst,xntk->xnsk', turned[0], q)
  dv = jnp.einsum('xnst,xntk->xnsk', turned[1], dy)
  return dq, dk, dv, dbias


attend.defvjp(_attend_forward, _attend_backward)


def _unit(x: Array) -> Array:
  """Divides by the Euclidean norm over the last axis (eps 1e-12)."""
  y = x.astype(jnp.float32)
  square = jnp.square(y).sum(-1, keepdims=True)
  return (y * jax.lax.rsqrt(jnp.maximum(square, 1e-24))).astype(x.dtype)
