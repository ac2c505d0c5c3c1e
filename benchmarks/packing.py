"""Packing throughput from GeoTIFF windows in the page cache, in MB/s a core.

  python benchmarks/packing.py [--quick] [--json FILE]
  python benchmarks/packing.py --stores STORE ...

Writes a Sentinel-2-like scene (13 bands of uint16, tiled), reads it once so
that it lies in the page cache, then packs it in this process, several times.
The rate counts raw pixels against the CPU time of the whole process, all
threads together, so it is per core however many cores there are; the median
counts. The stages are timed one by one to show what bounds it.

With --stores it writes the records of finished stores anew under other options
of ArrayRecord: size, and CPU seconds of writing and of reading at random.

Measured on a two-core machine, 256-pixel chips from plain tiles: 161 MB/s with
nothing else running (153 before the statistics counted small integers and
scenes were written while they are read), and 190-212 MB/s (170-189 before) once
every repeat began in an empty folder, journals became compact and nodata was
looked for plane by plane, then beside other jobs. The target is 200. zstd in
the ArrayRecord writer takes a quarter to a third of it, statistics a fifth.
"""

from collections.abc import Callable
import pathlib
import statistics as averages
import tempfile
import time

from array_record.python import array_record_module
import numpy as np
import rasterio
import safetensors.numpy
from scipy import ndimage

from rsfm_jax.cli import bench
from rsfm_jax.core import files
from rsfm_jax.data import geotiff
from rsfm_jax.data import pack
from rsfm_jax.data import raster
from rsfm_jax.data import recipe
from rsfm_jax.data import records
from rsfm_jax.data import shards
from rsfm_jax.data import store as stores
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import checks
from rsfm_jax.sensors import statistics

_SENSOR = 'sentinel2_l1c'
_REPEATS, _QUICK_REPEATS = 5, 1
_EDGE, _QUICK_EDGE = 2048, 512
_COMPRESSIONS = (
  'zstd:-3',
  'zstd:-1',
  'zstd:1',
  'zstd:3',
  'snappy',
  'brotli:1',
  'uncompressed',
)


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


def stages(
  path: pathlib.Path, image: np.ndarray, repeats: int
) -> dict[str, float]:
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

  packed = [safetensors.numpy.save({'x': c}) for c in chips]
  written = path.with_suffix('.array_record')

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
    'compress and write': lambda: write_records(
      written, packed, shards.OPTIONS
    ),
    'SHA-256': lambda: files.sha256(written),
  }
  result = {n: cpu_seconds(run, repeats) / gigabytes for n, run in work.items()}
  file.close()
  return result


def cpu_seconds(run: Callable[[], object], repeats: int) -> float:
  """Median over the repeats, after one that warms up."""
  times = []
  for _ in range(repeats + 1):
    start = time.process_time()
    run()
    times.append(time.process_time() - start)
  return averages.median(times[1:])


def write_records(path: pathlib.Path, packed: list[bytes], options: str):
  writer = array_record_module.ArrayRecordWriter(str(path), options)
  for record in packed:
    writer.write(record)
  writer.close()


def compressions(
  folders: list[str], repeats: int
) -> dict[str, dict[str, float]]:
  """Size and CPU seconds per GB of the records of stores, by compression."""
  packed = []
  for folder in folders:
    store = stores.Store(folder)
    packed += [safetensors.numpy.save(store.read(i)) for i in range(len(store))]
  gigabytes = sum(map(len, packed)) / 1e9
  order = np.random.default_rng(0).permutation(len(packed))
  rows = {}
  with tempfile.TemporaryDirectory() as temporary:
    path = pathlib.Path(temporary) / 'x.array_record'
    for name in _COMPRESSIONS:
      write = cpu_seconds(
        lambda name=name: write_records(path, packed, f'group_size:1,{name}'),
        repeats,
      )
      source = records.Records([(str(path), len(packed))], order)
      read = cpu_seconds(
        lambda s=source: [s[i] for i in range(len(s))], repeats
      )
      rows[name] = {
        'size': path.stat().st_size / 1e9 / gigabytes,
        'write': write / gigabytes,
        'read': read / gigabytes,
      }
  return rows


def rate(path: pathlib.Path, chip: int, store_as: str, repeats: int) -> float:
  """MB of raw pixels per CPU second of a whole pack."""
  job = pack.Job(
    source=str(path),
    recipe=recipe.Recipe(sensor=_SENSOR, chip=chip, store_as=store_as),
  )
  rates = []
  for _ in range(repeats + 1):
    with tempfile.TemporaryDirectory() as folder:
      start = time.process_time()
      report = pack.pack(job, pathlib.Path(folder) / 'store', workers=1)
      seconds = time.process_time() - start
    rates.append(report.pixel_bytes / 1e6 / seconds)
  return averages.median(rates[1:])


def rows_of(tables: dict[str, dict[str, float]]) -> list[dict]:
  return [
    {'table': title, 'what': name, 'value': value}
    for title, values in tables.items()
    for name, value in values.items()
  ]


def packed_scene(edge: int, repeats: int) -> dict[str, dict[str, float]]:
  image = scene(edge)
  with tempfile.TemporaryDirectory() as folder:
    plain = pathlib.Path(folder) / 'plain.tif'
    deflated = pathlib.Path(folder) / 'deflate.tif'
    write(plain, image)
    write(deflated, image, compress='deflate', predictor=2)
    plain.read_bytes()
    return {
      'stages, CPU seconds per GB': stages(plain, image, repeats),
      'pack, MB per CPU second': {
        'chips of 256': rate(plain, 256, '', repeats),
        'chips of 64': rate(plain, 64, '', repeats),
        'chips of 256, to 4 bands of reflectance': rate(
          plain, 256, 'ms', repeats
        ),
        'chips of 256, from deflate': rate(deflated, 256, '', repeats),
      },
    }


def main() -> None:
  parser = bench.options(__doc__)
  parser.add_argument('--edge', type=int, help='default 2048, 512 if quick')
  parser.add_argument('--stores', nargs='+', metavar='STORE', default=[])
  args = parser.parse_args()
  repeats = _QUICK_REPEATS if args.quick else _REPEATS
  if args.stores:
    tables = compressions(args.stores, repeats)
  else:
    edge = args.edge or (_QUICK_EDGE if args.quick else _EDGE)
    tables = packed_scene(edge, repeats)
  rows = rows_of(tables)
  bench.print_table(
    rows, {'table': '{table}', 'what': '{what}', 'value': '{value:.3f}'}
  )
  bench.finish(args, 'packing', rows)


if __name__ == '__main__':
  main()
