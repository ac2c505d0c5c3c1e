"""Probes frozen features of models and baselines on a labelled store."""

import argparse
import functools
import pathlib
from typing import Any

from rsfm_jax.cli import certificate
from rsfm_jax.cli import datasets
from rsfm_jax.cli import frozen
from rsfm_jax.cli import measure
from rsfm_jax.cli import measure_tiles
from rsfm_jax.cli import models
from rsfm_jax.data import store as stores
from rsfm_jax.evaluate import protocols
from rsfm_jax.evaluate import rows as rows_lib

HELP = 'kNN and linear probes of frozen features, beside baselines'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--store', required=True, help='a labelled store (train, val, test)')
  add('--sensor', default='opt', help='which sensor of the models, one image')
  add(
    '--sensors',
    type=_names,
    metavar='A,B',
    help='one sensor or several, with all their dates, instead of --sensor '
    '(SkySense V2); the store holds them co-registered',
  )
  add(
    '--dates',
    type=int,
    default=measure_tiles.DATES,
    help='of --sensors: at most so many of a series, at even distances',
  )
  add(
    '--missing_sensors',
    choices=('error', 'mask'),
    default='error',
    help='of --sensors: what a sample that lacks one does',
  )
  add(
    '--prompts',
    choices=('keep', 'drop'),
    default='keep',
    help='drop: without the prompts that SkySense V2 has for each sensor',
  )
  add(
    '--checkpoint',
    action='append',
    default=[],
    metavar='[NAME=]PATH',
    help='a workdir or a model folder; may be repeated',
  )
  add(
    '--which',
    choices=('auto', 'params', 'ema'),
    default='auto',
    help='of a run; auto: its teacher if it has one',
  )
  add(
    '--protocols',
    type=_names,
    default=('linear', 'olmoearth_knn20'),
    metavar='A,B',
    help=f'of {", ".join(protocols.names())}',
  )
  add(
    '--stages',
    type=_names,
    help='default: all, with embed and final; of --sensors: fused and finals',
  )
  add('--pools', type=_names, default=('mean', 'std'))
  add('--views', choices=('identity', 'd4'), default='identity')
  add(
    '--baselines',
    type=_names,
    default=('raw', 'random_init'),
    help='raw, random_init, both (default) or none',
  )
  add('--fit', choices=('native', 'crop', 'resize'), default='native')
  add('--size', type=int, help='pixels, for crop and resize')
  add('--missing_bands', choices=('error', 'mask', 'impute'), default='error')
  add('--batch_size', type=int, default=64)
  add('--seed', type=int, default=0)
  add('--out', help='append the rows to this JSONL file')
  add(
    '--certificate',
    metavar='FOLDER',
    help='instead, of the checkpoints alone: accuracy for every subset of '
    'sensors and band groups, and whether anything under a mask changes a '
    'bit of a feature (exit code 6 if so); leaves rows, checks and a page',
  )


def run(args: argparse.Namespace) -> int:
  for name in args.protocols:
    protocols.get(name)
  store = stores.Store(args.store)
  named = [_named(text) for text in args.checkpoint]
  opened = [(name, models.open_model(p, which=args.which)) for name, p in named]
  data = datasets.Dataset(
    store=args.store,
    sensor=args.sensor,
    sensors=tuple(args.sensors or ()),
    fit=args.fit,
    size=args.size,
    missing_bands=args.missing_bands,
    dates=args.dates,
    missing_sensors=args.missing_sensors,
  )
  seen = functools.partial(
    datasets.target, data, store, batch_size=args.batch_size
  )
  encoder = {
    'stages': args.stages,
    'pools': args.pools,
    'views': args.views,
    'prompts': args.prompts,
  }
  if args.certificate:
    tasks = {name: (one, certificate.task(seen(one))) for name, one in opened}
    return _certify(args, tasks, encoder)
  first = opened[0][1] if opened else None
  rows: list[rows_lib.Row] = []
  if 'raw' in args.baselines:
    rows += frozen.baseline_rows(
      seen(first),
      protocols=args.protocols,
      seed=args.seed,
    )
  if 'random_init' in args.baselines and first is not None:
    start = measure.random_init(first, seed=args.seed)
    opened.insert(0, ('random init', start))
  for name, one in opened:
    rows += frozen.model_rows(
      one,
      seen(one),
      name=name if args.prompts == 'keep' else f'{name}, without prompts',
      protocols=args.protocols,
      seed=args.seed,
      **encoder,
    )
  if args.out:
    rows_lib.append(args.out, rows)
  print(rows_lib.markdown(rows))
  return 0


def _certify(
  args: argparse.Namespace,
  tasks: dict[str, tuple[models.Opened, certificate.Task]],
  encoder: dict[str, Any],
) -> int:
  if not tasks:
    raise ValueError('--certificate needs a --checkpoint.')
  found = certificate.Certificate([], [])
  for name, (opened, task) in tasks.items():
    one = certificate.certify(
      opened,
      task,
      name=name,
      protocols=args.protocols,
      seed=args.seed,
      **encoder,
    )
    found = certificate.Certificate(*map(list.__add__, found, one))
  folder = pathlib.Path(args.certificate)
  certificate.write(folder, found, dataset=task.to.dataset)
  if args.out:
    rows_lib.append(args.out, found.rows)
  print(certificate.markdown(found))
  print(certificate.verdict(found))
  print(folder / 'certificate.html')
  return 0 if found.holds else certificate.LEAKS


def _names(text: str) -> tuple[str, ...]:
  return tuple(part.strip() for part in text.split(',') if part.strip())


def _named(text: str) -> tuple[str, str]:
  """'NAME=PATH', or a path that names itself."""
  name, equals, path = text.partition('=')
  return (name, path) if equals else (pathlib.Path(text).name, text)
