"""Parameters, active parameters, FLOPs and bytes, without allocating."""

import dataclasses
import math
from typing import Any

from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.models import ringmoe


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
