"""The loader against a step: samples/s, MB/s, and the share of time waited.

Makes a store of four-sensor landscapes (or takes one), then asks `rsfm data
bench`, once for every number of workers: each sensor by itself, as fast as it
goes and beside a step that sleeps. 0 workers makes batches in threads of one
process. What was just written is read from the page cache.

  python benchmarks/input.py [--step_ms 100] [--store STORE] [--quick]
"""

import argparse
import contextlib
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from rsfm_jax.cli import bench
from rsfm_jax.data import workers as worker_processes
from rsfm_jax.data.synthetic import samples
from rsfm_jax.data.synthetic import writing
from rsfm_jax.models import ringmoe
from rsfm_jax.sensors import catalogue


def make_store(folder: str, count: int, size: int) -> str:
  options = samples.Options(
    sensors=tuple(catalogue.get(name) for name in ringmoe.SENSORS), size=size
  )
  path = pathlib.Path(folder) / 'scenes'
  cores = worker_processes.available()
  writing.write(path, options, count, workers=cores if cores > 1 else 0)
  return str(path)


def loaded(store: str, workers: int, args: argparse.Namespace) -> list[dict]:
  """Rows of one call of the verb."""
  command = [sys.executable, '-m', 'rsfm_jax', 'data', 'bench', store]
  for name in ('seconds', 'step_ms', 'batch_size', 'crop', 'threads'):
    command += [f'--{name}', str(getattr(args, name))]
  done = subprocess.run(
    [*command, '--workers', str(workers)],
    env=bench.environ(),
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  about = {
    'workers': workers,
    'threads': args.threads,
    'step_ms': args.step_ms,
    'batch_size': args.batch_size,
    'crop': args.crop,
  }
  return [about | parse(line) for line in done.stdout.splitlines()[1:]]


def parse(line: str) -> dict[str, Any]:
  """A line of `rsfm data bench` below its heading."""
  *_, sensor, rate, megabytes, wait = line.split()
  return {
    'sensor': sensor,
    'samples_per_second': float(rate),
    'mb_per_second': float(megabytes),
    'waited': round(float(wait.rstrip('%')) / 100, 4),
  }


def main() -> None:
  parser = bench.options(__doc__)
  add = parser.add_argument
  add('--store', help='instead of a synthetic one')
  add('--samples', type=int, help='of the synthetic one; default 512')
  add('--size', type=int, default=64, help='of its scenes, in pixels')
  add('--crop', type=int, default=32, help='pixels that a step takes')
  add('--batch_size', type=int, default=64, help='of each sensor')
  add('--step_ms', type=float, default=100.0, help='length of a step')
  add('--seconds', type=float, help='of each measurement; default 5')
  add('--threads', type=int, default=2, help='per process')
  add('--workers', default='0,2', help='numbers of processes, by commas')
  args = parser.parse_args()
  args.seconds = args.seconds or (0.5 if args.quick else 5.0)
  count = args.samples or (64 if args.quick else 512)
  rows = []
  with contextlib.ExitStack() as held:
    store = args.store
    if store is None:
      folder = held.enter_context(tempfile.TemporaryDirectory())
      store = make_store(folder, count, args.size)
    for workers in map(int, args.workers.split(',')):
      rows += loaded(store, workers, args)
  bench.print_table(
    rows,
    {
      'workers': '{workers}',
      'sensor': '{sensor}',
      'samples/s': '{samples_per_second:.0f}',
      'MB/s': '{mb_per_second:.1f}',
      f'waited beside steps of {args.step_ms:g} ms': '{waited:.1%}',
    },
  )
  bench.finish(args, 'input', rows)


if __name__ == '__main__':
  main()
