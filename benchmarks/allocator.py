"""What keeping freed memory brings to a small train step on CPU.

Runs the same train step in two child processes, with and without
`core.memory.keep_freed_memory`, in turn, and prints the ratio pair by pair.

  python benchmarks/allocator.py [--pairs 3]
"""

import argparse
import statistics
import subprocess
import sys

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
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--pairs', type=int, default=3)
  pairs = parser.parse_args().pairs
  ratios = []
  for _ in range(pairs):
    default, keep = (
      float(
        subprocess.run(
          [sys.executable, '-c', CHILD, how],
          capture_output=True,
          text=True,
          check=True,
        ).stdout
      )
      for how in ('default', 'keep')
    )
    ratios.append(default / keep)
    print(f'default {1e3 * default:.1f} ms, kept {1e3 * keep:.1f} ms')
  print(f'default / kept, median of pairs: {statistics.median(ratios):.2f}')


if __name__ == '__main__':
  main()
