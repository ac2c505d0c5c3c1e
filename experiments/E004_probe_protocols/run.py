"""E004: how far does the protocol alone move the number of one model?

Frozen features of a pre-trained tiny RingMoE, of its random initialisation and
of raw statistics, on EuroSAT and UC Merced, under every protocol of the
project; three seeds where a probe has one. It is a sweep: features are encoded
once and cached, rows that stand are not made again, so run it again after an
interruption. Draws the figure and prints the tables for the README.

  python experiments/E004_probe_protocols/run.py --checkpoint RUN \
    --shared ../shared

RUN is the workdir of E001's pre-training or of `rsfm demo`.
"""

import argparse
import pathlib
from typing import Any

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import main
from rsfm_jax.cli import sweep_grid
from rsfm_jax.cli import sweep_jobs
from rsfm_jax.cli import sweep_tables
from rsfm_jax.core import files
from rsfm_jax.core import log
from rsfm_jax.core import memory
from rsfm_jax.evaluate import protocols
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.evaluate import sweep_rows
from rsfm_jax.plots import spread
from rsfm_jax.plots import tables

HERE = pathlib.Path(__file__).resolve().parent
# Stores of the recipe `real`; UC Merced's images of 240 pixels at half a metre
# are resized to what the tiny models were trained at.
DATASETS = {
  'eurosat': {'store': 'opt_eurosat'},
  'ucmerced': {'store': 'opt_ucmerced', 'fit': 'resize', 'size': 64},
}
BASELINES = ('raw statistics', 'raw statistics gradients', 'random init')
# DINOv3 has DINOv2's rule of nearest neighbours.
PROTOCOLS = tuple(n for n in protocols.names() if 'dinov3_knn' not in n)


def options() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--checkpoint', required=True, help='a workdir of RingMoE')
  add('--work', default='workdir/E004', type=pathlib.Path)
  add('--shared', default='../shared')
  add('--stores', type=pathlib.Path, help='packed ones; default: WORK/stores')
  add('--stages', nargs='*', default=['final'], help='none: all of them')
  add('--protocols', nargs='+', default=PROTOCOLS)
  add('--datasets', nargs='+', default=list(DATASETS), choices=list(DATASETS))
  add('--seeds', type=int, default=3)
  add('--results', type=pathlib.Path, default=HERE, help='folder')
  return parser


def prepare(args: argparse.Namespace) -> pathlib.Path:
  """The folder of the stores, which are packed unless they are there."""
  folder = args.stores or args.work / 'stores'
  for name in args.datasets:
    store = DATASETS[name]['store']
    if not (folder / store / 'index.json').exists():
      words = f'data pack --recipe real --shared {args.shared} --out {folder}'
      if code := main.main([*words.split(), '--only', store]):
        raise SystemExit(code)
  return folder


def plan(args: argparse.Namespace, stores: pathlib.Path) -> sweep_grid.Grid:
  config = configs.load(str(HERE.parents[1] / 'configs' / 'sweep_base.py'))
  config.update(
    name='E004',
    baselines=BASELINES,
    protocols=tuple(args.protocols),
    label_fractions=(1.0,),
    seeds=tuple(range(args.seeds)),
  )
  config.features.update(
    stages=tuple(args.stages), pools=('mean', 'std', 'max')
  )
  with config.unlocked():  # Its sections have the names that a sweep gives.
    config.checkpoints.ringmoe = {'path': args.checkpoint}
    for name in args.datasets:
      of = DATASETS[name]
      config.datasets[name] = of | {'store': str(stores / of['store'])}
  return sweep_grid.grid(config)


def measure(
  grid: sweep_grid.Grid, work: pathlib.Path
) -> list[sweep_rows.Result]:
  """Results of all jobs; those that stand in `work` are taken from there."""
  piece, cache = sweep_rows.Piece(0, 1), work / 'features'

  def look() -> tuple[sweep_rows.Found, list[sweep_jobs.Planned]]:
    found = sweep_rows.Found(sweep_rows.read(work))
    return found, sweep_jobs.plan(grid, piece, found, cache)

  path = piece.file(work)
  sweep_jobs.run(
    look()[1], grid, cache, keep=lambda r: rows_lib.append(path, [r])
  )
  found, planned = look()
  done = [
    found.of(job, part.key) for part in planned for job in part.group.jobs
  ]
  if failed := [r for r in done if r is None or r.row is None]:
    raise SystemExit(f'{len(failed)} jobs failed; the first: {failed[0]}')
  return done


def record(
  args: argparse.Namespace, done: list[sweep_rows.Result]
) -> list[dict[str, Any]]:
  """Writes `results.json`; returns a row for each name and protocol."""
  rows = sweep_tables.summary(done)
  files.write_json(
    args.results / 'results.json',
    {
      'stages': args.stages,
      'checkpoint': next(r.row.checkpoint for r in done if r.row.checkpoint),
      'rows': rows,
      'runs': [
        {'name': r.job.name, 'dataset': r.job.dataset, 'seed': r.job.seed}
        | {'protocol': r.job.protocol, 'value': r.row.value}
        | {'chosen': r.row.chosen, 'seconds': r.row.seconds}
        for r in done
      ],
    },
  )
  return rows


def table(rows: list[dict[str, Any]], dataset: str) -> str:
  """Markdown: protocols by names, %, and the range over protocols."""
  mine = [row for row in rows if row['dataset'] == dataset]
  names = list(dict.fromkeys(row['name'] for row in mine))
  cells = {(row['protocol'], row['name']): row for row in mine}
  percent = lambda row: (
    f'{100 * row["value"]:.1f} ({100 * row["low"]:.1f}-{100 * row["high"]:.1f})'
  )
  lines = [['protocol', *names]]
  for protocol in dict.fromkeys(row['protocol'] for row in mine):
    lines.append([protocol, *(percent(cells[protocol, n]) for n in names)])
  of = lambda name: [100 * row['value'] for row in mine if row['name'] == name]
  ranges = [f'{min(of(n)):.1f} to {max(of(n)):.1f}' for n in names]
  return tables.markdown_of([*lines, ['range', *ranges]])


def run() -> None:
  args = options().parse_args()
  log.setup()
  memory.keep_freed_memory()
  grid = plan(args, prepare(args))
  rows = record(args, measure(grid, args.work))
  shown = [
    row | {k: 100 * row[k] for k in ('value', 'low', 'high')} for row in rows
  ]
  drawn = spread.figure(shown, metric='accuracy, %')
  drawn.savefig(args.results / 'protocols.png', dpi=110)
  for dataset in args.datasets:
    print(f'{dataset}\n\n{table(rows, dataset)}')


if __name__ == '__main__':
  run()
