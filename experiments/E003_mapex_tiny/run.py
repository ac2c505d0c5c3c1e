"""E003: do experts of a MAPEX-style model part by sensor, told of it or not?

Pre-trains the tiny model with every conditioning and seed, one after another,
probes one sensor and keeps I(sensor; expert) over training. A run that was
interrupted resumes; one that is in `results.json` is not run again.

  python experiments/E003_mapex_tiny/run.py --root STORES --work W \\
    --store STORES/scenes --sensor s2_rgb
"""

import argparse
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np

from rsfm_jax.core import files
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.moe import routers
from rsfm_jax.train import writers

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / 'results.json'
INFORMATION = 'routing/mutual_information'


def arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--root', required=True, help='folder of the stores that are read')
  add('--work', required=True, help='folder of the runs')
  add('--store', required=True, help='labelled store to probe on')
  add('--sensor', default='s2_rgb', help='that is probed')
  add('--config', default='configs/pretrain/mapex_tiny.py')
  add('--seeds', default='0,1,2')
  add('--conditionings', default=','.join(routers.CONDITIONINGS))
  add('--protocols', default='linear,dinov2_knn20')
  add('override', nargs='*', help='--config.key=value, after --')
  return parser.parse_args()


def verb(*words: str) -> None:
  """A process of its own: memory and compiled programs go with it."""
  subprocess.run([sys.executable, '-m', 'rsfm_jax', *words], check=True)


def case(
  args: argparse.Namespace, conditioning: str, seed: int
) -> dict[str, Any]:
  """Trains and probes one model; what is kept of it."""
  name = f'{pathlib.Path(args.config).stem}_{conditioning}_{seed}'
  workdir = pathlib.Path(args.work) / name
  verb(
    'pretrain',
    '--config',
    args.config,
    '--workdir',
    str(workdir),
    f'--config.data.root={args.root}',
    f'--config.model.conditioning={conditioning}',
    f'--config.seed={seed}',
    *args.override,
  )
  rows = workdir / 'probes.jsonl'
  rows.unlink(missing_ok=True)
  verb(
    'evaluate',
    '--store',
    args.store,
    '--sensor',
    args.sensor,
    '--checkpoint',
    f'{name}={workdir}',
    '--protocols',
    args.protocols,
    '--seed',
    str(seed),
    '--out',
    str(rows),
  )
  history = writers.read(workdir / 'metrics.jsonl')
  told = [row for row in history if INFORMATION in row]
  return {
    'config': args.config,
    'conditioning': conditioning,
    'seed': seed,
    'overrides': args.override,
    'steps': [row['step'] for row in told],
    # Nats, mean over the layers; log(min(sensors, experts)) at most.
    'information': [float(np.mean(row[INFORMATION])) for row in told],
    'information_by_layer': told[-1][INFORMATION] if told else [],
    'rows': [row.to_json() for row in rows_lib.read(rows)],
  }


def main() -> None:
  args = arguments()
  found = files.read_json(RESULTS) if RESULTS.exists() else []
  key = lambda row: (row['config'], row['conditioning'], row['seed'])
  done = {key(row) for row in found}
  for seed in map(int, args.seeds.split(',')):
    for conditioning in args.conditionings.split(','):
      if (args.config, conditioning, seed) in done:
        continue
      found.append(case(args, conditioning, seed))
      files.write_json(RESULTS, sorted(found, key=key))
  for row in found:
    first, last = (row['information'][i] for i in (0, -1))
    print(f'{key(row)}: I(sensor; expert) {first:.3f} -> {last:.3f} nats')


if __name__ == '__main__':
  main()
