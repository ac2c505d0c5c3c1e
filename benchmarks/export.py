"""Exported StableHLO against the jitted model that it was made from.

Both take pixels as a sensor stores them and give embedding and map. They are
compiled first, then timed in turn in one process; a ratio is the median over
rounds of time / time of the jitted model in the same round, the second of the
two going first in every other round. Target: at most 1.05 on CPU.

  python benchmarks/export.py [--size tiny] [--batches 1,32] [--rounds 20]
"""

from collections.abc import Callable, Sequence
import functools
import statistics
import time
from typing import Any

import jax
import numpy as np

from rsfm_jax.cli import bench
from rsfm_jax.export import graph as graphs
from rsfm_jax.export import parity
from rsfm_jax.export import stablehlo
from rsfm_jax.models import build
from rsfm_jax.models import sizes
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import statistics as stats

TARGET = 1.05
SENSOR = 'opt'
Runs = dict[str, Callable[..., Any]]


def graph_of(size: str) -> graphs.Graph:
  """Optical images of RingMoE of this size; 8-bit, mid grey on the average."""
  sensor = catalogue.get(SENSOR)
  bands = len(sensor.bands)
  spec = sizes.ringmoe_spec(size, dtype='float32')
  return graphs.Graph(
    spec=spec,
    sensor=sensor,
    pixels=sensor,
    statistics=stats.Statistics(
      mean=(127.5,) * bands,
      std=(50.0,) * bands,
      percentiles={},
      minimum=(0.0,) * bands,
      maximum=(255.0,) * bands,
      count=(1,) * bands,
      bands=sensor.band_names,
    ),
    size=spec.image_size,
  )


def runs_of(graph: graphs.Graph) -> Runs:
  """(pixels) -> features, by the model and by the artefact."""
  params = build.build(graph.spec).init(jax.random.key(0))
  model = jax.jit(functools.partial(graph))
  return {
    'jitted': lambda *x: model(params, *x),
    'stablehlo': stablehlo.load(stablehlo.serialised(graph, params)),
  }


def time_in_turn(
  runs: Runs, inputs: Sequence[np.ndarray], rounds: int
) -> dict[str, list[float]]:
  """Seconds of every round, interleaved; the first one warms up."""
  arrays = [jax.device_put(x) for x in inputs]
  wall: dict[str, list[float]] = {name: [] for name in runs}
  for round_ in range(rounds + 1):
    for name in list(runs)[:: 1 if round_ % 2 else -1]:
      begin = time.perf_counter()
      jax.block_until_ready(runs[name](*arrays))
      if round_:
        wall[name].append(time.perf_counter() - begin)
  return wall


def row_of(wall: dict[str, list[float]], batch: int) -> dict[str, Any]:
  """Medians, and the median of the ratios of the rounds."""
  ratios = [a / b for a, b in zip(wall['stablehlo'], wall['jitted'])]
  return {
    'batch': batch,
    'rounds': len(ratios),
    'jitted_seconds': statistics.median(wall['jitted']),
    'stablehlo_seconds': statistics.median(wall['stablehlo']),
    'jitted_seconds_min': min(wall['jitted']),
    'stablehlo_seconds_min': min(wall['stablehlo']),
    'ratio': statistics.median(ratios),
    'target': TARGET,
  }


def main() -> None:
  parser = bench.options(__doc__)
  parser.add_argument('--size', default='tiny')
  parser.add_argument('--batches', help='default 1,32; 2 if quick')
  parser.add_argument('--rounds', type=int, help='default 20, 3 if quick')
  args = parser.parse_args()
  batches = args.batches or ('2' if args.quick else '1,32')
  rounds = args.rounds or (3 if args.quick else 20)
  graph = graph_of(args.size)
  runs = runs_of(graph)
  rows = []
  for batch in map(int, batches.split(',')):
    inputs = list(parity.images(graph, batch).values())
    wall = time_in_turn(runs, inputs, rounds)
    rows.append({'model': args.size} | row_of(wall, batch))
  bench.print_table(
    rows,
    {
      'model': '{model}',
      'batch': '{batch}',
      'jitted (min)': '{jitted_seconds:.4f} s ({jitted_seconds_min:.4f})',
      'StableHLO (min)': (
        '{stablehlo_seconds:.4f} s ({stablehlo_seconds_min:.4f})'
      ),
      'ratio': '{ratio:.3f}',
    },
  )
  bench.finish(args, 'export', rows)


if __name__ == '__main__':
  main()
