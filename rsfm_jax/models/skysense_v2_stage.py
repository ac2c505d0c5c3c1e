"""A stage of SkySense V2: merging, prompts, positions, runs of blocks."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.core import rng
from rsfm_jax.models import skysense_v2_spec as spec_lib
from rsfm_jax.moe import expert_parallel
from rsfm_jax.moe import experts
from rsfm_jax.moe import layer as moe_layer
from rsfm_jax.nn import attention
from rsfm_jax.nn import linear
from rsfm_jax.nn import multihead
from rsfm_jax.nn import patches
from rsfm_jax.nn import positions
from rsfm_jax.nn import swin
from rsfm_jax.nn import transformer
from rsfm_jax.nn import windows

Array = jax.Array
Prompts = Literal['keep', 'drop']
SkySenseV2Spec = spec_lib.SkySenseV2Spec
STAGES = spec_lib.STAGES


class Told(NamedTuple):
  """What one pass of sensors of equal grids through the trunk is told.

  Attributes:
    sensors: whose tokens stand at the S places of a sample: one for each date.
    key: in training, of this pass.
    prompts: see `SkySenseV2.__call__`.
    valid: bool[B S], images that count; None for all.
    options: how tokens are routed.
    groups: see `moe.layer.MoE`.
    placement: where samples and experts live.
  """

  sensors: tuple[str, ...]
  key: Array | None
  prompts: Prompts
  valid: Array | None
  options: experts.Options
  groups: int | None
  placement: expert_parallel.Placement | None


class Stage(nnx.Module):
  """Merging at the entry, prompts and positions if any, runs of blocks."""

  def __init__(self, spec: SkySenseV2Spec, index: int, *, key: Array):
    dim = spec.dim(index)
    if index:
      self.merge = patches.AdaptivePatchMerging(
        dim // 2, key=rng.named(key, 'merge'), std=spec.init_std
      )
    if spec_lib.is_global(spec, index):
      table = lambda name, sensor, *shape: nnx.Param(
        linear.truncated_normal(rng.named(key, name, sensor), (*shape, dim))
      )
      if spec.prompts:
        self.prompts = nnx.Dict(
          {s: table('prompts', s, spec.prompts) for s in spec.sensors}
        )
      sides = {s: _table_side(spec, index, s) for s in spec.sensors}
      self.positions = nnx.Dict(
        {s: table('positions', s, g, g) for s, g in sides.items()}
      )
    for run in spec_lib.runs(spec, index):
      make = lambda k, n=run.experts: _make_block(spec, index, n, k)
      blocks = transformer.stacked(
        make, run.depth, key=rng.named(key, run.name)
      )
      setattr(self, run.name, blocks)
    self.spec = spec
    self.index = index

  def __call__(
    self, x: Array, told: Told
  ) -> tuple[Array, list[moe_layer.Statistics]]:
    """x: [B S, H, W, D], after the merge -> (the same, aux of MoE runs)."""
    if not spec_lib.is_global(self.spec, self.index):
      return self._blocks(x, told)
    b, h, w, dim = x.shape
    place = _at_places(
      told.sensors, lambda s: positions.resize(self.positions[s][...], h, w)
    )
    x = x.reshape(-1, *place.shape) + place.astype(x.dtype)[None]
    x, extra = x.reshape(b, h * w, dim), 0
    if told.prompts == 'keep' and self.spec.prompts:
      prompt = _at_places(told.sensors, lambda s: self.prompts[s][...])
      extra = prompt.shape[1]
      shape = (b // len(prompt), *prompt.shape)
      prompt = jnp.broadcast_to(prompt.astype(x.dtype)[None], shape)
      x = jnp.concatenate([prompt.reshape(b, extra, dim), x], 1)
    x, aux = self._blocks(x, told)
    return x[:, extra:].reshape(b, h, w, dim), aux

  def _blocks(
    self, x: Array, told: Told
  ) -> tuple[Array, list[moe_layer.Statistics]]:
    spec = self.spec
    windowed = x.ndim == 4
    shifts = (
      windowed
      and windows.layout(*x.shape[1:3], spec.window, shifted=True).shift
    )
    rates = np.linspace(0, spec.drop_path, sum(spec.depths), dtype=np.float32)
    found = []
    for run in spec_lib.runs(spec, self.index):
      options = {}
      if windowed and told.placement:
        options['mesh'] = told.placement.mesh
      if run.experts > 1:
        options |= dict(
          options=told.options,
          valid=told.valid,
          groups=told.groups,
          places=len(told.sensors),
          placement=told.placement,
        )
      x, aux = transformer.run(
        getattr(self, run.name),
        x,
        depth=run.depth,
        start=run.start,
        shifts=bool(shifts),
        key=named(told.key, f'stage_{self.index}', run.name),
        rates=rates[run.first : run.first + run.depth],
        remat=spec.remat,
        unroll=spec.unroll,
        **options,
      )
      if run.experts > 1:
        found.append(aux)
    return x, found


def _at_places(
  sensors: tuple[str, ...], table: Callable[[str], Array]
) -> Array:
  """[S, ...]: what each place's sensor has, computed once per sensor."""
  found = {sensor: table(sensor) for sensor in dict.fromkeys(sensors)}
  return jnp.stack([found[sensor] for sensor in sensors])


def named(key: Array | None, *names: str) -> Array | None:
  return None if key is None else rng.named(key, *names)


def _table_side(spec: SkySenseV2Spec, stage: int, sensor: str) -> int:
  if spec.position_grids is not None:
    return spec.position_grids[stage - STAGES]
  halved = sum(spec.of('reduces', sensor)[:stage])
  return spec.of('image_sizes', sensor) // spec.patch_size // 2**halved


def _make_block(
  spec: SkySenseV2Spec, stage: int, number: int, key: Array
) -> nnx.Module:
  """A block of global or window attention with a dense or a routed FFN."""
  dim, heads = spec.dim(stage), spec.heads[stage]
  hidden, std = int(dim * spec.mlp_ratio), spec.init_std
  k_ffn, k_attention = rng.named(key, 'ffn'), rng.named(key, 'attention')
  if number > 1:
    ffn = moe_layer.MoE(dim, hidden, number, key=k_ffn, std=std)
  else:
    ffn = transformer.Ffn(dim, hidden, key=k_ffn, std=std)
  if spec_lib.is_global(spec, stage):
    attend = multihead.MultiHeadAttention(dim, heads, key=k_attention, std=std)
    return transformer.Block(attend, ffn, dim=dim)
  attend = attention.WindowAttention(
    dim,
    heads,
    spec.window,
    kind='v2_cosine',
    key=k_attention,
    std=std,
    engine=spec.attention_engine,
    cpb_window=spec.cpb_windows and spec.cpb_windows[stage],
  )
  return swin.SwinBlock(attend, ffn, dim=dim)
