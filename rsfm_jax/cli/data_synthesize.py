"""`rsfm data synthesize`: a labelled store of synthetic landscapes."""

import argparse

from rsfm_jax.data import workers
from rsfm_jax.data.synthetic import samples
from rsfm_jax.data.synthetic import writing
from rsfm_jax.sensors import catalogue

HELP = 'make a labelled multi-sensor store of synthetic landscapes'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--out', required=True, metavar='STORE', help='folder of the new store')
  add('--samples', type=int, default=2000, help='number of scenes')
  add('--size', type=int, default=64, help='height and width in pixels')
  add(
    '--sensors',
    default='opt,sar_l1,sar_l2,ms',
    help='names of the catalogue, separated by commas',
  )
  add('--seed', type=int, default=0, help='another seed, another world')
  add('--dates', type=int, default=1, help='images per year of each scene')
  add(
    '--clouds',
    type=float,
    default=None,
    help='mean cloud share; default 0.25 with several dates, else 0',
  )
  add(
    '--coarse',
    default='',
    metavar='SENSOR=N,...',
    help='sensors whose pixels are N times larger, by averaging; with --dates '
    'these alone have a series',
  )
  add(
    '--change',
    action='store_true',
    help='add the same place later, and where its land cover changed',
  )
  add(
    '--sequence',
    type=int,
    nargs='?',
    const=8,
    default=0,
    metavar='FRAMES',
    help='add an image sequence of moving objects (8 frames if not given)',
  )
  add(
    '--objects',
    type=int,
    default=0,
    help='bright halls and tanks to add to every scene, for detection',
  )
  add(
    '--workers',
    type=int,
    default=workers.available(),
    help='processes; 0 for this one alone (default: one per core)',
  )
  add('--resume', action='store_true', help='continue an interrupted store')


def options_of(args: argparse.Namespace) -> samples.Options:
  """What the arguments ask for.

  Raises:
    ValueError: an unknown sensor or a value out of range.
  """
  names = [name.strip() for name in args.sensors.split(',') if name.strip()]
  clouds = args.clouds
  if clouds is None:
    clouds = 0.25 if args.dates > 1 else 0.0
  return samples.Options(
    sensors=tuple(catalogue.get(name) for name in names),
    size=args.size,
    seed=args.seed,
    dates=args.dates,
    pair='change' if args.change else 'none',
    frames=args.sequence,
    objects=args.objects,
    cloudiness=clouds,
    coarse=_factors(args.coarse),
  )


def _factors(text: str) -> dict[str, int]:
  """'a=8,b=4' -> {'a': 8, 'b': 4}."""
  factors = {}
  for part in filter(None, (part.strip() for part in text.split(','))):
    name, _, factor = part.partition('=')
    if not factor.strip().isdecimal() or name.strip() in factors:
      raise ValueError(
        f'--coarse {text}: {part!r} must be SENSOR=N, each sensor once, e.g. '
        'sentinel2_skysense=8.'
      )
    factors[name.strip()] = int(factor)
  return factors


def run(args: argparse.Namespace) -> int:
  """Writes the store and prints what it holds.

  Raises:
    ValueError: arguments that do not fit, or a folder that is taken.
  """
  store = writing.write(
    args.out,
    options_of(args),
    args.samples,
    workers=args.workers,
    resume=args.resume,
  )
  splits = store.column('split')
  parts = {name: splits.count(name) for name in ('train', 'val', 'test')}
  print(f'{store.folder}: {len(store)} scenes of {len(store.classes)} classes,')
  print(f'  sensors {", ".join(store.sensors)}; splits {parts}')
  return 0
