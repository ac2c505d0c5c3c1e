"""Cuts a model down to some sensors, fewer experts, or one dense FFN a block.

Usage of the experts is measured on a calibration store, or read from a record
that was measured elsewhere; then `--stream` needs no memory for the model: it
reads and writes expert by expert. A record can also be all that is written:

  rsfm prune --checkpoint RUN --calibration STORE --usage usage.json
  rsfm prune --checkpoint RUN --usage usage.json --keep top:1 --stream --out M

`--sweep 4,2,1` measures what each number of kept experts costs in accuracy and
saves in parameters, FLOPs and time, beside random and least used experts.
"""

import argparse
import pathlib
from typing import Any

from rsfm_jax.cli import models
from rsfm_jax.cli import pruned
from rsfm_jax.cli import pruning_sweep
from rsfm_jax.cli import recover
from rsfm_jax.core import files
from rsfm_jax.core import trees
from rsfm_jax.data import store as stores
from rsfm_jax.export import folder as folders
from rsfm_jax.models import build
from rsfm_jax.pruning import keep as keep_lib
from rsfm_jax.pruning import layout
from rsfm_jax.pruning import merge
from rsfm_jax.pruning import surgery
from rsfm_jax.pruning import usage as usage_lib

HELP = 'keep some sensors and experts, or integrate experts into one FFN'

_comma = lambda text: tuple(text.split(','))


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--checkpoint', required=True, help='a workdir or a model folder')
  add('--out', help='model folder to write')
  add('--which', choices=('auto', 'params', 'ema'), default='auto')
  add(
    '--sensors',
    type=_comma,
    metavar='A,B',
    help='keep what these sensors use (lossless for them); default: all',
  )
  add(
    '--keep',
    default='all',
    metavar='RULE',
    help='all; top:N, the N most used experts of each sensor; pooled:N, of all '
    'sensors together; mass:Q, those that have a share Q of the use; random:N, '
    'least:N; or a JSON file {layer: [experts]}',
  )
  add('--by', choices=keep_lib.CRITERIA, default='share', help='what use means')
  add(
    '--branches',
    type=_comma,
    metavar='A,B',
    help='groups of experts that RULE cuts; default: those for all sensors',
  )
  add('--fold', choices=surgery.FOLDS, default='mean_gate')
  add(
    '--dense',
    choices=merge.HOWS,
    help='integrate all kept experts into one FFN per block',
  )
  add('--calibration', help='store that usage is measured on')
  add('--usage', metavar='FILE', help='of usage: read, or measured and written')
  add('--split', default='train', help='of the calibration store')
  add('--images', type=int, default=512, help='calibration images per sensor')
  add('--seed', type=int, default=0, help='of random:N and of the probes')
  add(
    '--recover',
    type=int,
    default=0,
    metavar='STEPS',
    help='distil the unpruned model on calibration images, without labels',
  )
  add(
    '--sweep',
    type=lambda text: tuple(int(n) for n in text.split(',')),
    metavar='N,M',
    help='numbers of experts; writes a table, figures and sweep.json to --out',
  )
  add('--store', help='of --sweep: labelled; default: the calibration store')
  add(
    '--protocols',
    type=_comma,
    default=('linear',),
    metavar='A,B',
    help='of --sweep; see rsfm evaluate --help',
  )
  add(
    '--stream',
    action='store_true',
    help='read and write expert by expert; measures nothing',
  )


def run(args: argparse.Namespace) -> int:
  _check(args)
  opened = models.open_model(
    args.checkpoint,
    which=args.which,
    read='parts' if args.stream else 'whole',
  )
  sensors = pruned.trained(opened, args.sensors)
  usage = None
  if args.calibration:
    usage = pruned.calibrate(
      opened,
      stores.Store(args.calibration),
      sensors=sensors,
      split=args.split,
      images=args.images,
    )
    if args.usage:
      files.write_json(args.usage, usage.to_json())
  elif args.usage:
    usage = usage_lib.Usage.from_json(files.read_json(args.usage))
  if args.sweep:
    pruning_sweep.run(
      opened,
      stores.Store(args.store or args.calibration),
      usage,
      pathlib.Path(args.out),
      counts=args.sweep,
      sensors=sensors,
      branches=args.branches,
      protocols=args.protocols,
      seed=args.seed,
    )
    return 0
  if not args.out:
    print(f'{args.usage}: usage of {len(usage.layers)} layers')
    return 0
  small = pruned.plan(
    opened,
    sensors=sensors,
    keep=args.keep,
    usage=usage,
    branches=args.branches,
    by=args.by,
    fold=args.fold,
    dense=args.dense,
    seed=args.seed,
  )
  if args.stream:
    digest = pruned.write_parts(args.out, opened, small, usage)
  else:
    params, steps = _more(args, opened, small, sensors)
    digest = pruned.write_whole(
      args.out, opened, small, usage, params=params, steps=steps
    )
  before = trees.count(opened.model.abstract)
  after = trees.count(build.build(small.spec).abstract)
  print(
    f'{args.out}: {after:,} of {before:,} parameters, '
    f'{pruned.describe(small.spec)}, {digest[:12]}'
  )
  return 0


def _more(
  args: argparse.Namespace,
  opened: models.Opened,
  small: surgery.Pruned,
  sensors: tuple[str, ...],
) -> tuple[Any, list[dict[str, Any]]]:
  """Recovered parameters, if asked for, and records of what was done besides.

  Where sensors see each other, the record also tells of their use together.
  """
  params, steps = None, []
  if not args.calibration:
    return params, steps
  store = stores.Store(args.calibration)
  options = dict(sensors=sensors, split=args.split, images=args.images)
  if layout.of(opened.model.spec).joint:
    usage = pruned.calibrate(opened, store, fed='together', **options)
    steps.append(
      {
        'operation': 'calibrate',
        'fed': 'together',
        'usage': usage.to_json(),
      }
    )
  if args.recover:
    student = pruned.as_opened(opened, small, args.out)
    images = pruned.calibration(opened, store, **options)
    params, record = recover.recover(
      opened, student, images, steps=args.recover, seed=args.seed
    )
    steps.append(record)
  return params, steps


def _check(args: argparse.Namespace) -> None:
  """What needs no model to be seen."""
  if not args.out and not (args.calibration and args.usage):
    raise ValueError('--out MODEL is missing (or --calibration and --usage).')
  if args.out and folders.is_model(args.out):
    raise ValueError(f'--out {args.out} holds a model already.')
  if args.sweep and (args.stream or not args.out or not args.calibration):
    raise ValueError('--sweep needs --calibration and --out, and no --stream.')
  if args.recover and (args.recover < 0 or not args.calibration):
    raise ValueError(
      f'--recover {args.recover} needs --calibration, and steps from 1.'
    )
  if args.images < 1:
    raise ValueError(f'--images {args.images} must be at least 1.')
  if args.stream and args.calibration:
    raise ValueError(
      '--stream does not hold the model and cannot run it on --calibration; '
      'give --usage FILE, measured where there is room.'
    )
