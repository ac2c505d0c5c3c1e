"""Encoding with a model that was pruned to one expert per layer.

Three forward passes take turns in one process: the model before pruning, what
is left when every layer keeps one expert (of RingMoE: all merged into one FFN
per block), and a dense model of the same size that never had experts. Ratios
are medians over rounds. Target: pruned / dense at most 1.05.

  python benchmarks/pruned_speed.py [--size tiny] [--images 64] [--rounds 20]
"""

import argparse
from collections.abc import Callable
import dataclasses
import statistics
import time
from typing import Any

import jax
import numpy as np

from rsfm_jax.cli import bench
from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.models import sizes
from rsfm_jax.pruning import keep
from rsfm_jax.pruning import layout
from rsfm_jax.pruning import surgery
from rsfm_jax.pruning import usage as usage_lib

TARGET = 1.05
MAKE = {
  'ringmoe': sizes.ringmoe_spec,
  'skysense_v2': sizes.skysense_v2_spec,
  'mapex': sizes.mapex_spec,
}
COLUMNS = {
  'system': '{system}',
  'parameters': '{parameters:,}',
  'pruned': '{pruned_parameters:,}',
  'unpruned ms': '{unpruned_ms:.2f}',
  'pruned ms': '{pruned_ms:.2f}',
  'dense ms': '{dense_ms:.2f}',
  'unpruned / pruned': '{gain:.2f}',
  f'pruned / dense (target {TARGET})': '{ratio:.3f}',
}


def dense_of(spec: Any) -> Any:
  """The same architecture, never with experts."""
  name = spec.to_json()['model']
  if name == 'ringmoe':
    return dataclasses.replace(spec, specialised=0, collaborative=0)
  if name == 'mapex':
    return dataclasses.replace(spec, experts=(), moe_every=0)
  return dataclasses.replace(spec, experts=0)


def even(spec: Any) -> usage_lib.Usage:
  """A record in which all experts are used alike."""
  layers = {}
  for layer in layout.layers(spec):
    share = np.full((len(spec.sensors), layer.experts), 1 / layer.experts)
    layers[layer.name] = usage_lib.LayerUsage(share, share, share, share)
  images = np.ones(len(spec.sensors), np.int64)
  return usage_lib.Usage(spec.sensors, images, layers)


def compiled(spec: Any, params: trees.Tree, images: Any) -> Callable[[], Any]:
  apply = build.build(spec).apply
  run = jax.jit(lambda p, x: apply(p, x, mode='eval').features)
  params, images = jax.device_put((params, images))
  jax.block_until_ready(run(params, images))
  return lambda: jax.block_until_ready(run(params, images))


def measure(system: str, size: str, count: int, rounds: int) -> dict[str, Any]:
  spec = MAKE[system](size)
  sensor = spec.sensors[0]
  model = build.build(spec)
  params = model.init(jax.random.key(0))
  merges = system == 'ringmoe'
  kept = None if merges else keep.choose('random:1', spec, (sensor,))
  small = surgery.plan(
    spec,
    trees.flatten(params),
    sensors=(sensor,),
    kept=kept,
    usage=even(spec),
    dense='mean' if merges else None,
  )
  dense = build.build(dense_of(small.spec))
  side = getattr(spec, 'image_size', None) or spec.of('image_sizes', sensor)
  shape = (count, side, side, spec.channels[0])
  images = {sensor: np.random.default_rng(0).normal(size=shape)}
  images = {s: x.astype(np.float32) for s, x in images.items()}
  runs = {
    'unpruned': compiled(spec, params, images),
    'pruned': compiled(small.spec, small.params(params), images),
    'dense': compiled(dense.spec, dense.init(jax.random.key(0)), images),
  }
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(rounds):
    for name, run in runs.items():
      begin = time.perf_counter()
      run()
      seconds[name].append(time.perf_counter() - begin)
  ratio = lambda a, b: statistics.median(
    x / y for x, y in zip(seconds[a], seconds[b], strict=True)
  )
  return {
    'system': system,
    'size': size,
    'images': count,
    'parameters': trees.count(params),
    'pruned_parameters': sum(
      int(np.prod(leaf.shape)) for leaf in small.leaves.values()
    ),
    **{f'{n}_ms': 1e3 * statistics.median(s) for n, s in seconds.items()},
    'gain': ratio('unpruned', 'pruned'),
    'ratio': ratio('pruned', 'dense'),
  }


def main() -> None:
  parser = bench.options(__doc__)
  add = parser.add_argument
  add('--size', choices=('tiny', 'small', 'base'), default='tiny')
  add('--system', choices=tuple(MAKE), action='append')
  add('--images', type=int, help='default 64, 4 if quick')
  add('--rounds', type=int, help='default 20, 3 if quick')
  args: argparse.Namespace = parser.parse_args()
  count = args.images or (4 if args.quick else 64)
  rounds = args.rounds or (3 if args.quick else 20)
  rows = [
    measure(system, args.size, count, rounds) for system in args.system or MAKE
  ]
  bench.print_table(rows, COLUMNS)
  bench.finish(args, 'pruned_speed', rows)


if __name__ == '__main__':
  main()
