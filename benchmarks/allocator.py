"""What keeping freed memory brings to a small train step on CPU.

Runs the same train step in two child processes, with and without
`core.memory.keep_freed_memory`, in turn, and prints the ratio pair by pair.

  python benchmarks/allocator.py [--pairs 3] [--quick] [--json FILE]
"""

import statistics
import subprocess
import sys

from rsfm_jax.cli import bench

CHILD = """
import resource, sys, time
import jax, jax.numpy as jnp
from rsfm_jax.core import memory
if sys.argv[1] == 'keep':
  assert memory.keep_freed_memory()
w = [jax.random.normal(jax.random.key(i), (32, 192)) for i in range(2)]
x = jax.random.normal(jax.random.key(2), (36864, 32))
def loss(w, x):
  for _ in range(4):
    x = x + jax.nn.gelu(x @ w[0]) @ w[1].T
  return (x ** 2).mean()
f = jax.jit(jax.grad(loss))
jax.block_until_ready(f(w, x))
seconds = []
for _ in range(15):
  begin = time.perf_counter()
  jax.block_until_ready(f(w, x))
  seconds.append(time.perf_counter() - begin)
print(sorted(seconds)[len(seconds) // 2])
"""


def main() -> None:
  parser = bench.options(__doc__)
  parser.add_argument('--pairs', type=int, help='default 3, 1 if quick')
  args = parser.parse_args()
  rows = []
  for _ in range(args.pairs or (1 if args.quick else 3)):
    default, keep = (
      float(
        subprocess.run(
          [sys.executable, '-c', CHILD, how],
          # Allocators of the CPU are asked; a GPU would not notice.
          env=bench.environ() | {'JAX_PLATFORMS': 'cpu'},
          stdout=subprocess.PIPE,
          text=True,
          check=True,
        ).stdout
      )
      for how in ('default', 'keep')
    )
    rows.append(
      {
        'platform': 'cpu',
        'default_seconds': default,
        'kept_seconds': keep,
        'ratio': default / keep,
      }
    )
  bench.print_table(
    [
      row
      | {
        'default_ms': 1e3 * row['default_seconds'],
        'kept_ms': 1e3 * row['kept_seconds'],
      }
      for row in rows
    ],
    {
      'default ms': '{default_ms:.1f}',
      'kept ms': '{kept_ms:.1f}',
      'default / kept': '{ratio:.2f}',
    },
  )
  ratio = statistics.median(row['ratio'] for row in rows)
  print(f'default / kept, median of pairs: {ratio:.2f}')
  bench.finish(args, 'allocator', rows)


if __name__ == '__main__':
  main()
