"""Blocks of a hierarchical transformer with drop path, and runs of them."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.core import rng
from rsfm_jax.nn import linear
from rsfm_jax.nn import mlp
from rsfm_jax.nn import remat as remat_lib

Array = jax.Array


class Drop(NamedTuple):
  """Which branches of a block are dropped; none unless in training.

  Attributes:
    key: of the block, else None.
    rate: probability, f32[], or None for never.
  """

  key: Array | None = None
  rate: Array | None = None

  def __call__(self, name: str, y: Array) -> Array:
    """Drops the branch called `name` for some of the images; y: [B, ...]."""
    if self.key is None or self.rate is None:
      return y
    return drop_path(y, self.rate, key=rng.named(self.key, name))


KEEP = Drop()


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
    self,
    x: Array,
    *,
    tokens_valid: Array | None = None,
    drop: Drop = KEEP,
    **ffn_options: Any,
  ) -> tuple[Array, Any]:
    """x: [B, T, D], tokens_valid: bool[B, T] -> ([B, T, D], aux of the FFN).

    Nothing attends to tokens that are not valid.
    """
    y = self.attention(self.norm_1(x), valid=tokens_valid)
    x = x + drop('attention', _scaled(y, self.scale_1))
    y, aux = self.ffn(self.norm_2(x), **ffn_options)
    return x + drop('ffn', _scaled(y, self.scale_2)), aux


def _scaled(y: Array, scale: nnx.Param | None) -> Array:
  if scale is None:
    return y
  return y * scale[...].astype(y.dtype).reshape(*(1,) * (y.ndim - 1), -1)


def equal_runs(kinds: Sequence[Hashable]) -> list[tuple[int, int]]:
  """(start, stop) of neighbours of one kind, in their order."""
  starts = [i for i, k in enumerate(kinds) if not i or k != kinds[i - 1]]
  return list(zip(starts, [*starts[1:], len(kinds)], strict=True))


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
  remat: remat_lib.Policy = 'none',
  unroll: int = 1,
  **options: Any,
) -> tuple[Array, Any]:
  """Applies stacked blocks one after the other, in one scan.

  Args:
    blocks: parameters [L, ...].
    x: [B, T, D] or [B, H, W, D].
    depth: L.
    start: place of the first block in its stage: odd ones shift windows.
    shifts: whether any windows shift; the scan then runs over pairs, or
      through all blocks at once where their number is odd. Where nothing
      shifts all blocks are alike: half the program to compile.
    key: in training: of this run; FFNs get one too.
    rates: f32[L], with which branches are dropped in training.
    remat: what is computed again in the backward pass.
    unroll: steps of the scan that are written out.
    **options: for every block, which passes on those of its FFN.

  Returns:
    Tokens like `x`, and the FFNs' aux stacked over L.
  """
  graphdef, state = nnx.split(blocks)
  step = 1
  if shifts and depth > 1:
    step = depth if depth % 2 else 2
  # One key and rate per layer, if any, beside the weights of the layer.
  if key is None:
    drops = (None, None)
  else:
    drops = (
      jax.random.split(key, depth),
      None if rates is None or not np.any(rates) else jnp.asarray(rates),
    )

  def body(x: Array, layers: Any) -> tuple[Array, Any]:
    auxes = []
    for i in range(step):
      weights, key, rate = jax.tree.map(lambda w: w[i], layers)  # noqa: B023
      told = {} if key is None else {'key': key, 'drop': Drop(key, rate)}
      if shifts and (start + i) % 2:
        told['shifted'] = True
      x, aux = nnx.merge(graphdef, weights)(x, **told, **options)
      auxes.append(aux)
    return x, jax.tree.map(lambda *a: jnp.stack(a), *auxes)

  if remat != 'none':
    body = jax.checkpoint(body, policy=remat_lib.POLICIES[remat])
  cut = lambda w: w.reshape(-1, step, *w.shape[1:])
  layers = jax.tree.map(cut, (state, *drops))
  if depth == step:  # A loop of one would still stack what it keeps.
    return body(x, jax.tree.map(lambda w: w[0], layers))
  x, aux = jax.lax.scan(body, x, layers, unroll=unroll)
  return x, jax.tree.map(lambda a: a.reshape(depth, *a.shape[2:]), aux)
