"""Prints what a model is and costs, without allocating it."""

import argparse
import json
from typing import Any

from rsfm_jax.cli import compose
from rsfm_jax.cli import config as configs
from rsfm_jax.cli import models
from rsfm_jax.models import accounting
from rsfm_jax.models import mapex_spec
from rsfm_jax.models import ringmoe

HELP = 'parameters, active parameters, FLOPs and memory of a model'
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  group = parser.add_mutually_exclusive_group(required=True)
  group.add_argument('--config', help='a file of configs/')
  group.add_argument('--checkpoint', help='a workdir or a model folder')
  parser.add_argument(
    '--json', action='store_true', help='print one JSON object'
  )


def run(args: argparse.Namespace) -> int:
  if args.config:
    config = configs.load(args.config, args.overrides)
    spec = compose.model(config).spec
    found = accounting.report(spec)
  else:
    opened = models.open_model(args.checkpoint)
    spec = opened.model.spec
    found = accounting.report(spec) | {
      'content_hash': opened.content_hash,
      'step': opened.step,
      'contract': opened.contract,
    }
  if args.json:
    print(json.dumps(found))
    return 0
  print(_title(spec))
  for group in ('parameters', 'active_parameters', 'flops_per_image', 'bytes'):
    for name, value in found[group].items():
      print(f'{group + "." + name:32s} {value:>22,}')
  if 'step' in found:
    print(f'{"step":32s} {found["step"]!s:>22}')
    print(f'{"content_hash":32s} {found["content_hash"][:22]:>22}')
    for name, sensor in found['contract']['sensors'].items():
      bands = ', '.join(band['name'] for band in sensor['bands'])
      print(f'{"sensor " + name:32s} {bands}')
  return 0


def _title(spec: Any) -> str:
  """One line about an architecture."""
  if isinstance(spec, mapex_spec.MapexSpec):
    return (
      f'MAPEX-style of {", ".join(spec.sensors)}: {spec.depth} blocks at '
      f'{spec.embed_dim}, experts {spec.experts} in every '
      f'{spec.moe_every}. block, conditioning {spec.conditioning}'
    )
  stages = f'stages {spec.depths} from {spec.embed_dim}'
  if isinstance(spec, ringmoe.RingMoESpec):
    return (
      f'RingMoE of {", ".join(spec.sensors)}: {stages}, {spec.specialised} '
      f'specialised + {spec.collaborative} collaborative + 1 shared experts '
      'per block'
    )
  return (
    f'SkySense V2 of {", ".join(spec.sensors)}: {stages}, {spec.experts} '
    f'experts in {len(spec.routed)} of {sum(spec.depths)} blocks, fusion of '
    f'{spec.fusion_depth} layers at {spec.fusion_dim}'
  )
