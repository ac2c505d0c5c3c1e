"""MoE layers against a dense FFN of equal active FLOPs, engine by engine.

A layer is everything between its tokens and its outputs: router, positions,
gathers, experts, weighted sum. The dense FFN is `nn.mlp` with K times the
hidden width. All are compiled first, then timed in turn in one process, forward
and forward + backward (gradients of the tokens and of every weight); a ratio is
the median over rounds of time / time of the dense FFN in the same round.

The router is scaled so that its choices differ; `max/mean` is the load of the
busiest expert. `grouped` has the rows sorted already: the experts alone.
On CPU in float32; on a GPU or TPU in bfloat16 at the sizes of a large model.

  python benchmarks/moe_layer.py [--quick] [--rounds 20] [--json FILE]
"""

import statistics
import time
from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.cli import bench
from rsfm_jax.moe import experts
from rsfm_jax.moe import grouped
from rsfm_jax.moe import routing
from rsfm_jax.nn import mlp


class Size(NamedTuple):
  """N tokens, D embed, F hidden, E experts, K choices."""

  tokens: int
  dim: int
  hidden: int
  experts: int
  choices: int = 1

  def __str__(self) -> str:
    return (
      f'{self.tokens} tokens, d {self.dim}, hidden {self.hidden}, '
      f'{self.experts} experts, top-{self.choices}'
    )


# The oracle computes every expert on every row; small is enough to see it.
ORACLE = Size(1024, 128, 256, 8)
CPU = (
  Size(4096, 256, 1024, 8),
  Size(8192, 256, 1024, 8),
  Size(8192, 256, 1024, 8, 2),
  # RingMoE tiny: a stage's tokens, collaborative and specialised experts.
  Size(36864, 32, 64, 4),
  Size(36864, 32, 64, 16),
  Size(2304, 128, 256, 4),
  Size(2304, 128, 256, 16),
)
ACCELERATOR = (
  Size(8192, 1408, 5632, 16),
  Size(8192, 1408, 5632, 64, 2),
  Size(4096, 2816, 11264, 16),
)
ENGINES = {
  'capacity 1.0': {'engine': 'capacity', 'capacity_factor': 1.0},
  'capacity 1.25': {'engine': 'capacity', 'capacity_factor': 1.25},
  'dropless': {'engine': 'dropless'},
}


class Case(NamedTuple):
  """Something to time: f(x, weights) -> y."""

  function: object
  x: jax.Array
  weights: object


def layer(size: Size, x, options: dict) -> Case:
  """The library's routed experts; weights in float32."""
  module = experts.RoutedExperts(
    size.dim, size.hidden, size.experts, key=jax.random.key(1), std=None
  )
  # Otherwise the probabilities are nearly even and tell little.
  module.router[...] = module.router[...] * 30
  graph, state = nnx.split(module)
  groups = routing.TokenGroups((size.tokens,), (0,))
  settings = experts.Options(choices=size.choices, **options)

  def function(x, state):
    return nnx.merge(graph, state)(x, groups, settings)[0]

  return Case(function, x, state)


def dense(size: Size, x) -> Case:
  module = mlp.Mlp(
    size.dim, size.choices * size.hidden, key=jax.random.key(2), std=None
  )
  graph, state = nnx.split(module)
  return Case(lambda x, state: nnx.merge(graph, state)(x), x, state)


def sorted_experts(size: Size, x, counts, engine) -> Case:
  """The products alone, on rows that stand by expert."""
  rows = jnp.tile(x, (size.choices, 1))
  state = nnx.state(
    experts.RoutedExperts(
      size.dim, size.hidden, size.experts, key=jax.random.key(1), std=None
    )
  )
  names = ('w_in', 'b_in', 'w_out', 'b_out')
  weights = {name: state[name][...] for name in names}

  def function(rows, weights):
    ordered = [weights[name] for name in names]
    return grouped.ffn(rows, counts, *ordered, engine=engine)

  return Case(function, rows, weights)


def loads(size: Size, x) -> np.ndarray:
  """Choices per expert of the layer's router, i32[E]."""
  case = layer(size, x, ENGINES['dropless'])
  router = case.weights['router'][...]
  groups = routing.TokenGroups((size.tokens,), (0,))
  logits = experts.router_logits(x, router[None], groups)
  chosen = routing.route(logits, groups, choices=size.choices).expert
  return np.bincount(np.asarray(chosen).reshape(-1), minlength=size.experts)


def cases(size: Size, x, counts, oracle: bool) -> dict[str, Case]:
  rows = jnp.asarray(counts, jnp.int32)
  out = {'dense FFN': dense(size, x)}
  for name, options in ENGINES.items():
    out[name] = layer(size, x, options)
  out['grouped'] = sorted_experts(size, x, rows, None)
  if jax.default_backend() != 'cpu':
    out['grouped, blocks'] = sorted_experts(size, x, rows, 'blocks')
  if oracle:
    out['grouped, ragged_dot'] = sorted_experts(size, x, rows, 'ragged')
    out['every expert'] = layer(size, x, {'engine': 'oracle'})
  return out


def compiled(case: Case):
  """(forward, forward + backward), and what the compiler holds in bytes."""

  def both(x, weights):
    y, pull = jax.vjp(case.function, x, weights)
    return pull(y)

  forward, backward = (
    jax.jit(f).lower(case.x, case.weights).compile()
    for f in (case.function, both)
  )
  return forward, backward, backward.memory_analysis().temp_size_in_bytes


def time_in_turn(runs: dict, rounds: int) -> dict:
  """{(name, pass): seconds of every round}, the rounds interleaved."""
  wall = {(name, i): [] for name in runs for i in range(2)}
  for round_ in range(rounds + 1):
    for name, (case, *passes, _) in runs.items():
      for i, run in enumerate(passes):
        begin = time.perf_counter()
        jax.block_until_ready(run(case.x, case.weights))
        if round_:  # The first round warms up.
          wall[name, i].append(time.perf_counter() - begin)
  return wall


def measure(size: Size, rounds: int, oracle: bool) -> list[dict]:
  """Rows of the table of one size, printed as they come."""
  dtype = jnp.float32 if jax.default_backend() == 'cpu' else jnp.bfloat16
  x = jax.random.normal(jax.random.key(0), (size.tokens, size.dim), dtype)
  counts = loads(size, x)
  load = float(counts.max() / counts.mean())
  print(f'\n{size}, {dtype.__name__}, max/mean load {load:.2f}')
  print('| engine | forward ms (min) | + backward ms (min) | ratio | MiB |')
  print('|---|---|---|---|---|')
  runs = {
    name: (case, *compiled(case))
    for name, case in cases(size, x, counts, oracle).items()
  }
  wall = time_in_turn(runs, rounds)
  rows = []
  for name, (*_, held) in runs.items():
    row = {'engine': name, **size._asdict(), 'load': load, 'temporaries': held}
    for i, what in enumerate(('forward', 'forward_backward')):
      mine, base = wall[name, i], wall['dense FFN', i]
      ratios = [a / b for a, b in zip(mine, base, strict=True)]
      row |= {
        f'{what}_seconds': statistics.median(mine),
        f'{what}_seconds_min': min(mine),
        f'{what}_ratio': statistics.median(ratios),
      }
    rows.append(row)
    print(
      f'| {name} | {1e3 * row["forward_seconds"]:.2f} '
      f'({1e3 * row["forward_seconds_min"]:.2f}) | '
      f'{1e3 * row["forward_backward_seconds"]:.2f} '
      f'({1e3 * row["forward_backward_seconds_min"]:.2f}) | '
      f'{row["forward_ratio"]:.2f} / {row["forward_backward_ratio"]:.2f} | '
      f'{held / 2**20:.0f} |',
      flush=True,
    )
  return rows


def main() -> None:
  parser = bench.options(__doc__)
  parser.add_argument('--rounds', type=int, help='default 20, 5 if quick')
  args = parser.parse_args()
  backend = jax.default_backend()
  sizes = CPU if backend == 'cpu' else ACCELERATOR
  rounds = args.rounds or (5 if args.quick else 20)
  device = jax.devices()[0].device_kind
  print(f'{backend}: {device}, jax {jax.__version__}, {rounds} rounds')
  rows = []
  for size in sizes[:1] if args.quick else sizes:
    rows += measure(size, rounds, oracle=False)
  rows += measure(ORACLE, rounds, oracle=True)
  bench.finish(args, 'moe_layer', [row | {'rounds': rounds} for row in rows])


if __name__ == '__main__':
  main()
