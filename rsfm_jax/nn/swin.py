"""Swin blocks with residual post-norm around any FFN, and stacks of them."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from flax import nnx
import jax
from jax.sharding import Mesh

from rsfm_jax.core import rng
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

  Odd blocks shift wherever the grid is larger than the window. Blocks of
  different kinds, such as numbers of experts, are stacks of their own: `run_0`
  and so on, where otherwise there is `blocks`. `merge` is what the caller
  applies after the stage, so that it can keep the tokens of both resolutions.
  """

  def __init__(
    self,
    make_block: Callable[[Array, Any], SwinBlock],
    kinds: Sequence[Hashable],
    *,
    key: Array,
    merge: nnx.Module | None = None,
    remat: remat_lib.Policy = 'none',
    unroll: int = 1,
  ):
    """`make_block(key, kind)` makes the block of each of `kinds`."""
    depth = len(kinds)
    if depth > 1 and depth % 2:
      raise ValueError(
        f'model.depths={depth}: blocks come in pairs (plain, shifted), so '
        'a depth must be even, or 1.'
      )
    self.runs = tuple(run_names(kinds).items())
    for name, (start, stop) in self.runs:
      make = lambda k, kind=kinds[start]: make_block(k, kind)
      own = key if len(self.runs) == 1 else rng.named(key, name)
      setattr(self, name, transformer.stacked(make, stop - start, key=own))
    self.merge = merge
    self.remat = remat
    self.unroll = unroll

  def __call__(self, x: Array, **options: Any) -> tuple[Array, list[Any]]:
    """x: [B, H, W, D] -> ([B, H, W, D], aux stacked over L for each run)."""
    window = getattr(self, self.runs[0][0]).attention.window
    layout = windows.layout(*x.shape[1:3], window, shifted=True)
    auxes = []
    for name, (start, stop) in self.runs:
      x, aux = transformer.run(
        getattr(self, name),
        x,
        depth=stop - start,
        start=start,
        shifts=layout.shift > 0,
        remat=self.remat,
        unroll=self.unroll,
        **options,
      )
      auxes.append(aux)
    return x, auxes


def run_names(kinds: Sequence[Hashable]) -> dict[str, tuple[int, int]]:
  """{name of the stack: (first block, after the last)} of a stage."""
  found = transformer.equal_runs(kinds)
  if len(found) == 1:
    return {'blocks': found[0]}
  return {f'run_{n}': run for n, run in enumerate(found)}
