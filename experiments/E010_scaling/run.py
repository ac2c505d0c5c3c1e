"""E010: RingMoE giant compiled for slices that are rented, not bought.

Compiles each case that `results.json` lacks, one after another, and draws the
figure from what is there. A case takes minutes and up to 12 GB of memory.

  python experiments/E010_scaling/run.py [CASE ...] [--figure]
"""

import argparse
import json
import pathlib
import subprocess
import sys
from typing import NamedTuple

from rsfm_jax.cli import bench
from rsfm_jax.cli import compile as compile_verb
from rsfm_jax.core import files
from rsfm_jax.plots import scaling
from rsfm_jax.sharding import mesh as meshes

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / 'results.json'
SENSORS = ('opt', 'sar_l1', 'sar_l2', 'ms')
KEPT = (
  'topology',
  'chips',
  'mesh',
  'fits',
  'images',
  'bytes_per_chip',
  'hbm_bytes_per_chip',
  'flops',
  'executed_flops',
  'estimated_step_seconds',
  'step_seconds_range',
  'images_per_second',
  'mfu',
  'exposed_communication',
  'cycles_by_kind',
  'collectives',
  'largest',
  'notes',
  'compile_seconds',
)


class Case(NamedTuple):
  """A config on a topology; `series` is a line of the figure."""

  config: str
  topology: str
  mesh: str | None = None
  images: int | None = None
  accumulate: int | None = None
  series: str = 'slice'

  def command(self) -> list[str]:
    words = ['compile', '--json', '--topology', self.topology]
    words += ['--config', f'configs/mesh/{self.config}.py']
    if self.mesh:
      words += ['--mesh', self.mesh]
    if self.images:
      each = self.images // len(SENSORS)
      words += [f'--config.data.streams.{s}.batch_size={each}' for s in SENSORS]
    if self.accumulate:
      words.append(f'--config.train.accumulate={self.accumulate}')
    return words


CASES = {
  'v5p_4x4x4': Case('v5p_4x4x4', 'v5p:4x4x4', series='weak'),
  'v5p_2x2x1': Case('v5p_2x2x1', 'v5p:2x2x1'),
  'v5e_4x4': Case('v5e_4x4', 'v5e:4x4'),
  'v6e_2x4': Case('v6e_2x4', 'v6e:2x4'),
  'h200_8': Case('h200_8', 'h200:8'),
  'h200_1': Case('h200_1', 'h200:1'),
  'v5p_8x8x8': Case('v5p_8x8x8', 'v5p:8x8x8', series='weak'),
  'v6e_16x16': Case('v6e_16x16', 'v6e:16x16'),
  # As many images a chip.
  'weak_16': Case(
    'v5p_4x4x4', 'v5p:2x2x4', 'fsdp=4,expert=4', 64 * 16, series='weak'
  ),
  'weak_128': Case(
    'v5p_4x4x4', 'v5p:4x4x8', 'fsdp=32,expert=4', 64 * 128, series='weak'
  ),
  # As many images a step: 4,096.
  'strong_16': Case(
    'v5p_4x4x4', 'v5p:2x2x4', 'fsdp=4,expert=4', 4096, 4, series='strong'
  ),
  'strong_128': Case(
    'v5p_4x4x4', 'v5p:4x4x8', 'fsdp=32,expert=4', 4096, series='strong'
  ),
  'strong_512': Case(
    'v5p_8x8x8', 'v5p:8x8x8', 'data=8,fsdp=16,expert=4', 4096, series='strong'
  ),
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('cases', nargs='*', help=f'of {", ".join(CASES)}')
  parser.add_argument('--figure', action='store_true', help='compile nothing')
  args = parser.parse_args()
  if unknown := sorted(set(args.cases) - set(CASES)):
    parser.error(f'no such case: {unknown}')
  for name in [] if args.figure else args.cases or CASES:
    if name not in _rows():
      _write(name, CASES[name])
  order = list(CASES).index
  rows = sorted(_rows().values(), key=lambda row: order(row['case']))
  bench.print_table([_shown(row) for row in rows], COLUMNS)
  _draw(rows)


def _rows() -> dict[str, dict]:
  if not RESULTS.exists():
    return {}
  return {row['case']: row for row in files.read_json(RESULTS)['rows']}


def _write(name: str, case: Case) -> None:
  words = case.command()
  print('rsfm', *words, flush=True)
  done = subprocess.run(
    [sys.executable, '-m', 'rsfm_jax', *words],
    cwd=bench.ROOT,
    env=bench.environ(),
    stdout=subprocess.PIPE,
    text=True,
  )
  # That a step does not fit is a result, too.
  if done.returncode not in (0, compile_verb.EXIT_TOO_LARGE):
    sys.exit(f'{name}: exit code {done.returncode}')
  report = json.loads(done.stdout)
  row = {'case': name, 'series': case.series, 'command': ' '.join(words)}
  row |= {key: report[key] for key in KEPT}
  rows = list((_rows() | {name: row}).values())
  files.write_json(RESULTS, {'rows': rows})


COLUMNS = {
  'case': '{case}',
  'topology': '{topology}',
  'mesh': '{cut}',
  'images a step': '{images:,}',
  'GiB a chip': '{gib:.1f} of {limit:.0f}',
  'fits': '{fits}',
  's a step': '{estimated_step_seconds:.2f}',
  'images/s': '{images_per_second:,.0f}',
  'MFU': '{mfu:.1%}',
  'waits for others': '{exposed_communication:.0%}',
  'compile, min': '{minutes:.0f}',
}


def _shown(row: dict) -> dict:
  mesh = {axis: row['mesh'][axis] for axis in meshes.AXES}
  sizes = ', '.join(f'{k} {v}' for k, v in mesh.items() if v > 1)
  return row | {
    'cut': sizes or 'one device',
    'gib': row['bytes_per_chip']['total'] / 2**30,
    'limit': row['hbm_bytes_per_chip'] / 2**30,
    'fits': 'yes' if row['fits'] else '**no**',
    'minutes': row['compile_seconds'] / 60,
  }


def _draw(rows: list[dict]) -> None:
  rows = [row for row in rows if row['series'] in ('weak', 'strong')]
  shared = [row | {'series': 'strong'} for row in rows if row['images'] == 4096]
  rows += [row for row in shared if row not in rows]
  if rows:
    scaling.figure(rows).savefig(HERE / 'scaling.png', dpi=110)


if __name__ == '__main__':
  main()
