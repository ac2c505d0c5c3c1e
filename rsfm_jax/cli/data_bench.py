"""`rsfm data bench`: how fast stores load, and whether a step would wait."""

import argparse
import dataclasses
import time

from absl import flags

from rsfm_jax.data import adapt
from rsfm_jax.data import augment
from rsfm_jax.data import pipeline
from rsfm_jax.data import prefetch
from rsfm_jax.data import store as stores
from rsfm_jax.sensors import contract

HELP = 'measure samples/s, MB/s and the share of time a step would wait'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('stores', nargs='+', metavar='STORE')
  parser.add_argument('--split', default=None, help='default: all samples')
  parser.add_argument(
    '--crop', type=int, default=32, help='output size in pixels'
  )
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument(
    '--seconds', type=float, default=5.0, help='measuring time per stream'
  )
  parser.add_argument(
    '--workers', type=int, default=0, help='processes; 0 uses threads'
  )
  parser.add_argument('--threads', type=int, default=2, help='per process')
  parser.add_argument(
    '--step_ms',
    type=float,
    default=100.0,
    help='length of a step; it is slept, so it takes no core from loading',
  )


def run(args: argparse.Namespace) -> int:
  """Prints one line for every sensor of every store.

  Raises:
    ValueError: a folder that is no store, or settings that do not fit it.
  """
  if args.seconds <= 0 or args.step_ms < 0 or args.batch_size < 1:
    raise ValueError('--seconds and --batch_size must be positive.')
  if args.workers and not flags.FLAGS.is_parsed():
    flags.FLAGS(['rsfm'])  # Grain's processes read absl flags.
  print(
    f'{"store":24} {"sensor":16} {"samples/s":>10} {"MB/s":>8} '
    f'{"wait at " + format(args.step_ms, "g") + " ms":>16}'
  )
  for folder in args.stores:
    store = stores.Store(folder)
    for name, stored in store.sensors.items():
      sensor = dataclasses.replace(stored, name=name)
      stream = _stream(store, sensor, args)
      rate, megabytes = _throughput(stream, args)
      share = _wait_share(stream, args)
      print(
        f'{store.folder.name[:24]:24} {sensor.name[:16]:16} {rate:10.0f} '
        f'{megabytes:8.1f} {share:16.1%}',
        flush=True,
      )
  return 0


def _stream(
  store: stores.Store, sensor: contract.Sensor, args: argparse.Namespace
) -> pipeline.Stream:
  found = adapt.merged_statistics(sensor, (store,), splits=(args.split,))
  return pipeline.Stream(
    sensor,
    sources=[(store, args.split, 1.0)],
    batch_size=args.batch_size,
    crop=augment.Crop(size=args.crop),
    statistics={sensor.name: found},
  )


def _batches(stream: pipeline.Stream, args: argparse.Namespace):
  return pipeline.batches(
    [stream], seed=0, workers=args.workers, threads=args.threads
  )


def _throughput(
  stream: pipeline.Stream, args: argparse.Namespace
) -> tuple[float, float]:
  """Samples/s, and MB/s of float32 images delivered, as fast as it goes."""
  iterator = _batches(stream, args)
  image = next(iterator)[stream.names[0]]['image']  # Start-up is not counted.
  start, count = time.perf_counter(), 0
  while (elapsed := time.perf_counter() - start) < args.seconds or not count:
    next(iterator)
    count += 1
  return (
    count * args.batch_size / elapsed,
    count * image.nbytes / elapsed / 1e6,
  )


def _wait_share(stream: pipeline.Stream, args: argparse.Namespace) -> float:
  """Share of the time that steps of `step_ms` wait for their batch."""
  with prefetch.to_device(_batches(stream, args)) as ready:
    next(ready)
    start = time.perf_counter()
    while time.perf_counter() - start < args.seconds:
      time.sleep(args.step_ms / 1e3)
      next(ready)
    return ready.waited_seconds / (time.perf_counter() - start)
