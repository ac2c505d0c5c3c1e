"""`rsfm data pack`: scenes on disk to stores of samples."""

import argparse
from concurrent import futures
import contextlib
import dataclasses
import fnmatch
import time

from rsfm_jax.core import uris
from rsfm_jax.data import cluster
from rsfm_jax.data import pack
from rsfm_jax.data import readers
from rsfm_jax.data import real
from rsfm_jax.data import real_places
from rsfm_jax.data import recipe
from rsfm_jax.data import splits
from rsfm_jax.data.datasets import registry

HELP = 'cut scenes into chips and write a store'

_RECIPES = {'real': real.jobs, 'places': real_places.jobs}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add(
    'source',
    nargs='?',
    help='folder, .zip, scene file (GeoTIFF, JPEG, PNG, NPY, NPZ, HDF5), '
    'tfds:NAME, or GeoTIFF in a bucket (gs://, s3://; many by --table)',
  )
  add('--out', help='folder of the store (of stores: --recipe)')
  add('--sensor', help='contract of the files, e.g. sentinel2_l1c')
  add('--store_as', default='', help='contract of the store, e.g. ms')
  add('--pattern', default='*', help='shell pattern of paths in the source')
  add('--chip', type=int, help='edge in pixels; without it scenes stay whole')
  add('--stride', type=int, help='default: the chip, so no overlap')
  add('--cut', choices=('tile', 'centre'), help='default: tile')
  add(
    '--max_nodata',
    type=float,
    default=0.5,
    help='skip chips with a larger share of nodata',
  )
  add(
    '--split',
    choices=('random', 'location', 'table', *splits.NAMES),
    help='default: table if there is one, else train',
  )
  add('--shares', type=_numbers, default=(0.8, 0.1, 0.1), metavar='A,B,C')
  add('--seed', type=int, default=0, help='of the random and location splits')
  add('--block_km', type=float, default=5.0, help='block of --split location')
  add('--table', default='', help='CSV of file,label,split')
  add('--label', choices=('folder', 'none'), default='none')
  add(
    '--bands',
    type=_names,
    default=(),
    metavar='B01,B02,...',
    help="bands (or polarisations) in the file's order; empty skips one",
  )
  add(
    '--datasets',
    type=_pairs,
    default=(),
    metavar='BAND=NAME,...',
    help='data set of each band of an HDF5 file',
  )
  add('--axes', default='', help='axes of an array: N, C, H, W in its order')
  add('--key', default='', help='array of an NPZ, feature of a TFDS example')
  add('--values', choices=('stored', 'scaled'), default='stored')
  add('--nodata', type=float, help="overrides the contract's")
  add('--resampling', choices=('bilinear', 'nearest'), default='bilinear')
  add('--bands_as', choices=('channels', 'samples'), default='channels')
  add('--missing_bands', choices=('error', 'mask'), default='error')
  add('--processing_baseline', default='', help='of Sentinel-2 DN, e.g. 05.09')
  add('--licence', default='')
  add('--workers', type=int, help='processes; default: one per core')
  add(
    '--scheduler',
    metavar='ADDRESS',
    help='pack on the workers of this dask scheduler, e.g. tcp://host:8786',
  )
  add('--on_bad', choices=('auto', 'stop', 'skip'), default='auto')
  add('--resume', action='store_true', help='go on with a killed pack')
  add(
    '--recipe',
    choices=tuple(_RECIPES),
    help='make all stores of a known recipe',
  )
  _add_dataset_arguments(parser)
  add('--shared', default='../shared', help='folder of the samples: --recipe')
  add('--only', default='*', help='shell pattern of stores: --recipe')


def _add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add(
    '--dataset',
    metavar='NAME',
    help='pack a published data set (see --list), or your own: mine.py or '
    'mine.py:NAME, see docs/your_data.md',
  )
  add('--from', dest='copy', help='folder or .zip of the copy: --dataset')
  add(
    '--part',
    action='store_true',
    help='the copy is a part of the data set, so numbers may differ: --dataset',
  )
  add('--list', action='store_true', help='print the data sets of --dataset')


def run(args: argparse.Namespace) -> int:
  if args.list:
    print(registry.markdown())
    return 0
  _check(args)
  with _workers(args) as workers:
    if args.recipe:
      return _run_recipe(args, workers)
    report = pack.pack(
      _dataset_job(args) if args.dataset else _job(args),
      args.out,
      workers=workers,
      resume='yes' if args.resume else 'no',
      on_bad=args.on_bad,
    )
    print('\n'.join(report.lines()))
  return 0


def _check(args: argparse.Namespace) -> None:
  """Whether the arguments name one thing to pack, and where to."""
  if not args.out:
    raise ValueError('rsfm data pack needs --out.')
  if args.dataset:
    given = ('source', 'sensor', 'recipe', 'bands', 'datasets')
    extra = [name for name in given if getattr(args, name)]
    if extra or not args.copy:
      raise ValueError(
        f'--dataset {args.dataset} needs --from FOLDER and knows the rest '
        f'itself (given: --from {args.copy}, and {extra}).'
      )
  elif args.copy or args.part:
    raise ValueError('--from and --part go with --dataset.')
  elif not args.recipe and not (args.source and args.sensor):
    raise ValueError(
      'rsfm data pack needs SOURCE and --sensor, --dataset or --recipe.'
    )


def _workers(args: argparse.Namespace):
  """A context that gives processes of this machine, or a cluster's."""
  if args.scheduler is None:
    return contextlib.nullcontext(args.workers)
  if args.workers is not None:
    raise ValueError(
      f'--workers {args.workers} are processes here; how many a cluster has '
      'is said where it is started. Leave it out with --scheduler.'
    )
  return cluster.connect(args.scheduler)


def _run_recipe(
  args: argparse.Namespace, workers: int | futures.Executor | None
) -> int:
  """Makes every store that is not there yet; a second call completes."""
  if args.source:
    raise ValueError(f'--recipe takes no SOURCE (given: {args.source}).')
  start, samples, made = time.monotonic(), 0, 0
  root = uris.local(args.out, what='a store', by='its writer', access='write')
  for name, job in _RECIPES[args.recipe](args.shared).items():
    folder = root / name
    if not fnmatch.fnmatchcase(name, args.only):
      continue
    made += 1
    if pack.is_done(job, folder):
      print(f'{folder}: done before')
      continue
    report = pack.pack(
      job, folder, workers=workers, resume='yes', on_bad=args.on_bad
    )
    samples += report.samples
    print('\n'.join(report.lines()))
  if not made:
    raise ValueError(f'--only {args.only!r} names no store of the recipe.')
  seconds = time.monotonic() - start
  print(f'{args.out}: {made} stores, {samples} new samples, {seconds:.1f} s')
  return 0


def _dataset_job(args: argparse.Namespace) -> pack.Job:
  """A data set as it is published, but for chips and splits."""
  one = registry.get(args.dataset)
  changes = {
    name: value
    for name in ('chip', 'stride', 'cut', 'store_as', 'licence')
    if (value := getattr(args, name))
  }
  kind = args.split or 'table'
  return pack.Job(
    name=one.name,
    dataset=args.dataset,
    source=args.copy,
    table=args.table,
    extent='part' if args.part else 'whole',
    recipe=dataclasses.replace(
      one.recipe, split=_policy(args, kind), **changes
    ),
  )


def _job(args: argparse.Namespace) -> pack.Job:
  kind = args.split or ('table' if args.table or _has_splits(args) else 'train')
  return pack.Job(
    source=args.source,
    pattern=args.pattern,
    label=args.label,
    table=args.table,
    recipe=recipe.Recipe(
      sensor=args.sensor,
      store_as=args.store_as,
      layout=readers.Layout(
        bands=args.bands,
        datasets=args.datasets,
        axes=args.axes,
        key=args.key,
        values=args.values,
        nodata=args.nodata,
        resampling=args.resampling,
      ),
      chip=args.chip,
      stride=args.stride,
      cut=args.cut or 'tile',
      max_nodata=args.max_nodata,
      split=_policy(args, kind),
      bands_as=args.bands_as,
      missing_bands=args.missing_bands,
      processing_baseline=args.processing_baseline,
      licence=args.licence,
    ),
  )


def _policy(args: argparse.Namespace, kind: str) -> splits.Policy:
  return splits.Policy(
    kind=kind, shares=args.shares, seed=args.seed, block_km=args.block_km
  )


def _has_splits(args: argparse.Namespace) -> bool:
  return args.source.startswith('tfds:')


def _numbers(text: str) -> tuple[float, ...]:
  return tuple(float(part) for part in text.split(','))


def _names(text: str) -> tuple[str, ...]:
  return tuple(part.strip() for part in text.split(','))


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
  pairs = tuple(tuple(part.split('=', 1)) for part in text.split(','))
  if any(len(pair) != 2 for pair in pairs):
    raise argparse.ArgumentTypeError(f'{text!r} is not BAND=NAME,...')
  return pairs
