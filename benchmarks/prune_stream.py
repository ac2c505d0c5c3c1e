"""Pruning a checkpoint that is not held: memory, time and bytes.

A checkpoint with the shape of RingMoE giant (four stages, four sensors, 21
experts in every block) but narrower is generated on disk, and `rsfm prune
--stream` cuts it down to the optical sensor and one collaborative expert per
block, in a process of its own, from a made-up record of usage. Target: its peak
resident memory stays below the largest single layer plus 2 GB; so does the
published giant's, of which one layer has 8.6 GB and the whole 59 GB.

The peak is VmHWM of the process that pruned (Linux only). Bytes read are what
it asked the kernel for; the check of the seal and the parent's hash read all of
the checkpoint once each.

  python benchmarks/prune_stream.py [--embed 128] [--depths 2,2,6,2] [--quick]
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np

from rsfm_jax.cli import bench
from rsfm_jax.cli import main as cli
from rsfm_jax.core import files
from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.models import ringmoe
from rsfm_jax.models import sizes
from rsfm_jax.pruning import layout
from rsfm_jax.pruning import usage as usage_lib
from rsfm_jax.sensors import catalogue
from rsfm_jax.train import checkpoint

MARGIN = 2e9
COLUMNS = {
  'checkpoint GB': '{checkpoint_gb:.2f}',
  'largest layer GB': '{layer_gb:.2f}',
  'model written GB': '{out_gb:.2f}',
  'peak GB': '{peak_gb:.2f}',
  'of that before GB': '{before_gb:.2f}',
  'target GB': '{target_gb:.2f}',
  'read GB': '{read_gb:.2f}',
  's': '{seconds:.1f}',
}


def spec_of(args: argparse.Namespace) -> ringmoe.RingMoESpec:
  depths = tuple(int(n) for n in args.depths.split(','))
  heads = tuple(args.embed // 32 * 2**i for i in range(len(depths)))
  return sizes.ringmoe_spec(
    'giant', embed_dim=args.embed, depths=depths, heads=heads
  )


def generate(spec: ringmoe.RingMoESpec, folder: pathlib.Path) -> None:
  """A workdir with one checkpoint of noise, which does not compress."""
  rng = np.random.default_rng(0)
  draw = lambda x: rng.standard_normal(x.shape, np.float32)
  params = jax.tree.map(draw, build.build(spec).abstract)
  contract = {s: catalogue.get(s).to_json() for s in spec.sensors}
  saved = checkpoint.Checkpoints(folder / 'checkpoints')
  saved.save(
    1,
    {'params': params, 'step': np.array(1, np.int32)},
    {
      'spec': spec.to_json(),
      'contract': {'sensors': contract, 'statistics': {}},
    },
  )
  saved.wait()
  saved.close()
  layers = {}
  for layer in layout.layers(spec):
    share = rng.dirichlet(np.ones(layer.experts), len(spec.sensors))
    layers[layer.name] = usage_lib.LayerUsage(share, share, share, share)
  images = np.ones(len(spec.sensors), np.int64)
  record = usage_lib.Usage(spec.sensors, images, layers).to_json()
  files.write_json(folder / 'usage.json', record)


def prune(folder: pathlib.Path) -> dict[str, Any]:
  """What this process needed; it must have done nothing else."""
  before, read = resident_peak(), int(status('/proc/self/io', 'rchar'))
  begin = time.perf_counter()
  code = cli.main(
    ['prune', '--stream', '--checkpoint', str(folder), '--sensors', 'opt']
    + ['--usage', str(folder / 'usage.json'), '--keep', 'pooled:1']
    + ['--out', str(folder / 'out')]
  )
  return {
    'code': code,
    'seconds': time.perf_counter() - begin,
    'before': before,
    'peak': resident_peak(),
    'read': int(status('/proc/self/io', 'rchar')) - read,
  }


def resident_peak() -> int:
  return 1024 * int(status('/proc/self/status', 'VmHWM').split()[0])


def status(path: str, key: str) -> str:
  lines = pathlib.Path(path).read_text().splitlines()
  found = dict(line.split(':', 1) for line in lines if ':' in line)
  return found[key].strip()


def largest_layer(spec: ringmoe.RingMoESpec) -> int:
  """Bytes of the routed experts and routers of one block, at most."""
  flat = trees.flatten(build.build(spec).abstract)
  layers: dict[str, int] = {}
  for name, leaf in flat.items():
    if '/ffn/' in name:
      stack = name.partition('/ffn/')[0]
      one = trees.bytes_of(leaf) // leaf.shape[0]
      layers[stack] = layers.get(stack, 0) + one
  return max(layers.values())


def child(args: argparse.Namespace, what: str, folder: pathlib.Path) -> None:
  done = subprocess.run(
    [
      *(sys.executable, __file__, '--part', what, '--folder', folder),
      *('--embed', str(args.embed), '--depths', args.depths),
    ],
    env=bench.environ(),
    check=False,
  )
  if done.returncode:
    raise RuntimeError(f'{what} failed with {done.returncode}; see above.')


def measure(args: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
  spec = spec_of(args)
  child(args, 'generate', folder)
  child(args, 'prune', folder)
  found = json.loads((folder / 'found.json').read_text())
  layer = largest_layer(spec)
  held = folder / 'checkpoints'
  of = lambda files_: sum(p.stat().st_size for p in files_ if p.is_file())
  return {
    'embed': args.embed,
    'depths': args.depths,
    'checkpoint_gb': of(held.rglob('*')) / 1e9,
    'layer_gb': layer / 1e9,
    'out_gb': of((folder / 'out').rglob('*')) / 1e9,
    'peak_gb': found['peak'] / 1e9,
    'before_gb': found['before'] / 1e9,
    'target_gb': (layer + MARGIN) / 1e9,
    'read_gb': found['read'] / 1e9,
    'seconds': found['seconds'],
  }


def main() -> None:
  parser = bench.options(__doc__)
  add = parser.add_argument
  add('--embed', type=int, help='D of stage 0; the giant has 448')
  add('--depths', default='2,2,6,2', help='blocks; the giant has 2,2,18,2')
  add('--root', help='where the checkpoint lies while it is measured')
  add('--part', choices=('generate', 'prune'), help=argparse.SUPPRESS)
  add('--folder', type=pathlib.Path, help=argparse.SUPPRESS)
  args = parser.parse_args()
  args.embed = args.embed or (32 if args.quick else 128)
  if args.part == 'generate':
    generate(spec_of(args), args.folder)
    return
  if args.part == 'prune':
    files.write_json(args.folder / 'found.json', prune(args.folder))
    return
  root = pathlib.Path(tempfile.mkdtemp(dir=args.root))
  try:
    row = measure(args, root)
  finally:
    shutil.rmtree(root)
  bench.print_table([row], COLUMNS)
  bench.finish(args, 'prune_stream', [row])


if __name__ == '__main__':
  main()
