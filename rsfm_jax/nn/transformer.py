"""Blocks of a hierarchical transformer with drop path, and runs of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from rsfm_jax.core import rng
from rsfm_jax.nn import linear
from rsfm_jax.nn import mlp
from rsfm_jax.nn import remat as remat_lib
from rsfm_jax.nn import swin

Array = jax.Array
# (block, tokens, what the layer is told) -> (tokens, aux of the FFN).
Apply = Callable[[Any, Array, 'Layer'], tuple[Array, Any]]


class Layer(NamedTuple):
  """What one block is told beside its tokens and the FFN's options.

  Attributes:
    shifted: whether windows are shifted; static.
    key: of the layer in training, else None.
    rate: probability that a branch is dropped, f32[], or None for never.
    mesh: the devices that B is cut over, if any; static.
  """

  shifted: bool = False
  key: Array | None = None
  rate: Array | None = None
  mesh: Mesh | None = None

  def drop(self, name: str, y: Array) -> Array:
    """Drops the branch called `name` for some of the images; y: [B, ...]."""
    if self.key is None or self.rate is None:
      return y
    return drop_path(y, self.rate, key=rng.named(self.key, name))


_ALONE = Layer()


def drop_path(y: Array, rate: Array, *, key: Array) -> Array:
  """Zeros whole images with probability `rate`, scales the others up.

  y: [B, ...] -> [B, ...], the same in the mean (stochastic depth).
  """
  keep = jax.random.uniform(key, (y.shape[0],)) >= rate
  scale = jnp.where(keep, 1 / (1 - rate), 0).astype(y.dtype)
  return y * scale.reshape(-1, *(1,) * (y.ndim - 1))


class Ffn(mlp.Mlp):
  """A dense FFN with the interface of a routed one."""

  def __call__(self, x: Array, **options: Any) -> tuple[Array, None]:
    """x: [..., D] -> ([..., D], None); options of routed FFNs are ignored."""
    del options
    return super().__call__(x), None


class Block(nnx.Module):
  """x = x + Attn(LN(x)); y = x + FFN(LN(x)), pre-norm as in ViT.

  `layer_scale` is the start of a learnt factor per channel on both branches;
  None for none.
  """

  def __init__(
    self,
    attention: nnx.Module,
    ffn: nnx.Module,
    *,
    dim: int,
    layer_scale: float | None = None,
    eps: float = 1e-6,
  ):
    self.norm_1 = linear.LayerNorm(dim, eps=eps)
    self.attention = attention
    self.norm_2 = linear.LayerNorm(dim, eps=eps)
    self.ffn = ffn
    gain = lambda: (
      None if layer_scale is None else nnx.Param(jnp.full(dim, layer_scale))
    )
    self.scale_1 = gain()
    self.scale_2 = gain()

  def __call__(
    self, x: Array, *, layer: Layer = _ALONE, **ffn_options: Any
  ) -> tuple[Array, Any]:
    """x: [B, T, D] -> ([B, T, D], aux of the FFN)."""
    y = _scaled(self.attention(self.norm_1(x)), self.scale_1)
    x = x + layer.drop('attention', y)
    y, aux = self.ffn(self.norm_2(x), key=layer.key, **ffn_options)
    return x + layer.drop('ffn', _scaled(y, self.scale_2)), aux


def _scaled(y: Array, scale: nnx.Param | None) -> Array:
  if scale is None:
    return y
  return y * scale[...].astype(y.dtype).reshape(*(1,) * (y.ndim - 1), -1)


class SwinBlock(swin.SwinBlock):
  """Swin V2's block (post-norm) whose branches can be dropped."""

  def __call__(
    self, x: Array, *, layer: Layer = _ALONE, **ffn_options: Any
  ) -> tuple[Array, Any]:
    """x: [B, H, W, D] -> ([B, H, W, D], aux of the FFN)."""
    y = self.attention(x, shifted=layer.shifted, mesh=layer.mesh)
    x = x + layer.drop('attention', self.norm_1(y))
    y, aux = self.ffn(x, key=layer.key, **ffn_options)
    return x + layer.drop('ffn', self.norm_2(y)), aux


def stacked(make: Callable[[Array], nnx.Module], depth: int, *, key: Array):
  """`depth` blocks of one kind, parameters stacked on a leading axis."""
  return nnx.vmap(make)(jax.random.split(key, depth))


def run(
  blocks: nnx.Module,
  x: Array,
  *,
  depth: int,
  start: int = 0,
  shifts: bool = False,
  key: Array | None = None,
  rates: np.ndarray | None = None,
  mesh: Mesh | None = None,
  remat: remat_lib.Policy = 'none',
  unroll: int = 1,
  **ffn_options: Any,
) -> tuple[Array, Any]:
  """Applies stacked blocks one after the other, in one scan.

  Args:
    blocks: parameters [L, ...].
    x: [B, T, D] or [B, H, W, D].
    depth: L.
    start: place of the first block in its stage: odd ones shift windows.
    shifts: whether any windows shift; the scan then runs over pairs, or
      through all blocks at once where their number is odd.
    key: in training: of this run.
    rates: f32[L], with which branches are dropped in training.
    mesh: the devices that B is cut over, if any.
    remat: what is computed again in the backward pass.
    unroll: steps of the scan that are written out.
    **ffn_options: for the FFN of every block.

  Returns:
    Tokens like `x`, and the FFNs' aux stacked over L.
  """
  graphdef, state = nnx.split(blocks)
  step = 1
  if shifts and depth > 1:
    step = depth if depth % 2 else 2
  # One key and rate per layer, if any, beside the weights of the layer.
  if key is None:
    told = (None, None)
  else:
    told = (
      jax.random.split(key, depth),
      None if rates is None or not np.any(rates) else jnp.asarray(rates),
    )

  def body(x: Array, layers: Any) -> tuple[Array, Any]:
    auxes = []
    for i in range(step):
      weights, key, rate = jax.tree.map(lambda w: w[i], layers)  # noqa: B023
      layer = Layer(shifts and (start + i) % 2 == 1, key, rate, mesh)
      x, aux = nnx.merge(graphdef, weights)(x, layer=layer, **ffn_options)
      auxes.append(aux)
    return x, jax.tree.map(lambda *a: jnp.stack(a), *auxes)

  if remat != 'none':
    body = jax.checkpoint(body, policy=remat_lib.POLICIES[remat])
  cut = lambda w: w.reshape(-1, step, *w.shape[1:])
  layers = jax.tree.map(cut, (state, *told))
  if depth == step:  # A loop of one would still stack what it keeps.
    return body(x, jax.tree.map(lambda w: w[0], layers))
  x, aux = jax.lax.scan(body, x, layers, unroll=unroll)
  return x, jax.tree.map(lambda a: a.reshape(depth, *a.shape[2:]), aux)
