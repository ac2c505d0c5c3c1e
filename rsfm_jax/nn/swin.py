"""Swin blocks with residual post-norm around any FFN, and stacks of them."""

from collections.abc import Callable
from typing import Any

from flax import nnx
import jax
from jax.sharding import Mesh

from rsfm_jax.nn import attention
from rsfm_jax.nn import linear
from rsfm_jax.nn import remat as remat_lib
from rsfm_jax.nn import transformer
from rsfm_jax.nn import windows

Array = jax.Array


class SwinBlock(nnx.Module):
  """x = x + LN(Attn(x)); y = x + LN(FFN(x)) (Swin V2's post-norm).

  The FFN maps [B, H, W, D] to ([B, H, W, D], aux), any tree of arrays.
  """

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
    shifted: bool = False,
    mesh: Mesh | None = None,
    drop: transformer.Drop = transformer.KEEP,
    **ffn_options: Any,
  ) -> tuple[Array, Any]:
    """x: [B, H, W, D] -> ([B, H, W, D], aux of the FFN).

    B is cut over the devices of `mesh`, if there is one.
    """
    y = self.attention(x, shifted=shifted, mesh=mesh)
    x = x + drop('attention', self.norm_1(y))
    y, aux = self.ffn(x, **ffn_options)
    return x + drop('ffn', self.norm_2(y)), aux


class SwinStage(nnx.Module):
  """A stack of blocks, parameters stacked on a leading axis [L, ...].

  Odd blocks shift wherever the grid is larger than the window. `merge` is
  what the caller applies after the stage, so that it can keep the tokens of
  both resolutions.
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
    self.blocks = transformer.stacked(make_block, depth, key=key)
    self.merge = merge
    self.depth = depth
    self.remat = remat
    self.unroll = unroll

  def __call__(self, x: Array, **options: Any) -> tuple[Array, Any]:
    """x: [B, H, W, D] -> ([B, H, W, D], aux stacked over L)."""
    window = self.blocks.attention.window
    layout = windows.layout(*x.shape[1:3], window, shifted=True)
    return transformer.run(
      self.blocks,
      x,
      depth=self.depth,
      shifts=layout.shift > 0,
      remat=self.remat,
      unroll=self.unroll,
      **options,
    )
