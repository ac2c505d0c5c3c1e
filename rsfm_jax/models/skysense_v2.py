"""SkySense V2: one trunk for every sensor, then fusion over sensors and dates.

Two stages of Swin V2 blocks and two of transformer blocks with global
attention share all weights among the sensors, but for tokenizers, prompts and
tables of positions; merging between the stages halves the grid or keeps it by
one kernel (arXiv 2507.13812, section 3.1). No code of it is public: what the
paper does not say takes the default of SkySense v1 or, for the experts, of
Swin-MoE, which it cites, and is marked NOT FOUND. The trunk's GELU is the tanh
form, as in RingMoE, so that routed and dense FFNs compute one thing.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from rsfm_jax.core import choices as choices_lib
from rsfm_jax.core import rng
from rsfm_jax.models import fusion
from rsfm_jax.models import geo_context
from rsfm_jax.models import skysense_v2_spec as spec_lib
from rsfm_jax.models import skysense_v2_stage as stage_lib
from rsfm_jax.moe import counts as counts_lib
from rsfm_jax.moe import expert_parallel
from rsfm_jax.moe import experts
from rsfm_jax.moe import layer as moe_layer
from rsfm_jax.nn import linear
from rsfm_jax.nn import patches
from rsfm_jax.nn import windows

Array = jax.Array
Arrays = Mapping[str, Array]
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
    aux: {sensor: `moe.layer.Statistics` with a leading axis over the layers
      with routers}; None without any. See `moe.counts.join`.
    queries: [B, h, w, prototypes_dim], what the fused features asked the
      prototypes; None where none were given.
  """

  features: dict[str, Array]
  fused: Array | None
  intermediates: dict[str, dict[str, Array]]
  aux: dict[str, moe_layer.Statistics] | None
  queries: Array | None = None


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
      setattr(self, name, stage_lib.Stage(spec, i, key=rng.named(key, name)))
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
    prompts: stage_lib.Prompts = 'keep',
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
    images = _cleaned(images, date_valid or {})
    passes = {}
    for together in self._passes(images, reduces or {}):
      told = stage_lib.Told(
        tuple(s for s in together for _ in range(_dates(images[s]))),
        stage_lib.named(key, *together),
        prompts,
        _valid(images, date_valid or {}, together),
        options,
        spec.routing_groups if mode == 'train' else None,
        placement,
      )
      passes |= self._trunk({s: images[s] for s in together}, told, reduces)
    passes = {s: passes[s] for s in spec.sensors if s in passes}
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
      norms=mode == 'eval' and engine != 'oracle',
    )

  def _passes(
    self, images: Arrays, reduces: Mapping[str, spec_lib.Reduces]
  ) -> list[list[str]]:
    """Sensors whose tokens stand on equal grids in every stage go together.

    They share all weights but tokenizers, prompts and positions, and a pass
    less is a program less to compile and a larger product to compute.
    """
    groups: dict[tuple, list[str]] = {}
    for sensor in (s for s in self.spec.sensors if s in images):
      halved = reduces.get(sensor, self.spec.of('reduces', sensor))
      image = images[sensor]
      alike = (image.shape[0], image.shape[-3:-1], tuple(halved))
      groups.setdefault(alike, []).append(sensor)
    return list(groups.values())

  def _trunk(
    self,
    images: Arrays,
    told: stage_lib.Told,
    reduces: Mapping[str, spec_lib.Reduces] | None,
  ) -> dict[str, '_Pass']:
    """Sensors of equal grids, places of one sample side by side."""
    keep = told.placement.keep if told.placement else lambda y: y
    halved, tokens = (), []
    for sensor, image in images.items():
      halved = spec_lib.check_reduces(
        (reduces or {}).get(sensor, self.spec.of('reduces', sensor)),
        key=f'reduces of {sensor}',
      )
      self._check(image, sensor, halved)
      image = image.astype(self.spec.dtype).reshape(-1, *image.shape[-3:])
      y = self.embed[sensor](image)
      tokens.append(y.reshape(-1, _dates(images[sensor]), *y.shape[1:]))
    x = jnp.concatenate(tokens, 1)
    x = keep(x.reshape(-1, *x.shape[2:]))
    levels, auxes = {'embed': x}, []
    for i in range(STAGES):
      stage = getattr(self, f'stage_{i}')
      if i:
        x = keep(stage.merge(x, 'reduce' if halved[i - 1] else 'keep'))
      x, aux = stage(x, told)
      x = keep(x)
      auxes += aux
      levels[f'stage_{i}'] = x
    aux = counts_lib.join(auxes) if auxes else None
    return _apart(images, self.norm(x), levels, aux)

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


def _dates(image: Array) -> int:
  """T of [B, T, H, W, C]; 1 of an image without dates."""
  return image.shape[1] if image.ndim == 5 else 1


def _cleaned(images: Arrays, date_valid: Arrays) -> dict[str, Array]:
  """Images with zeros on dates that do not count, whatever stood there.

  Raises:
    ValueError: validity of another number of dates than there are.
  """
  out = dict(images)
  for sensor in (s for s in images if s in date_valid):
    image, valid = images[sensor], date_valid[sensor]
    shape = image.shape[:2] if image.ndim == 5 else (len(image), 1)
    if valid.shape != shape:
      raise ValueError(
        f'{sensor}: date_valid is {valid.shape}, the dates of its images of '
        f'shape {image.shape} are {shape}.'
      )
    valid = valid.reshape(image.shape[:-3])[..., None, None, None]
    out[sensor] = jnp.where(valid, image, 0)
  return out


def _valid(
  images: Arrays, date_valid: Arrays, together: Sequence[str]
) -> Array | None:
  """bool[B S] of the sensors of one pass; None where all counts."""
  if not any(s in date_valid for s in together):
    return None
  parts = []
  for sensor in together:
    shape = (len(images[sensor]), _dates(images[sensor]))
    parts.append(date_valid.get(sensor, jnp.ones(shape, bool)))
  return jnp.concatenate(parts, 1).reshape(-1)


def _apart(
  images: Arrays,
  features: Array,
  levels: Mapping[str, Array],
  aux: moe_layer.Statistics | None,
) -> dict[str, _Pass]:
  """What belongs to each sensor of a pass: [B S, ...] -> [B, T, ...]."""
  places = sum(_dates(image) for image in images.values())
  out, start = {}, 0
  for sensor, image in images.items():
    stop = start + _dates(image)

    def own(x: Array) -> Array:
      x = x.reshape(-1, places, *x.shape[1:])[:, start:stop]  # noqa: B023
      return x if image.ndim == 5 else x[:, 0]  # noqa: B023

    sums = jax.tree.map(lambda a: a[:, start:stop].sum(1), aux)  # noqa: B023
    out[sensor] = _Pass(
      own(features), {name: own(x) for name, x in levels.items()}, sums
    )
    start = stop
  return out


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
