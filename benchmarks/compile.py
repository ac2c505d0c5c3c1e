"""Ahead-of-time estimates of train steps on accelerators that are not there.

Asks `rsfm compile --json` for every pair of a config and a topology, each in a
process of its own. Nothing here is a clock: memory is exact, seconds are the
compiler's schedule, and the same versions give the same figures anywhere. The
giants take minutes and up to 12 GB of memory each.

  python benchmarks/compile.py [--giants] [CONFIG@TOPOLOGY ...] [--json FILE]
"""

import json
import pathlib
import subprocess
import sys
from typing import Any, NamedTuple

from rsfm_jax.cli import bench
from rsfm_jax.cli import compile as compile_verb
from rsfm_jax.core import progress
from rsfm_jax.launch import topologies


class Case(NamedTuple):
  """A config file, from the root of the checkout, and where it shall run."""

  config: str
  topology: str


TINY = 'configs/pretrain/ringmoe_tiny.py'
QUICK = (Case(TINY, 'v5e:1x1'), Case(TINY, 'v6e:2x2'))
MESHES = bench.ROOT / 'configs' / 'mesh'


def giants() -> list[Case]:
  """Every config of `configs/mesh`, on the topology that its name tells."""
  return [
    Case(f'configs/mesh/{path.name}', path.stem.replace('_', ':'))
    for path in sorted(MESHES.glob('*.py'))
  ]


def parse(text: str) -> Case:
  """`'configs/a.py@v5p:2x2x1'`.

  Raises:
    ValueError: no such form, file or topology.
  """
  config, _, topology = text.rpartition('@')
  if not (bench.ROOT / config).is_file():
    raise ValueError(
      f'{text!r} is no CONFIG@TOPOLOGY: {bench.ROOT / config} is no file.'
    )
  return Case(config, topologies.parse(topology).name)


def estimate(case: Case) -> dict[str, Any]:
  """The row of a case; `error` says why there is no estimate."""
  row = case._asdict()
  command = [sys.executable, '-m', 'rsfm_jax', 'compile', '--json']
  command += ['--config', str(bench.ROOT / case.config)]
  done = subprocess.run(
    [*command, '--topology', case.topology],
    env=bench.environ(),
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode not in (0, compile_verb.EXIT_TOO_LARGE):
    said = done.stderr.strip().splitlines() or [f'exit code {done.returncode}']
    return row | {'error': said[-1]}
  return row | json.loads(done.stdout.splitlines()[-1])


def shown(row: dict[str, Any]) -> dict[str, Any]:
  """A row in the units of the table."""
  out = {
    'config': pathlib.Path(row['config']).stem,
    'topology': row['topology'],
    'fits': row.get('error') or ('yes' if row['fits'] else 'NO'),
  }
  if 'error' not in row:
    sizes = (f'{k} {v}' for k, v in row['mesh'].items() if v > 1)
    out |= {
      'mesh': ', '.join(sizes) or 'one device',
      'gib': row['bytes_per_chip']['total'] / 2**30,
      'limit': row['hbm_bytes_per_chip'] / 2**30,
      'tflops': row['flops'] / 1e12,
    }
    out |= {
      name: row[name]
      for name in (
        'estimated_step_seconds',
        'images',
        'images_per_second',
        'mfu',
        'exposed_communication',
        'compile_seconds',
      )
    }
  return out


COLUMNS = {
  'config': '{config}',
  'topology': '{topology}',
  'mesh': '{mesh}',
  'fits': '{fits}',
  'GiB a chip': '{gib:.2f} of {limit:.2f}',
  'images': '{images:,}',
  'TFLOPs': '{tflops:.2f}',
  'estimated s': '{estimated_step_seconds:.4g}',
  'images/s': '{images_per_second:,.0f}',
  'MFU': '{mfu:.1%}',
  'exposed': '{exposed_communication:.1%}',
  'compile s': '{compile_seconds:.0f}',
}


def main() -> int:
  parser = bench.options(__doc__)
  parser.add_argument(
    'cases', nargs='*', metavar='CONFIG@TOPOLOGY', help='default: two quick'
  )
  parser.add_argument(
    '--giants', action='store_true', help='every config of configs/mesh'
  )
  args = parser.parse_args()
  try:
    cases = [parse(text) for text in args.cases]
  except ValueError as error:
    parser.error(str(error))
  if args.giants:
    cases += giants()
  cases = cases or QUICK[: 1 if args.quick else None]
  rows = []
  for case in progress.bar(cases, what='compile', unit='step'):
    rows.append(estimate(case))
  bench.print_table([shown(row) for row in rows], COLUMNS)
  bench.finish(args, 'compile', rows)
  return int(any('error' in row for row in rows))


if __name__ == '__main__':
  sys.exit(main())
