"""`rsfm data stats`: statistics per band of one or several stores."""

import argparse
import json

from rsfm_jax.data import store as stores
from rsfm_jax.sensors import statistics

HELP = 'print mean, std, range and percentiles per band'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('stores', nargs='+', metavar='STORE')
  parser.add_argument(
    '--split', help='pixels of the samples of this split; default: all'
  )
  parser.add_argument('--json', action='store_true', help='one object')


def run(args: argparse.Namespace) -> int:
  merged: dict[str, statistics.Accumulator] = {}
  for folder in args.stores:
    store = stores.Store(folder)
    for sensor in store.sensors:
      part = store.accumulator_of(sensor, args.split)
      if sensor in merged:
        merged[sensor].merge(part)
      else:
        merged[sensor] = part
  results = {name: part.result() for name, part in merged.items()}
  if args.json:
    print(json.dumps({name: r.to_json() for name, r in results.items()}))
    return 0
  for name, result in results.items():
    print('\n'.join(table(name, result)))
  return 0


def table(name: str, result: statistics.Statistics) -> list[str]:
  """Lines of a table with a row per band."""
  keys = list(result.percentiles)
  head = [
    'band',
    'count',
    'mean',
    'std',
    'min',
    *(f'p{k}' for k in keys),
    'max',
  ]
  lines = [name, '  ' + ''.join(f'{h:>11}' for h in head)]
  for c, band in enumerate(result.bands):
    values = [
      result.mean[c],
      result.std[c],
      result.minimum[c],
      *(result.percentiles[k][c] for k in keys),
      result.maximum[c],
    ]
    cells = ''.join(f'{v:11.4g}' for v in values)
    lines.append(f'  {band:>11}{result.count[c]:11d}{cells}')
  return lines
