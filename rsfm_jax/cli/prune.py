"""Cuts a RingMoE down to some sensors, fewer experts, or one dense FFN."""

import argparse
from collections.abc import Iterator
import math
import pathlib

import jax
import numpy as np

from rsfm_jax.cli import measure
from rsfm_jax.cli import models
from rsfm_jax.core import trees
from rsfm_jax.data import store as stores
from rsfm_jax.export import folder as folders
from rsfm_jax.models import build
from rsfm_jax.pruning import integrate
from rsfm_jax.pruning import surgery
from rsfm_jax.pruning import usage as usage_lib
from rsfm_jax.train import checkpoint

HELP = 'extract sensors, prune collaborative experts, integrate into one FFN'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--checkpoint', required=True, help='a workdir or a model folder')
  add('--out', required=True, help='model folder to write')
  add('--which', choices=('params', 'ema'), default='params')
  add(
    '--sensors',
    type=lambda t: tuple(t.split(',')),
    metavar='A,B',
    help='keep what these sensors use (lossless for them); default: all',
  )
  add(
    '--keep',
    type=float,
    metavar='SHARE',
    help='share of collaborative experts to keep, the most used (EP: 0.25)',
  )
  add('--fold', choices=('mean_gate', 'none'), default='mean_gate')
  add(
    '--dense',
    choices=('sum', 'mean', 'svd'),
    help='integrate all experts of one sensor into one FFN per block',
  )
  add('--calibration', help='store that usage is measured on')
  add('--split', default='train', help='of the calibration store')
  add('--images', type=int, default=512, help='calibration images per sensor')


def run(args: argparse.Namespace) -> int:
  opened = models.open_model(args.checkpoint, which=args.which)
  if folders.is_model(args.out):
    raise ValueError(f'--out {args.out} holds a model already.')
  if args.keep is not None and not 0 < args.keep <= 1:
    raise ValueError(f'--keep {args.keep} must be a share in (0, 1].')
  needs_usage = args.dense or (args.keep is not None and args.keep < 1)
  if needs_usage and not args.calibration:
    raise ValueError('--keep and --dense need --calibration STORE.')
  store = stores.Store(args.calibration) if needs_usage else None
  small, records = prune(
    opened,
    sensors=args.sensors,
    keep=args.keep,
    fold=args.fold,
    dense=args.dense,
    calibration=store,
    split=args.split,
    images=args.images,
  )
  digest = write(args.out, opened, small, records)
  before, after = trees.count(opened.params), trees.count(small.params)
  print(
    f'{args.out}: {after:,} of {before:,} parameters, '
    f'{small.spec.specialised} specialised + {small.spec.collaborative} '
    f'collaborative + 1 shared experts, {digest[:12]}'
  )
  return 0


def prune(
  opened: models.Opened,
  *,
  sensors: tuple[str, ...] | None = None,
  keep: float | None = None,
  fold: surgery.Fold = 'mean_gate',
  dense: integrate.How | None = None,
  calibration: stores.Store | None = None,
  split: str = 'train',
  images: int = 512,
) -> tuple[surgery.Pruned, list[dict]]:
  """Extract, then prune, then integrate; each step is optional."""
  spec = opened.model.spec
  small = surgery.extract(spec, opened.params, sensors or spec.sensors)
  records = [small.record]

  def usage() -> usage_lib.Usage:
    model = build.build(small.spec)
    measured = usage_lib.measure(
      model.apply,
      small.params,
      _calibration(opened, calibration, split, small.spec.sensors, images),
      sensors=small.spec.sensors,
    )
    records.append(
      {
        'operation': 'calibrate',
        'store': str(calibration.folder),
        'split': split,
        'usage': measured.to_json(),
      }
    )
    return measured

  if keep is not None:
    count = max(1, math.ceil(keep * small.spec.collaborative - 1e-9))
    if count < small.spec.collaborative:
      measured = usage()
      present = np.flatnonzero(measured.images).tolist()
      small = surgery.prune_collaborative(
        small.spec,
        small.params,
        surgery.most_used(measured, present, keep=count),
        measured=measured,
        fold=fold,
      )
      records.append(small.record)
  if dense is not None:
    small = integrate.integrate(
      small.spec, small.params, measured=usage(), how=dense
    )
    records.append(small.record)
  return small, records


def write(out, opened: models.Opened, small: surgery.Pruned, records) -> str:
  """The pruned model as a complete folder; returns its content hash."""
  kept = small.spec.sensors
  held = {
    part: {s: v for s, v in opened.contract[part].items() if s in kept}
    for part in ('sensors', 'statistics')
  }
  return folders.save(
    pathlib.Path(out),
    small.params,
    spec=small.spec.to_json(),
    contract=held,
    record={
      'parent': opened.path,
      'parent_hash': opened.content_hash,
      'parent_step': opened.step,
      'steps': records,
    },
  )


def as_opened(
  opened: models.Opened, small: surgery.Pruned, path: str
) -> models.Opened:
  """A pruned model in memory, ready to run."""
  return opened._replace(
    model=build.build(small.spec),
    params=jax.tree.map(jax.numpy.asarray, small.params),
    content_hash=checkpoint.content_hash(small.params),
    path=path,
  )


def _calibration(
  opened: models.Opened, store, split, sensors, limit
) -> Iterator[dict[str, np.ndarray]]:
  """Images of every kept sensor that the store holds, one at a time."""
  for sensor in sensors:
    if sensor not in store.sensors:
      continue
    to = measure.target(
      store, sensor, opened, missing_bands='mask', batch_size=64
    )
    seen = 0
    for batch in measure.unlabelled(to, split):
      yield {sensor: batch[: max(limit - seen, 0)]}
      seen += len(batch)
      if seen >= limit:
        break
