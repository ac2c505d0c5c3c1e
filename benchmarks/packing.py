"""Packing throughput from GeoTIFF windows in the page cache, in MB/s a core.

  python benchmarks/packing.py [--json]

Writes a Sentinel-2-like scene (13 bands of uint16, tiled), reads it once so
that it lies in the page cache, then packs it with one reader. The rate counts
raw pixels against the CPU time of the whole process, all threads together, so
it is per core however many cores there are. The stages are timed one by one
to show what bounds it.

Measured on one core of a shared two-core machine: 165-190 MB/s from plain
tiles (the target is 200). zstd in the ArrayRecord writer takes about 30 % of
the time, statistics 20 %, then reading, copies, SHA-256 and fsync about 10 %
each.
"""

import argparse
from collections.abc import Callable
import json
import pathlib
import tempfile
import time

import numpy as np
import rasterio
import safetensors.numpy
from scipy import ndimage

from rsfm_jax.data import geotiff
from rsfm_jax.data import pack
from rsfm_jax.data import raster
from rsfm_jax.data import recipe
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import checks
from rsfm_jax.sensors import statistics

_SENSOR = 'sentinel2_l1c'


def scene(edge: int) -> np.ndarray:
  """Smooth reflectance with sensor noise, uint16 [13, edge, edge]."""
  rng = np.random.default_rng(0)
  coarse = rng.normal(size=(13, edge // 16, edge // 16))
  planes = [
    ndimage.zoom(ndimage.gaussian_filter(band, 2), 16, order=1)
    for band in coarse
  ]
  noise = rng.normal(scale=20, size=(13, edge, edge))
  return np.clip(np.stack(planes) * 8000 + 1500 + noise, 1, 20000).astype('u2')


def write(path: pathlib.Path, image: np.ndarray, **options: object) -> None:
  profile = {
    'driver': 'GTiff',
    'count': len(image),
    'height': image.shape[1],
    'width': image.shape[2],
    'dtype': 'uint16',
    'crs': 'EPSG:32632',
    'transform': rasterio.Affine(10, 0, 5e5, 0, -10, 5e6),
    'tiled': True,
    'blockxsize': 256,
    'blockysize': 256,
  }
  with rasterio.open(path, 'w', **profile, **options) as file:
    file.write(image)


def stages(path: pathlib.Path, image: np.ndarray) -> dict[str, float]:
  """CPU seconds per GB of raw pixels of each stage, on 256-pixel strips."""
  sensor = catalogue.get(_SENSOR)
  gigabytes = image.nbytes / 1e9
  edge = image.shape[1]
  with_planes = [
    np.moveaxis(image[:, row : row + 256], 0, -1) for row in range(0, edge, 256)
  ]
  chips = [
    np.ascontiguousarray(strip[:, column : column + 256])
    for strip in with_planes
    for column in range(0, edge, 256)
  ]
  valid = np.ones((256, edge), bool)
  file = geotiff.GeoTiff(str(path), layers=sensor.band_names, nodata=0)
  accumulator = statistics.Accumulator(sensor.band_names)

  def read() -> None:
    for row in range(0, edge, 256):
      file.read(raster.Window(row, 0, 256, edge), sensor.band_names)

  work: dict[str, Callable[[], object]] = {
    'read and nodata': read,
    'range check': lambda: [
      checks.check_range(s, sensor, valid=valid) for s in with_planes
    ],
    'interleave': lambda: [
      np.ascontiguousarray(s[:, c : c + 256])
      for s in with_planes
      for c in range(0, edge, 256)
    ],
    'statistics': lambda: [accumulator.update(c) for c in chips],
    'serialise': lambda: [safetensors.numpy.save({'x': c}) for c in chips],
  }
  result = {}
  for name, run in work.items():
    start = time.process_time()
    run()
    result[name] = (time.process_time() - start) / gigabytes
  file.close()
  return result


def rate(path: pathlib.Path, chip: int, store_as: str) -> float:
  """MB of raw pixels per CPU second of a whole pack."""
  job = pack.Job(
    source=str(path),
    recipe=recipe.Recipe(sensor=_SENSOR, chip=chip, store_as=store_as),
  )
  with tempfile.TemporaryDirectory() as folder:
    start = time.process_time()
    report = pack.pack(job, pathlib.Path(folder) / 'store', workers=1)
    return report.pixel_bytes / 1e6 / (time.process_time() - start)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--edge', type=int, default=2048)
  parser.add_argument('--json', action='store_true')
  args = parser.parse_args()
  image = scene(args.edge)
  with tempfile.TemporaryDirectory() as folder:
    plain = pathlib.Path(folder) / 'plain.tif'
    deflated = pathlib.Path(folder) / 'deflate.tif'
    write(plain, image)
    write(deflated, image, compress='deflate', predictor=2)
    plain.read_bytes()
    rows = {
      'stages_cpu_seconds_per_gb': stages(plain, image),
      'mb_per_cpu_second': {
        'chips of 256': rate(plain, 256, ''),
        'chips of 64': rate(plain, 64, ''),
        'chips of 256, to 4 bands of reflectance': rate(plain, 256, 'ms'),
        'chips of 256, from deflate': rate(deflated, 256, ''),
      },
    }
  if args.json:
    print(json.dumps(rows))
    return
  for title, values in rows.items():
    print(title)
    for name, value in values.items():
      print(f'  {name:40s} {value:8.2f}')


if __name__ == '__main__':
  main()
