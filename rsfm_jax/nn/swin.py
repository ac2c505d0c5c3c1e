"""Swin blocks with residual post-norm around any FFN, and stacks of them."""

from collections.abc import Callable
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rsfm_jax.nn import attention
from rsfm_jax.nn import linear
from rsfm_jax.nn import remat as remat_lib
from rsfm_jax.nn import windows

Array = jax.Array
# An FFN maps [B, H, W, D] to ([B, H, W, D], aux); aux is any tree of arrays.
Ffn = Callable[..., tuple[Array, Any]]


class SwinBlock(nnx.Module):
  """x = x + LN(Attn(x)); y = x + LN(FFN(x)) (Swin V2's post-norm)."""

  def __init__(
    self,
    window_attention: attention.WindowAttention,
    ffn: nnx.Module,
    *,
    dim: int,
    gain: float = 1.0,
  ):
    self.attention = window_attention
    self.norm_1 = linear.LayerNorm(dim, gain=gain)
    self.ffn = ffn
    self.norm_2 = linear.LayerNorm(dim, gain=gain)

  def __call__(
    self,
    x: Array,
    *,
    shifted: bool,
    mesh: Mesh | None = None,
    **ffn_options: Any,
  ) -> tuple[Array, Any]:
    """x: [B, H, W, D] -> ([B, H, W, D], aux of the FFN).

    B is cut over the devices of `mesh`, if there is one.
    """
    x = x + self.norm_1(self.attention(x, shifted=shifted, mesh=mesh))
    y, aux = self.ffn(x, **ffn_options)
    return x + self.norm_2(y), aux


class SwinStage(nnx.Module):
  """A stack of blocks, parameters stacked on a leading axis [L, ...].

  Even blocks do not shift, odd ones do, so the scan runs over pairs wherever
  the grid is larger than the window. `merge`
  is what the caller applies after the stage, so that it can keep the tokens
  of both resolutions.
  """

  def __init__(
    self,
    make_block: Callable[[Array], SwinBlock],
    depth: int,
    *,
    key: Array,
    merge: nnx.Module | None = None,
    remat: remat_lib.Policy = 'none',
    unroll: int = 1,
  ):
    if depth > 1 and depth % 2:
      raise ValueError(
        f'model.depths={depth}: blocks come in pairs (plain, shifted), so '
        'a depth must be even, or 1.'
      )
    self.blocks = nnx.vmap(make_block)(jax.random.split(key, depth))
    self.merge = merge
    self.depth = depth
    self.remat = remat
    self.unroll = unroll

  def __call__(self, x: Array, **ffn_options: Any) -> tuple[Array, Any]:
    """x: [B, H, W, D] -> ([B, H, W, D], aux stacked over L)."""
    graphdef, state = nnx.split(self.blocks)
    _, height, width, _ = x.shape
    window = self.blocks.attention.window
    layout = windows.layout(height, width, window, shifted=True)
    # Where nothing shifts all blocks are alike: half the program to compile.
    pair = 2 if layout.shift and self.depth > 1 else 1

    def body(x: Array, weights: Any) -> tuple[Array, Any]:
      auxes = []
      for i in range(pair):
        one = jax.tree.map(lambda w: w[i], weights)  # noqa: B023
        block = nnx.merge(graphdef, one)
        x, aux = block(x, shifted=i % 2 == 1, **ffn_options)
        auxes.append(aux)
      return x, jax.tree.map(lambda *a: jnp.stack(a), *auxes)

    if self.remat != 'none':
      body = jax.checkpoint(body, policy=remat_lib.POLICIES[self.remat])
    pairs = jax.tree.map(lambda w: w.reshape(-1, pair, *w.shape[1:]), state)
    if self.depth == pair:  # A loop of one would still stack what it keeps.
      return body(x, jax.tree.map(lambda w: w[0], pairs))
    x, aux = jax.lax.scan(body, x, pairs, unroll=self.unroll)
    return x, jax.tree.map(lambda a: a.reshape(self.depth, *a.shape[2:]), aux)
