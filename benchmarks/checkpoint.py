"""Saving and restoring a train state: speed, stall of the loop, bytes read.

speed: GB/s of arrays until a save is on disk and sealed with its hashes, and
of a restore with and without the check of those hashes. The state is noise,
which hardly compresses. What was just written is read from the page cache.

stall: one real training loop saves at every other interval of `--steps` steps
and not at the ones between. What the intervals with a save take longer, in
units of one step, is the stall: copying to the host, and whatever writing
behind the loop takes from it. A trained state compresses as it does. Target:
under 2 % of a step.

mesh: bytes read per byte of the checkpoint while it is restored onto another
mesh of eight fake CPU devices, from what the kernel counts (Linux only), in a
process of its own. Target: 1.0. RESULTS.md says why it is about 2.

On CPU RingMoE tiny in float32; on a GPU or TPU small, computing in bfloat16.

  python benchmarks/checkpoint.py [--part speed|stall|mesh] [--quick]
"""

import argparse
from collections.abc import Mapping
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.cli import bench
from rsfm_jax.cli import config as configs
from rsfm_jax.cli import training
from rsfm_jax.core import files
from rsfm_jax.core import trees
from rsfm_jax.train import checkpoint
from rsfm_jax.train import loop

PARTS = ('speed', 'stall', 'mesh')
# Images a step of opt, SAR-L1, SAR-L2, MS, and steps of an interval: what one
# save needs to reach the disk.
IMAGES = {
  'tiny': (96, 16, 16, 16),
  'small': (64, 64, 64, 64),
  'base': (32, 32, 32, 32),
}
STEPS = {'tiny': 5, 'small': 100, 'base': 60}
MESHES = {
  'one device': {},
  'data 8': {'data': 8},
  'fsdp 8': {'fsdp': 8},
  'fsdp 2, expert 4': {'fsdp': 2, 'expert': 4},
}
# The first two are --quick.
WAYS = (
  ('one device', 'fsdp 8'),
  ('fsdp 8', 'one device'),
  ('one device', 'fsdp 2, expert 4'),
  ('data 8', 'fsdp 8'),
  ('fsdp 8', 'fsdp 2, expert 4'),
  ('fsdp 2, expert 4', 'fsdp 8'),
)
_IO = pathlib.Path('/proc/self/io')
_MESH = '--on-fake-devices'


def planned(
  size: str,
  *,
  images: tuple[int, ...],
  mesh: Mapping[str, int] | None = None,
) -> training.Training:
  """A run of RingMoE as `rsfm pretrain` makes it, on as few devices."""
  config = configs.load(f'{bench.ROOT}/configs/base.py:{size}')
  with config.unlocked():
    for sensor, count in zip(config.model.sensors, images, strict=True):
      config.data.streams[sensor] = {'sensors': (sensor,), 'batch_size': count}
  config.model.dtype = 'float32' if size == 'tiny' else 'bfloat16'
  config.train.total_steps = 100_000
  sizes = {'data': 1, 'fsdp': 1, 'expert': 1, 'tensor': 1, **(mesh or {})}
  count = int(np.prod(list(sizes.values())))
  return training.abstract(
    config, mesh_sizes=sizes, devices=jax.devices()[:count]
  )


def noise(abstract: trees.Tree) -> trees.Tree:
  """A state with something in every array, as after training."""
  rng = np.random.default_rng(0)

  def fill(x: jax.ShapeDtypeStruct) -> jax.Array:
    values = np.zeros(x.shape, x.dtype)
    if jnp.issubdtype(x.dtype, jnp.floating):
      values = rng.standard_normal(x.shape, np.float32).astype(x.dtype)
    return jax.device_put(values, x.sharding)

  return jax.tree.map(fill, abstract)


def speed(size: str, folder: files.Path, rounds: int) -> list[dict]:
  """Rows of what saving and restoring take, medians over rounds."""
  run = planned(size, images=(1, 1, 1, 1))
  state = noise(run.plan.abstract)
  nbytes = sum(x.nbytes for x in jax.tree.leaves(state))
  wall = {name: [] for name in ('loop waits', 'save', 'restore', 'of check')}
  saved = checkpoint.Checkpoints(folder, keep=1)

  def lap(name: str, begin: float) -> None:
    wall[name].append(time.perf_counter() - begin)

  for step in range(1, rounds + 2):  # The first one warms up.
    jax.block_until_ready(state)
    begin = time.perf_counter()
    saved.save(step, state, {})
    lap('loop waits', begin)
    saved.wait()
    lap('save', begin)
    begin = time.perf_counter()
    checkpoint.damage(pathlib.Path(folder) / str(step))
    lap('of check', begin)
    begin = time.perf_counter()
    jax.block_until_ready(saved.restore(run.plan.abstract).state)
    lap('restore', begin)
  saved.close()
  rows = []
  for name, seconds in wall.items():
    median = statistics.median(seconds[1:])
    rows.append(
      {
        'part': 'speed',
        'what': name,
        'model': size,
        'bytes': nbytes,
        'seconds': median,
        'gb_per_second': nbytes / 1e9 / median,
      }
    )
  return rows


class Intervals(loop.Hook):
  """Saves after every other interval of `steps` steps; keeps the time."""

  def __init__(self, saved: checkpoint.Checkpoints, steps: int, last: int):
    self._saved, self._steps, self._last = saved, steps, last
    self.seconds: dict[int, float] = {}  # By step.
    self.blocked: list[float] = []  # Inside `save`.
    self.late: list[float] = []  # Not on disk when the interval was over.

  def due(self, step):
    # In between too, so that both kinds of interval begin alike.
    return step % self._steps == 0 and step < self._last

  def run(self, step, state):
    jax.block_until_ready(state)
    begin = time.perf_counter()
    if step // self._steps % 2:
      self._saved.save(step, state, {})
      self.blocked.append(time.perf_counter() - begin)
    else:
      self._saved.wait()
      self.late.append(time.perf_counter() - begin)

  def metrics(self, step, values):
    self.seconds[step] = values['seconds/step']

  def stalls(self) -> list[float]:
    """Seconds that each save cost: its interval less the mean of those beside.

    A wait for a save that is late counts to it, although a longer interval
    would not have had it.
    """
    n = self._steps
    total = {
      i: sum(self.seconds[i * n + k + 1] for k in range(n))
      for i in range(len(self.seconds) // n)
    }
    for i, late in enumerate(self.late):
      total[2 * i + 2] -= late
      total[2 * i + 1] += late
    return [
      total[i] - (total[i - 1] + total[i + 1]) / 2
      for i in sorted(total)
      # The first interval starts the loop, and the last has no neighbour.
      if i % 2 and i > 1 and i + 1 in total
    ]


def stall(
  size: str, folder: files.Path, *, saves: int, steps: int, images
) -> dict[str, Any]:
  """The row of one loop that saves so many times."""
  run = planned(size, images=images)
  batch = _batch(run)
  step_fn = run.compiled()
  saved = checkpoint.Checkpoints(folder, keep=1)
  # One save warms up, and an interval without one ends the row.
  last = (2 * saves + 3) * steps
  hook = Intervals(saved, steps, last)
  state = run.plan.create()
  nbytes = sum(x.nbytes for x in jax.tree.leaves(state))
  loop.fit(
    state=state,
    step_fn=step_fn,
    batches=itertools.repeat(batch),
    key=jax.random.key(0),
    total_steps=last,
    hooks=[hook],
  )
  saved.close()
  plain = [s for k, s in hook.seconds.items() if (k - 1) // steps % 2 == 0]
  step = statistics.median(plain[steps:])
  found = hook.stalls()
  return {
    'part': 'stall',
    'model': size,
    'images': sum(images),
    'bytes': nbytes,
    'steps': steps,
    'saves': len(found),
    'step_seconds': step,
    'blocked_seconds': statistics.median(hook.blocked[1:]),
    'stall_seconds': statistics.median(found),
    'stall_of_a_step': statistics.median(found) / step,
    'stall_of_an_interval': statistics.median(found) / (steps * step),
    'late_seconds': statistics.median(hook.late),
  }


def _batch(run: training.Training) -> dict[str, dict[str, jax.Array]]:
  """Noise of the shape that the step wants."""
  rng = np.random.default_rng(0)

  def array(x: jax.ShapeDtypeStruct) -> jax.Array:
    full = x.dtype == bool
    values = np.ones(x.shape, bool) if full else rng.normal(size=x.shape)
    return jax.device_put(values.astype(x.dtype), x.sharding)

  return jax.tree.map(array, run.batch)


def onto_meshes(ways) -> list[dict]:
  """Rows of bytes read per byte saved; on eight devices."""
  plans = {
    name: planned('tiny', images=(8, 8, 8, 8), mesh=MESHES[name]).plan
    for name in {name for way in ways for name in way}
  }
  rows = []
  for source, target in ways:
    with tempfile.TemporaryDirectory() as folder:
      saved = checkpoint.Checkpoints(folder)
      saved.save(1, noise(plans[source].abstract), {})
      saved.wait()
      whole = sum(
        path.stat().st_size
        for path in pathlib.Path(folder, '1').rglob('*')
        if path.is_file()
      )
      at = [_bytes_read()]
      checkpoint.damage(pathlib.Path(folder, '1'))
      at.append(_bytes_read())
      saved.restore(plans[target].abstract)
      at.append(_bytes_read())
      saved.close()
    check, restore = at[1] - at[0], at[2] - at[1]
    rows.append(
      {
        'part': 'mesh',
        'platform': 'cpu',  # Here, whatever the parent has.
        'device': 'fake cpu',
        'devices': len(jax.devices()),
        'model': 'tiny',
        'saved_on': source,
        'restored_on': target,
        'bytes': whole,
        'read': restore / whole,
        'read_to_check': check / whole,
        'read_to_load': (restore - check) / whole,
      }
    )
  return rows


def _bytes_read() -> int:
  """What this process has asked files for, from the cache or not."""
  fields = dict(line.split(': ') for line in _IO.read_text().splitlines())
  return int(fields['rchar'])


def mesh(quick: bool) -> list[dict]:
  """`onto_meshes` in a child that has eight devices whatever this one has."""
  if not _IO.is_file():
    print(f'mesh: skipped, since there is no {_IO} to count what is read.')
    return []
  ways = WAYS[:2] if quick else WAYS
  environ = {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '8'}
  done = subprocess.run(
    [sys.executable, __file__, _MESH, json.dumps(ways)],
    env=bench.environ() | environ,
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


def measure(args: argparse.Namespace, part: str) -> list[dict]:
  """Rows of a part, printed."""
  size = args.size or ('tiny' if jax.default_backend() == 'cpu' else 'small')
  about = {'MB': '{megabytes:.0f}', 'model': '{model}'}
  with tempfile.TemporaryDirectory(dir=args.folder) as folder:
    if part == 'speed':
      rows = speed(size, folder, args.rounds or (1 if args.quick else 5))
      columns = {
        'what': '{what}',
        **about,
        's': '{seconds:.3f}',
        'GB/s': '{gb_per_second:.2f}',
      }
    elif part == 'stall':
      images = (8, 4, 4, 4) if args.quick else IMAGES[size]
      rows = [
        stall(
          size,
          folder,
          saves=args.saves or (1 if args.quick else 10),
          steps=args.steps or STEPS[size],
          images=images,
        )
      ]
      columns = {
        **about,
        'images': '{images}',
        'step ms': '{step_ms:.1f}',
        'in save() ms': '{blocked_ms:.1f}',
        'stall ms': '{stall_ms:.1f}',
        'of a step (target 2 %)': '{stall_of_a_step:.1%}',
        'of {steps} steps': '{stall_of_an_interval:.1%}',
        'late ms': '{late_ms:.1f}',
      }
    else:
      rows = mesh(args.quick)
      columns = {
        **about,
        'saved on': '{saved_on}',
        'restored on': '{restored_on}',
        'bytes read per byte (target 1.0)': '{read:.2f}',
        'to check': '{read_to_check:.2f}',
        'to load': '{read_to_load:.2f}',
      }
  _show(rows, columns)
  return rows


def _show(rows: list[dict], columns: Mapping[str, str]) -> None:
  shown = []
  for row in rows:
    seconds = {k.removesuffix('_seconds'): v for k, v in row.items()}
    ms = {
      f'{k}_ms': 1e3 * v for k, v in seconds.items() if k + '_seconds' in row
    }
    shown.append(row | ms | {'megabytes': row['bytes'] / 1e6})
  if rows:
    print(f'\n{rows[0]["part"]}')
    heads = {k.format(**rows[0]): v for k, v in columns.items()}
    bench.print_table(shown, heads)


def main() -> None:
  if sys.argv[1:2] == [_MESH]:
    print(json.dumps(onto_meshes(json.loads(sys.argv[2]))))
    return
  parser = bench.options(__doc__)
  add = parser.add_argument
  add('--part', choices=PARTS, help='default: all')
  add('--size', choices=tuple(IMAGES), help='default: by the platform')
  add('--folder', help="where to write; default: the system's for such files")
  add('--rounds', type=int, help='of speed; default 5, 1 if quick')
  add('--saves', type=int, help='of stall; default 10, 1 if quick')
  add('--steps', type=int, help='of an interval of stall; default 5 to 100')
  args = parser.parse_args()
  if args.folder and not os.path.isdir(args.folder):
    parser.error(f'--folder {args.folder} is no folder')
  rows = []
  for part in [args.part] if args.part else PARTS:
    rows += measure(args, part)
  bench.finish(args, 'checkpoint', rows)


if __name__ == '__main__':
  main()
