"""Turns weights of a PyTorch model into a model folder to start from.

Only safetensors are read, never a pickle. The folder's record.json says what
became of every tensor; `rsfm pretrain` starts from the folder with
--config.train.init_from=FOLDER.
"""

import argparse
from collections.abc import Mapping
import pathlib
import re
from typing import Any

import jax
from ml_collections import config_dict
import numpy as np

from rsfm_jax.cli import compose
from rsfm_jax.cli import config as configs
from rsfm_jax.cli import models
from rsfm_jax.convert import fill
from rsfm_jax.convert import sources
from rsfm_jax.convert import weights
from rsfm_jax.convert.targets import find
from rsfm_jax.core import files
from rsfm_jax.core import rng
from rsfm_jax.core import trees
from rsfm_jax.export import folder as folders
from rsfm_jax.models import build
from rsfm_jax.sensors import catalogue

HELP = 'PyTorch weights (safetensors) -> a model folder to start from'
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add(
    '--from',
    dest='source',
    required=True,
    choices=tuple(sources.SOURCES),
    help='whose names the tensors have',
  )
  add('--weights', required=True, help='a .safetensors file')
  add('--config', required=True, help='a file of configs/, for the model')
  add('--out', required=True, help='model folder to write')
  add(
    '--bands',
    type=lambda text: tuple(text.split(',')),
    metavar='B,G,R',
    help='what the source sees, in its order; default: as it was published',
  )
  add(
    '--noise',
    type=float,
    default=0.01,
    help='on copies of an FFN, relative to the deviation of its matrices',
  )
  add('--prefix', default='', help='take only tensors whose names begin so')
  add(
    '--skip',
    type=_regex,
    metavar='REGEX',
    help='leave tensors of these names out',
  )
  add(
    '--onto',
    metavar='MODEL',
    help='a folder or workdir whose parameters stay where the source has none',
  )
  add(
    '--source-windows',
    type=lambda text: tuple(int(w) for w in text.split(',')),
    metavar='W[,W...]',
    help="Swin V2: windows of the source's pre-training, one or one per stage",
  )
  add(
    '--lenient',
    action='store_true',
    help='skip tensors that nothing explains, rather than refuse them',
  )
  parser.epilog = (
    'Override keys by --config.section.key=value; with --config.data.root the '
    'statistics\nof the stores go with the model. A .pth becomes safetensors '
    f'where torch is installed:\n\n  {weights.ONE_LINER}'.replace('%', '%%')
  )


def _regex(text: str) -> str:
  try:
    re.compile(text)
  except re.error as error:
    raise argparse.ArgumentTypeError(f'{text!r} is no regex: {error}') from None
  return text


def run(args: argparse.Namespace) -> int:
  weights.check_kind(args.weights)
  if folders.is_model(args.out):
    raise ValueError(f'--out {args.out} holds a model already.')
  if args.noise < 0:
    raise ValueError(f'--noise {args.noise} must not be negative.')
  config = configs.load(args.config, args.overrides)
  model = compose.model(config)
  find.find(model.spec, sources.SOURCES[args.source].family)
  if args.source_windows:
    find.check_windows(model.spec, args.source_windows)
  onto = models.open_model(args.onto) if args.onto else None
  filled = fill.fill(
    weights.read(args.weights, prefix=args.prefix),
    source=args.source,
    spec=model.spec,
    initial=_initial(config, model, onto),
    bands=args.bands,
    skip=args.skip,
    noise=args.noise,
    seed=config.seed,
  )
  print(filled.report.table())
  if not args.lenient:
    filled.report.check()
  digest = folders.save(
    pathlib.Path(args.out),
    trees.unflatten(filled.params),
    spec=model.spec.to_json(),
    contract=_contract(config, model.spec),
    record={
      'operation': 'import',
      'weights': str(args.weights),
      'weights_sha256': files.sha256(args.weights),
      'prefix': args.prefix,
      'skip': args.skip,
      'bands': args.bands,
      'noise': args.noise,
      'seed': config.seed,
      'parent': onto and onto.path,
      'parent_hash': onto and onto.content_hash,
      'import': filled.report.to_json(),
    },
  )
  report = filled.report
  print(
    f'{args.out}: {len(report.parameters) - len(report.at_init)} of '
    f'{len(report.parameters)} parameters from {args.weights}, {digest[:12]}'
  )
  return 0


def _initial(
  config: config_dict.ConfigDict,
  model: build.Model,
  onto: models.Opened | None,
) -> dict[str, Any]:
  if onto is None:
    params = model.init(rng.named(rng.key_for(config.seed), 'init'))
    return jax.tree.map(np.asarray, params)
  if onto.model.spec != model.spec:
    raise ValueError(f'--onto {onto.path}: its spec is not that of --config.')
  return jax.tree.map(np.asarray, onto.params)


def _contract(config: config_dict.ConfigDict, spec: Any) -> Mapping[str, Any]:
  """Sensors of the model; statistics where the run's stores are known."""
  if config.data.root:
    return compose.contract_json(compose.data(config))
  return {
    'sensors': {s: catalogue.get(s).to_json() for s in spec.sensors},
    'statistics': {},
  }
