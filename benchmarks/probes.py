"""Trained probes of a whole grid beside one probe; exact kNN of many features.

`rates`: OlmoEarth's probe with one learning rate, with all eight, and with all
eight under two views of the features and three seeds, in turns in one process;
ratios are medians over rounds. Target: eight rates cost at most 1.5 x one.
`knn`: 10,000 queries of a bank of 50,000 features. Target: 60 s on two cores.

  python benchmarks/probes.py [--part rates] [--part knn] [--rounds 5]
"""

import argparse
from collections.abc import Callable
import statistics
import time
from typing import Any

import numpy as np

from rsfm_jax.cli import bench
from rsfm_jax.evaluate import knn
from rsfm_jax.evaluate import probe
from rsfm_jax.evaluate import protocols

CLASSES = 10
SEEDS = (0, 1, 2)
TARGET, TARGET_S = 1.5, 60
COLUMNS = {
  'part': '{part}',
  'samples': '{samples:,}',
  'width': '{width}',
  'one rate s': '{one_s:.2f}',
  'eight rates s': '{rates_s:.2f}',
  f'eight / one (target {TARGET})': '{rates_ratio:.2f}',
  '48 probes s': '{grid_s:.2f}',
  '48 / one': '{grid_ratio:.2f}',
  'queries': '{queries:,}',
  f'kNN s (target {TARGET_S})': '{knn_s:.1f}',
}


def clusters(samples: int, width: int) -> tuple[np.ndarray, np.ndarray]:
  """Features of classes that overlap, f32[N, F], and the classes."""
  rng = np.random.default_rng(0)
  y = rng.integers(CLASSES, size=samples)
  centres = rng.normal(size=(CLASSES, width)) / 4
  x = centres[y] + rng.normal(size=(samples, width))
  return x.astype(np.float32), y


def rates(samples: int, width: int, rounds: int) -> dict[str, Any]:
  protocol = protocols.get('olmoearth_lp')
  x, y = clusters(samples + samples // 4, width)
  train, held = slice(samples), slice(samples, None)
  rate = protocol.grid[4]

  def run(views, learning_rates, seeds) -> Callable[[], Any]:
    return lambda: probe.fit(
      [x[train]] * views,
      y[train],
      classes=CLASSES,
      learning_rates=learning_rates,
      recipe=protocol.recipe,
      validation=([x[held]] * views, y[held]),
      seeds=seeds,
    )

  runs = {
    'one': run(1, [rate], SEEDS[:1]),
    'rates': run(1, protocol.grid, SEEDS[:1]),
    'grid': run(2, protocol.grid, SEEDS),
  }
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for turn in range(rounds + 1):
    for name, fit in runs.items():
      begin = time.perf_counter()
      fit()
      if turn:  # The first compiles.
        seconds[name].append(time.perf_counter() - begin)
  ratio = lambda name: statistics.median(
    a / b for a, b in zip(seconds[name], seconds['one'], strict=True)
  )
  return {
    'part': 'rates',
    'samples': samples,
    'width': width,
    'epochs': protocol.recipe.epochs,
    **{f'{name}_s': statistics.median(s) for name, s in seconds.items()},
    'rates_ratio': ratio('rates'),
    'grid_ratio': ratio('grid'),
  }


def neighbours(samples: int, queries: int, width: int) -> dict[str, Any]:
  x, y = clusters(samples + queries, width)
  begin = time.perf_counter()
  knn.classify(
    x[:samples],
    y[:samples],
    x[samples:],
    how=knn.rule('olmoearth_k20'),
    classes=CLASSES,
  )
  return {
    'part': 'knn',
    'samples': samples,
    'queries': queries,
    'width': width,
    'knn_s': time.perf_counter() - begin,  # With its compilation.
  }


def main() -> None:
  parser = bench.options(__doc__)
  add = parser.add_argument
  add('--part', choices=('rates', 'knn'), action='append')
  add('--samples', type=int, help='of rates; default 4000, 256 if quick')
  add('--width', type=int, default=768, help='of the features')
  add('--rounds', type=int, help='default 5, 1 if quick')
  args: argparse.Namespace = parser.parse_args()
  rows = []
  if 'rates' in (args.part or ('rates',)):
    samples = args.samples or (256 if args.quick else 4000)
    rounds = args.rounds or (1 if args.quick else 5)
    rows.append(rates(samples, args.width, rounds))
  if 'knn' in (args.part or ('knn',)):
    size = (2000, 400) if args.quick else (50_000, 10_000)
    rows.append(neighbours(*size, args.width))
  bench.print_table(rows, COLUMNS)
  bench.finish(args, 'probes', rows)


if __name__ == '__main__':
  main()
