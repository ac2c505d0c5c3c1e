"""Parameters, active parameters, FLOPs and bytes, without allocating."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.models import ringmoe
from rsfm_jax.models import skysense_v2_spec


def report(spec: ringmoe.RingMoESpec) -> dict[str, Any]:
  """Everything `rsfm inspect` prints, as one JSON object.

  Keys: `parameters.{encoder,total}`, `active_parameters.<sensor>` (encoder,
  top-K experts of each router, routers whole), `flops_per_image.<sensor>`
  (forward of the encoder, 2 FLOPs per multiply-add of all matrix products),
  `bytes.{parameters,train_state}` (float32; weights, gradients and two
  moments for the train state).
  """
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
