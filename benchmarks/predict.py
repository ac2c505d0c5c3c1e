"""Scenes of growing size to maps: memory, speed, and waiting for files.

`rsfm predict` runs as a user would run it, each scene in a process of its own
whose largest resident size is that of the whole program. The model is a very
small Swin with a head for classes and random weights: what is looked at is the
way of the pixels, not the model. Targets: memory that does not grow with the
scene, input and output waited for in at most 10 % of the time.

  python benchmarks/predict.py [--sides 1024,4096,8192] [--window 256]
"""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rasterio
from rasterio import windows

from rsfm_jax.cli import bench
from rsfm_jax.core import files
from rsfm_jax.data import cog
from rsfm_jax.models import build
from rsfm_jax.models import sizes
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import statistics as stats
from rsfm_jax.tasks import contract
from rsfm_jax.tasks import encoders
from rsfm_jax.tasks import finetuning
from rsfm_jax.tasks import spec as task_spec
from rsfm_jax.train import best
from rsfm_jax.train import hooks

SENSOR, CLASSES, TILE = 'opt', 3, 512
COLUMNS = {
  'side': '{side}',
  'megapixels': '{megapixels:.1f}',
  'windows': '{windows}',
  'seconds': '{seconds:.1f}',
  'whole program, s': '{total_seconds:.1f}',
  'waited for files (target 10 %)': '{waited:.1%}',
  'peak MiB': '{peak_mib:.0f}',
}
_WORDS = re.compile(
  r'of (\d+) windows in ([\d.]+) s, waited for input and output ([\d.]+)%'
)


def tuned(folder: pathlib.Path, window: int) -> None:
  """A workdir as a fine-tuning leaves it, with random weights."""
  spec = sizes.ringmoe_spec(
    'tiny',
    image_size=window,
    patch_size=4,
    embed_dim=16,
    depths=(1, 1),
    heads=(1, 2),
    window=8,
    specialised=2,
    collaborative=2,
    decoders=False,
  )
  sensor, model = catalogue.get(SENSOR), build.build(spec)
  encode = encoders.single(spec)
  image = jax.ShapeDtypeStruct((1, window, window, 3), jnp.float32)
  maps = jax.eval_shape(
    lambda p, x: encode(p, {SENSOR: {'image': x}}, mode='eval').maps,
    model.abstract,
    image,
  )
  task = task_spec.TaskSpec(kind='segmentation', head='linear', outputs=CLASSES)
  objective = finetuning.FineTuning(
    finetuning.FineTuningSpec(task=task),
    encode,
    contract.Features(maps, (window, window)),
  )
  head, extra = objective.init(jax.random.key(1))
  params = model.init(jax.random.key(0)) | {build.HEADS: head}
  known = stats.Statistics(
    mean=(127.0,) * 3,
    std=(50.0,) * 3,
    percentiles={},
    minimum=(0.0,) * 3,
    maximum=(255.0,) * 3,
    count=(1,) * 3,
    bands=sensor.band_names,
  )
  keep = best.KeepBest(
    lambda state: {'miou': 0.0},
    [],
    folder / best.BEST,
    schedule=hooks.Every(1),
    total_steps=1,
    metric='miou',
    best='highest',
    metadata={
      'spec': spec.to_json(),
      'contract': {
        'sensors': {SENSOR: sensor.to_json()},
        'statistics': {SENSOR: known.to_json()},
      },
      'objective': dataclasses.asdict(objective.spec),
    },
  )
  state = {'params': params, 'extra': extra, 'step': jnp.int32(1)}
  keep.run(1, state)
  keep.finish(1, state)
  keep.close()
  config = {'data': {'window': {'size': window}}}
  files.write_json(folder / 'config.json', config)


def scene(path: pathlib.Path, side: int) -> None:
  """Seeded noise, written tile by tile."""
  rng = np.random.default_rng(0)
  profile = {
    'driver': 'GTiff',
    'height': side,
    'width': side,
    'count': 3,
    'dtype': 'uint8',
    'crs': 'EPSG:32632',
    'transform': rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000),
    'tiled': True,
    'blockxsize': TILE,
    'blockysize': TILE,
  }
  with rasterio.open(path, 'w', **profile) as file:
    file.descriptions = catalogue.get(SENSOR).band_names
    for row in range(0, side, TILE):
      for column in range(0, side, TILE):
        high, wide = min(TILE, side - row), min(TILE, side - column)
        values = rng.integers(0, 256, (3, high, wide), np.uint8)
        area = windows.Window(column, row, wide, high)
        file.write(values, window=area)


def measure(
  folder: pathlib.Path, side: int, *, batch_size: int, stride: int | None
) -> dict[str, Any]:
  """One map in a process of its own."""
  path, out = folder / f'{side}.tif', folder / f'map_{side}.tif'
  scene(path, side)
  command = [sys.executable, '-m', 'rsfm_jax', 'predict', folder / 'tuned']
  command += [path, '--out', out, '--batch_size', str(batch_size)]
  if stride is not None:
    command += ['--stride', str(stride)]
  begin = time.perf_counter()
  child = subprocess.Popen(
    command, env=bench.environ(), stdout=subprocess.PIPE, text=True
  )
  words = child.stdout.read()
  _, status, used = os.wait4(child.pid, 0)
  child.returncode = os.waitstatus_to_exitcode(status)
  total = time.perf_counter() - begin
  if child.returncode:
    raise RuntimeError(f'rsfm predict ended with {child.returncode}: {words}')
  cog.check(out)
  path.unlink()
  return parse(words) | {
    'side': side,
    'megapixels': side * side / 1e6,
    'total_seconds': total,
    'peak_mib': used.ru_maxrss / 1024,
    'batch_size': batch_size,
  }


def parse(words: str) -> dict[str, Any]:
  """What the verb says of a map."""
  count, seconds, waited = _WORDS.search(words).groups()
  return {
    'windows': int(count),
    'seconds': float(seconds),
    'waited': float(waited) / 100,
  }


def main() -> None:
  parser = bench.options(__doc__)
  parser.add_argument(
    '--sides', help='default 1024,4096,8192; 256,512 if quick'
  )
  parser.add_argument('--window', type=int, help='default 256, 64 if quick')
  parser.add_argument('--batch_size', type=int, default=4)
  parser.add_argument('--stride', type=int, help='default that of the verb')
  args = parser.parse_args()
  sides = args.sides or ('256,512' if args.quick else '1024,4096,8192')
  window = args.window or (64 if args.quick else 256)
  rows = []
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    tuned(folder / 'tuned', window)
    for side in map(int, sides.split(',')):
      found = measure(
        folder, side, batch_size=args.batch_size, stride=args.stride
      )
      rows.append({'window': window, 'stride': args.stride} | found)
  bench.print_table(rows, COLUMNS)
  bench.finish(args, 'predict', rows)


if __name__ == '__main__':
  main()
