"""SkySense V2: one trunk for every sensor, then fusion over sensors and dates.

Two stages of Swin V2 blocks and two of transformer blocks with global
attention share all weights among the sensors, but for tokenizers, prompts and
tables of positions; merging between the stages halves the grid or keeps it by
one kernel (arXiv 2507.13812, section 3.1). No code of it is public: what the
paper does not say takes the default of SkySense v1 or, for the experts, of
Swin-MoE, which it cites, and is marked NOT FOUND. The trunk's GELU is the tanh
form, as in RingMoE, so that routed and dense FFNs compute one thing.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.core import choices as choices_lib
from rsfm_jax.core import rng
from rsfm_jax.models import fusion
from rsfm_jax.models import geo_context
from rsfm_jax.models import skysense_v2_spec as spec_lib
from rsfm_jax.moe import expert_parallel
from rsfm_jax.moe import experts
from rsfm_jax.moe import layer as moe_layer
from rsfm_jax.nn import attention
from rsfm_jax.nn import linear
from rsfm_jax.nn import multihead
from rsfm_jax.nn import patches
from rsfm_jax.nn import positions
from rsfm_jax.nn import transformer
from rsfm_jax.nn import windows

Array = jax.Array
Arrays = Mapping[str, Array]
Prompts = Literal['keep', 'drop']
SkySenseV2Spec = spec_lib.SkySenseV2Spec
STAGES = spec_lib.STAGES


class Output(NamedTuple):
  """Of a forward pass; D' are the channels of the last stage.

  Attributes:
    features: final tokens per sensor, [B, T, h, w, D'], or [B, h, w, D'] where
      the image came without dates. Those of invalid dates are finite.
    fused: over sensors and dates on the finest grid, [B, h, w, fusion_dim];
      None without a fusion.
    intermediates: {'embed', 'stage_0', ...}: {sensor: like features}.
    aux: {sensor: `moe.layer.Statistics` with a leading axis over the MoE
      layers}; None without experts.
    queries: [B, h, w, prototypes_dim], what the fused features asked the
      prototypes; None where none were given.
  """

  features: dict[str, Array]
  fused: Array | None
  intermediates: dict[str, dict[str, Array]]
  aux: dict[str, moe_layer.Statistics] | None
  queries: Array | None = None


class Told(NamedTuple):
  """What one pass of a sensor through the trunk is told.

  Attributes:
    sensor: whose tokens they are.
    key: in training, of this sensor's pass.
    prompts: see `SkySenseV2.__call__`.
    valid: bool[B T], images that count; None for all.
    options: how tokens are routed.
    groups: see `moe.layer.MoE`.
    placement: where samples and experts live.
  """

  sensor: str
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
      make = lambda k, routed=run.routed: _make_block(spec, index, routed, k)
      blocks = transformer.stacked(
        make, run.depth, key=rng.named(key, run.name)
      )
      setattr(self, run.name, blocks)
    self.spec = spec
    self.index = index

  def __call__(
    self, x: Array, told: Told
  ) -> tuple[Array, list[moe_layer.Statistics]]:
    """x: [B, H, W, D], after the merge -> (the same, aux of the MoE runs)."""
    if not spec_lib.is_global(self.spec, self.index):
      return self._blocks(x, told)
    b, h, w, dim = x.shape
    place = positions.resize(self.positions[told.sensor][...], h, w)
    x = (x + place.astype(x.dtype)[None]).reshape(b, h * w, dim)
    extra = 0
    if told.prompts == 'keep' and self.spec.prompts:
      prompt = self.prompts[told.sensor][...].astype(x.dtype)
      extra = len(prompt)
      prompt = jnp.broadcast_to(prompt[None], (b, *prompt.shape))
      x = jnp.concatenate([prompt, x], 1)
    x, aux = self._blocks(x, told)
    return x[:, extra:].reshape(b, h, w, dim), aux

  def _blocks(
    self, x: Array, told: Told
  ) -> tuple[Array, list[moe_layer.Statistics]]:
    spec = self.spec
    swin = x.ndim == 4
    shifts = (
      swin and windows.layout(*x.shape[1:3], spec.window, shifted=True).shift
    )
    rates = np.linspace(0, spec.drop_path, sum(spec.depths), dtype=np.float32)
    found = []
    for run in spec_lib.runs(spec, self.index):
      options = {}
      if run.routed:
        options = dict(
          options=told.options,
          valid=told.valid,
          groups=told.groups,
          placement=told.placement,
        )
      x, aux = transformer.run(
        getattr(self, run.name),
        x,
        depth=run.depth,
        start=run.start,
        shifts=bool(shifts),
        key=_named(told.key, f'stage_{self.index}', run.name),
        rates=rates[run.first : run.first + run.depth],
        mesh=told.placement.mesh if told.placement else None,
        remat=spec.remat,
        unroll=spec.unroll,
        **options,
      )
      if run.routed:
        found.append(aux)
    return x, found


def _named(key: Array | None, *names: str) -> Array | None:
  return None if key is None else rng.named(key, *names)


class SkySenseV2(nnx.Module):
  """See the module docstring; parameters: docs/architecture.md."""

  def __init__(self, spec: SkySenseV2Spec, *, key: Array):
    self.spec = spec
    self.embed = nnx.Dict(
      {
        sensor: patches.PatchEmbed(
          channels,
          spec.embed_dim,
          spec.patch_size,
          key=rng.named(key, 'embed', sensor),
          std=spec.init_std,
        )
        for sensor, channels in zip(spec.sensors, spec.channels, strict=True)
      }
    )
    for i in range(STAGES):
      name = f'stage_{i}'
      setattr(self, name, Stage(spec, i, key=rng.named(key, name)))
    self.norm = linear.LayerNorm(spec.dim(-1))
    self.fusion = _make_fusion(spec, rng.named(key, 'fusion'))
    self.geo = (
      geo_context.GeoContext(
        spec.fusion_dim,
        spec.prototypes_dim,
        key=rng.named(key, 'geo'),
        std=spec.init_std,
      )
      if spec.fusion_depth and spec.prototypes_dim
      else None
    )

  def __call__(
    self,
    images: Arrays,
    *,
    date_valid: Arrays | None = None,
    days: Arrays | None = None,
    mode: Literal['train', 'eval'] = 'eval',
    key: Array | None = None,
    reduces: Mapping[str, spec_lib.Reduces] | None = None,
    prompts: Prompts = 'keep',
    prototypes: Array | None = None,
    fuse: bool = True,
    engine: experts.Engine | None = None,
    placement: expert_parallel.Placement | None = None,
  ) -> Output:
    """Encodes the sensors that are present, each by itself, and fuses them.

    Args:
      images: {sensor: f32[B, T, H, W, C] or f32[B, H, W, C]}, any subset of
        the sensors, of any sizes that their strides allow.
      date_valid: {sensor: bool[B, T]}, dates that count; all of a sensor that
        is not named. What stands elsewhere, NaN included, changes no bit of
        what counts.
      days: {sensor: i32[B, T]}, day of the year from 0, -1 for unknown.
      mode: 'train' routes by `spec.engine`, 'eval' drops no token.
      key: in training, for the gates' noise and drop path; None for neither.
      reduces: {sensor: (bool, bool, bool)} in place of the spec's.
      prompts: 'drop' leaves the prompts out.
      prototypes: [B, Np, prototypes_dim] of each sample's region, for the
        attention into the fused features; None leaves it out.
      fuse: whether there are fused features, if the model can.
      engine: overrides the engine of the mode (tests).
      placement: where samples and experts live on a mesh; B T of every sensor
        is cut over it.

    Raises:
      ValueError: an unknown sensor, bands or sizes that do not fit.
    """
    spec = self.spec
    choices_lib.check(prompts, ('keep', 'drop'), key='prompts')
    choices_lib.check(mode, ('train', 'eval'), key='mode')
    if not images:
      raise ValueError(f'No images; the sensors are {list(spec.sensors)}.')
    for sensor in images:
      choices_lib.check(sensor, spec.sensors, key='sensor of the batch')
    key = key if mode == 'train' else None
    options = self._options(mode, engine)
    passes = {}
    for sensor in (s for s in spec.sensors if s in images):
      valid = (date_valid or {}).get(sensor)
      told = Told(
        sensor,
        None if key is None else rng.named(key, sensor),
        prompts,
        None if valid is None else valid.reshape(-1),
        options,
        spec.routing_groups if mode == 'train' else None,
        placement,
      )
      passes[sensor] = self._trunk(
        images[sensor], told, (reduces or {}).get(sensor)
      )
    features = {s: p.features for s, p in passes.items()}
    fused = queries = None
    if fuse and self.fusion is not None:
      fused = self.fusion(
        features,
        date_valid=date_valid,
        days=days,
        key=None if key is None else rng.named(key, 'fusion'),
      )
      if prototypes is not None and self.geo is not None:
        queries = self.geo.queries(fused)
        fused = self.geo(fused, prototypes)
    levels = {
      level: {s: p.levels[level] for s, p in passes.items()}
      for level in next(iter(passes.values())).levels
    }
    aux = {s: p.aux for s, p in passes.items()} if spec.routed else None
    return Output(features, fused, levels, aux, queries)

  def _options(
    self, mode: str, engine: experts.Engine | None
  ) -> experts.Options:
    spec = self.spec
    return experts.Options(
      engine=engine or (spec.engine if mode == 'train' else 'dropless'),
      choices=spec.choices,
      capacity_factor=spec.capacity_factor,
      priority=spec.priority,
      gate_noise=spec.gate_noise,
    )

  def _trunk(
    self, image: Array, told: Told, reduces: spec_lib.Reduces | None
  ) -> '_Pass':
    """One sensor, its dates as images of one batch."""
    reduces = spec_lib.check_reduces(
      self.spec.of('reduces', told.sensor) if reduces is None else reduces,
      key=f'reduces of {told.sensor}',
    )
    self._check(image, told.sensor, reduces)
    lead = image.shape[:-3]
    keep = told.placement.keep if told.placement else lambda y: y
    unfold = lambda y: y.reshape(*lead, *y.shape[1:])
    image = image.astype(self.spec.dtype).reshape(-1, *image.shape[-3:])
    if told.valid is not None:
      if len(told.valid) != len(image):
        raise ValueError(
          f'{told.sensor}: date_valid has {len(told.valid)} entries for '
          f'{len(image)} images of shape {lead}.'
        )
      image = jnp.where(told.valid[:, None, None, None], image, 0)
    x = keep(self.embed[told.sensor](image))
    levels, auxes = {'embed': unfold(x)}, []
    for i in range(STAGES):
      stage = getattr(self, f'stage_{i}')
      if i:
        x = keep(stage.merge(x, 'reduce' if reduces[i - 1] else 'keep'))
      x, aux = stage(x, told)
      x = keep(x)
      auxes += aux
      levels[f'stage_{i}'] = unfold(x)
    aux = None
    if auxes:
      aux = jax.tree.map(lambda *a: jnp.concatenate(a), *auxes)
    return _Pass(unfold(self.norm(x)), levels, aux)

  def _check(
    self, image: Array, sensor: str, reduces: spec_lib.Reduces
  ) -> None:
    """Errors name the sensor and what its image would have to be."""
    spec = self.spec
    channels = spec.of('channels', sensor)
    if image.ndim not in (4, 5) or image.shape[-1] != channels:
      raise ValueError(
        f'{sensor}: images of shape {image.shape} are no [B, T, H, W, C] or '
        f'[B, H, W, C] with the {channels} bands that the model takes.'
      )
    height, width = image.shape[-3:-1]
    stride = spec.patch_size * 2 ** sum(reduces)
    if height % stride or width % stride or not height * width:
      raise ValueError(
        f'{sensor}: an image of {height} x {width} pixels is not a multiple '
        f'of {stride} px (patch size times reductions).'
      )
    for i in range(STAGES):
      side = spec.patch_size * 2 ** sum(reduces[:i])
      if not spec_lib.is_global(spec, i):
        try:
          windows.layout(
            height // side, width // side, spec.window, shifted=False
          )
        except ValueError as error:
          raise ValueError(f'{sensor}, stage {i}: {error}') from error


class _Pass(NamedTuple):
  """Of one sensor; see `Output`."""

  features: Array
  levels: dict[str, Array]
  aux: moe_layer.Statistics | None


def _make_fusion(spec: SkySenseV2Spec, key: Array) -> fusion.Fusion | None:
  """Sensors whose images are smaller than the largest are series with days."""
  if not spec.fusion_depth:
    return None
  sizes = dict(zip(spec.sensors, spec.image_sizes, strict=True))
  sides = {s: size // spec.stride(s) for s, size in sizes.items()}
  series = [s for s, size in sizes.items() if size < max(sizes.values())]
  return fusion.Fusion(
    spec.dim(-1),
    spec.fusion_dim,
    spec.fusion_depth,
    spec.fusion_heads,
    upsample={s: max(sides.values()) // side for s, side in sides.items()},
    dated=series or spec.sensors,
    drop_path=spec.fusion_drop_path,
    key=key,
    std=spec.init_std,
    remat=spec.remat,
    unroll=spec.unroll,
  )


def _table_side(spec: SkySenseV2Spec, stage: int, sensor: str) -> int:
  if spec.position_grids is not None:
    return spec.position_grids[stage - STAGES]
  halved = sum(spec.of('reduces', sensor)[:stage])
  return spec.of('image_sizes', sensor) // spec.patch_size // 2**halved


def _make_block(
  spec: SkySenseV2Spec, stage: int, routed: bool, key: Array
) -> nnx.Module:
  """A block of global or window attention with a dense or a routed FFN."""
  dim, heads = spec.dim(stage), spec.heads[stage]
  hidden, std = int(dim * spec.mlp_ratio), spec.init_std
  k_ffn, k_attention = rng.named(key, 'ffn'), rng.named(key, 'attention')
  if routed:
    ffn = moe_layer.MoE(dim, hidden, spec.experts, key=k_ffn, std=std)
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
  )
  return transformer.SwinBlock(attend, ffn, dim=dim)
