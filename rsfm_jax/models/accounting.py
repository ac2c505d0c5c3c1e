"""Parameters, active parameters, FLOPs and bytes, without allocating."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.models import mapex_spec
from rsfm_jax.models import ringmoe
from rsfm_jax.models import skysense_v2_spec

Spec = (
  ringmoe.RingMoESpec | skysense_v2_spec.SkySenseV2Spec | mapex_spec.MapexSpec
)


def report(spec: Spec) -> dict[str, Any]:
  """Everything `rsfm inspect` prints, as one JSON object.

  Of RingMoE the keys are `parameters.{encoder,total}`,
  `active_parameters.<sensor>` (encoder, top-K experts of each router, routers
  whole), `flops_per_image.<sensor>`
  (forward of the encoder, 2 FLOPs per multiply-add of all matrix products),
  `bytes.{parameters,train_state}` (float32; weights, gradients and two
  moments for the train state). Of the others see `skysense_report` and
  `mapex_report`.
  """
  if isinstance(spec, skysense_v2_spec.SkySenseV2Spec):
    return skysense_report(spec)
  if isinstance(spec, mapex_spec.MapexSpec):
    return mapex_report(spec)
  total = trees.count(build.build(spec).abstract)
  encoder = trees.count(encoder_spec_params(spec))
  return {
    'parameters': {'encoder': encoder, 'total': total},
    'active_parameters': {s: active(spec, s) for s in spec.sensors},
    'flops_per_image': {s: flops(spec, s) for s in spec.sensors},
    'bytes': {'parameters': 4 * total, 'train_state': 16 * total},
  }


def encoder_spec_params(spec: ringmoe.RingMoESpec) -> Any:
  """Abstract parameters of the same model without its decoders."""
  return build.build(dataclasses.replace(spec, decoders=False)).abstract


def active(spec: ringmoe.RingMoESpec, sensor: str) -> int:
  """Encoder parameters that one image of a sensor uses."""
  channels = spec.channels[spec.sensors.index(sensor)]
  alone = dataclasses.replace(
    spec, sensors=(sensor,), channels=(channels,), decoders=False
  )
  idle = sum(
    max(experts - spec.choices, 0)
    for experts in (spec.specialised, spec.collaborative)
  )
  return trees.count(build.build(alone).abstract) - idle * sum(
    depth * expert_size(spec, i) for i, depth in enumerate(spec.depths)
  )


def expert_size(spec: ringmoe.RingMoESpec, stage: int) -> int:
  """Parameters of one expert of a stage, 2 D F + F + D."""
  dim = spec.embed_dim * 2**stage
  hidden = int(dim * spec.mlp_ratio)
  return 2 * dim * hidden + hidden + dim


def flops(spec: ringmoe.RingMoESpec, sensor: str) -> int:
  """Forward FLOPs of the encoder on one image of `spec.image_size`."""
  grid = spec.image_size // spec.patch_size
  channels = spec.channels[spec.sensors.index(sensor)]
  macs = grid**2 * spec.patch_size**2 * channels * spec.embed_dim
  for stage, depth in enumerate(spec.depths):
    side, dim = grid // 2**stage, spec.embed_dim * 2**stage
    tokens = side**2
    window = min(spec.window, side)
    hidden = int(dim * spec.mlp_ratio)
    ffns, routers = 1, 0
    for experts in (spec.specialised, spec.collaborative):
      ffns += min(spec.choices, experts)
      routers += experts
    per_token = 4 * dim**2 + 2 * window**2 * dim
    per_token += ffns * 2 * dim * hidden + routers * dim
    macs += depth * tokens * per_token
    if stage + 1 < len(spec.depths):
      macs += tokens // 4 * 8 * dim**2
  return 2 * math.floor(macs)


def skysense_report(
  spec: skysense_v2_spec.SkySenseV2Spec,
) -> dict[str, Any]:
  """Parameters by part, as the paper's Table 9 has them; FLOPs; bytes.

  `parameters`: tokenizers, backbone (stages with dense FFNs), experts (what
  experts and routers add to it), prompts, fusion, prototypes' attention,
  total. The paper prints 0.09, 661.40, 1332.70, 9.94 and 347.01 M. Tokenizers
  and experts agree; its backbone and fusion are not to be had from its text
  (ours, DEFAULTs, are 0.03 % and 0.6 % smaller), nor are its prompts (0.05 M
  as written).
  `active_parameters.<sensor>`: of the trunk, K experts per token, routers
  whole. `bytes`: weights; and weights, gradients, two moments and a teacher.
  """
  sizes = {
    name: leaf.size
    for name, leaf in trees.flatten(build.build(spec).abstract).items()
  }
  add = lambda of: sum(n for name, n in sizes.items() if of(name))
  routed = add(lambda name: '/routed/' in name)
  one = sum(_expert(spec, block) for block in spec.routed)
  prompts = add(lambda name: '/prompts/' in name)
  trunk = add(lambda n: n.startswith(('stage_', 'norm/'))) - routed - prompts
  total = sum(sizes.values())
  idle = max(spec.experts - spec.choices, 0) * one
  return {
    'parameters': {
      'tokenizers': add(lambda name: name.startswith('embed/')),
      'backbone': trunk + one,
      'experts': routed - one,
      'prompts': prompts,
      'fusion': add(lambda name: name.startswith('fusion/')),
      'geo_context': add(lambda name: name.startswith('geo/')),
      'total': total,
    },
    'active_parameters': {
      sensor: add(lambda n, s=sensor: _used(n, s, spec.sensors)) - idle
      for sensor in spec.sensors
    },
    'flops_per_image': {
      sensor: skysense_flops(
        dataclasses.replace(spec, fusion_depth=0), {sensor: side}
      )
      for sensor, side in zip(spec.sensors, spec.image_sizes, strict=True)
    },
    'bytes': {'parameters': 4 * total, 'train_state': 20 * total},
  }


def _expert(spec: skysense_v2_spec.SkySenseV2Spec, block: int) -> int:
  """Parameters of one expert of a block, 2 D F + F + D."""
  ends = [sum(spec.depths[: i + 1]) for i in range(len(spec.depths))]
  dim = spec.dim(next(i for i, end in enumerate(ends) if block < end))
  hidden = int(dim * spec.mlp_ratio)
  return 2 * dim * hidden + hidden + dim


def _used(name: str, sensor: str, sensors: tuple[str, ...]) -> bool:
  """Whether a parameter of the trunk serves a sensor."""
  if not name.startswith(('embed/', 'stage_', 'norm/')):
    return False
  own = [s for s in sensors if s in name.split('/')]
  return not own or own == [sensor]


def skysense_flops(
  spec: skysense_v2_spec.SkySenseV2Spec,
  sides: Mapping[str, int],
  *,
  dates: Mapping[str, int] | None = None,
) -> int:
  """Forward FLOPs of one sample: trunk of every sensor and date, and fusion.

  Products of matrices alone, 2 FLOPs per multiply-add, K experts per token.

  Args:
    spec: of the model.
    sides: {sensor: pixels of a side}.
    dates: {sensor: T}; 1 for those that are not named.
  """
  dates, macs, grids = dates or {}, 0, {}
  for sensor, side in sides.items():
    grids[sensor] = side // spec.stride(sensor)
    macs += dates.get(sensor, 1) * _trunk_macs(spec, sensor, side)
  if spec.fusion_depth:
    macs += _fusion_macs(spec, grids, dates)
  return 2 * math.floor(macs)


def _trunk_macs(
  spec: skysense_v2_spec.SkySenseV2Spec, sensor: str, side: int
) -> float:
  grid = side // spec.patch_size
  pixels = spec.patch_size**2 * spec.of('channels', sensor)
  macs, block = grid**2 * pixels * spec.embed_dim, 0
  for stage, depth in enumerate(spec.depths):
    dim = spec.dim(stage)
    if stage:
      halved = spec.of('reduces', sensor)[stage - 1]
      grid = grid // 2 if halved else grid
      macs += grid**2 * (4 if halved else 1) * (dim // 2) * dim
    tokens, seen = grid**2, min(spec.window, grid) ** 2
    if skysense_v2_spec.is_global(spec, stage):
      tokens = seen = tokens + spec.prompts
    ffn = 2 * dim * int(dim * spec.mlp_ratio)
    for _ in range(depth):
      routed = block in spec.routed
      per_token = 4 * dim**2 + 2 * seen * dim
      per_token += ffn * (min(spec.choices, spec.experts) if routed else 1)
      per_token += spec.experts * dim if routed else 0
      macs += tokens * per_token
      block += 1
  return macs


def _fusion_macs(
  spec: skysense_v2_spec.SkySenseV2Spec,
  grids: Mapping[str, int],
  dates: Mapping[str, int],
) -> float:
  """Projections, upsampling to the finest grid, layers over the dates."""
  dim, finest = spec.fusion_dim, max(grids.values())
  macs, length = 0, 1  # The learnt token.
  for sensor, grid in grids.items():
    count = dates.get(sensor, 1)
    length += count
    macs += count * grid**2 * spec.dim(-1) * dim
    if finest > grid:
      macs += count * finest**2 * dim**2
  per_token = (
    4 * dim**2 + 2 * length * dim + 2 * dim * int(dim * spec.mlp_ratio)
  )
  return macs + spec.fusion_depth * finest**2 * length * per_token


# What a standard ViT-B/16 has beside blocks and final norm, and a MAPEX-style
# model has not or not so: an RGB patch embedding, a class token, and learnt
# positions of 197 tokens. The fact sheet's table counts them.
VIT_B16_REST = 16 * 16 * 3 * 768 + 768 + 768 + 197 * 768


def mapex_report(spec: mapex_spec.MapexSpec) -> dict[str, Any]:
  """Parameters by part, FLOPs by sensor, bytes of weights and train state.

  `parameters`: `trunk` (blocks and the final norm without routers), routers,
  tokenizers (patch embeddings and learnt vectors of the sensors), encoder
  (these together), decoder, total. The fact sheet's table for ViT-B/16 with 6
  x 6 experts (227.5 M; 170.8, 142.5, 114.1, 85.8 M with 4, 3, 2, 1 left) is
  trunk + `VIT_B16_REST`, to the last digit. `active_parameters.<sensor>`: of
  the encoder, K experts per token, routers whole. `flops_per_image.<sensor>`:
  of the encoder, on one sensor alone.
  """
  sizes = {
    name: leaf.size
    for name, leaf in trees.flatten(build.build(spec).abstract).items()
  }
  add = lambda of: sum(n for name, n in sizes.items() if of(name))
  routers = add(lambda n: n.startswith('run_') and '/router' in n)
  trunk = add(lambda n: n.startswith(('run_', 'norm/'))) - routers
  tokenizers = add(lambda n: n.startswith(('embed/', 'sensors/')))
  decoder = add(lambda n: n.startswith('decoder/'))
  total = sum(sizes.values())
  hidden = int(spec.embed_dim * spec.mlp_ratio)
  one = 2 * spec.embed_dim * hidden + hidden + spec.embed_dim
  idle = one * sum(max(e - spec.choices, 0) for e in spec.experts)
  own = lambda s: add(
    lambda n: n.startswith(f'embed/{s}/') or n == f'sensors/{s}'
  )
  return {
    'parameters': {
      'trunk': trunk,
      'routers': routers,
      'tokenizers': tokenizers,
      'encoder': total - decoder,
      'decoder': decoder,
      'total': total,
    },
    'active_parameters': {
      s: trunk + routers - idle + own(s) for s in spec.sensors
    },
    'flops_per_image': {s: mapex_flops(spec, (s,)) for s in spec.sensors},
    'bytes': {'parameters': 4 * total, 'train_state': 16 * total},
  }


def mapex_flops(
  spec: mapex_spec.MapexSpec,
  sensors: Sequence[str],
  *,
  keep_ratio: float | None = None,
) -> int:
  """Forward FLOPs of one sample of `spec.image_size` with these sensors.

  Products of matrices alone, 2 FLOPs per multiply-add, K experts per token.

  Args:
    spec: of the model.
    sensors: whose tokens there are.
    keep_ratio: of masked autoencoding: the encoder sees this share of the
      tokens and the decoder all of them. None is the encoder on all.
  """
  grid, dim = spec.image_size // spec.patch_size, spec.embed_dim
  tokens = grid**2 * len(sensors)
  pixels = [spec.patch_size**2 * spec.of('channels', s) for s in sensors]
  macs = grid**2 * sum(pixels) * dim
  seen = tokens if keep_ratio is None else max(1, int(tokens * keep_ratio))
  ffn = 2 * dim * int(dim * spec.mlp_ratio)
  macs += spec.depth * seen * (4 * dim**2 + 2 * seen * dim + ffn)
  for number in spec.experts:
    extra = spec.shared + min(spec.choices, number) - 1
    macs += seen * (extra * ffn + (number * dim if number > 1 else 0))
  if keep_ratio is not None:
    dim = spec.decoder_dim
    per_token = 12 * dim**2 + 2 * tokens * dim
    macs += seen * spec.embed_dim * dim + grid**2 * sum(pixels) * dim
    macs += spec.decoder_depth * tokens * per_token
  return 2 * math.floor(macs)
