"""From stores to batches: every position a function of (seed, step).

Per source: shuffle, repeat and augment, all by global index; then the sources
of a stream are mixed by weight, cut into batches and these into blocks of rows;
a host reads the blocks that its devices hold. So the global batch of a step is
the same, row by row (masks and noise belong to rows), for any number of hosts,
threads and worker processes, and a resume needs only the step. That
holds because every transform is one-to-one: filter when packing, never here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import math
from typing import Any, Literal, NamedTuple, get_args
import zlib

import grain
import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.data import adapt
from rsfm_jax.data import augment
from rsfm_jax.data import shares
from rsfm_jax.data import store as stores
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import matching
from rsfm_jax.sensors import statistics as stats

Fit = Literal['native', 'crop', 'resize']
MissingSensors = Literal['error', 'mask']
Batch = dict[str, dict[str, np.ndarray]]


class Source(NamedTuple):
  """A split of a store and how often it is drawn, relative to the others."""

  store: stores.Store
  split: str | None = None
  weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Stream:
  """What fills one entry of the batch, or several co-registered ones.

  Attributes:
    sensor: contract of the model; a tuple draws samples that hold all of
      them, and all see the same ground window.
    sources: `(store, split, weight)` each.
    batch_size: samples per step over all hosts.
    crop: window and symmetry; the size of the output.
    statistics: per sensor name, what normalises it; complex SAR needs none.
    missing_bands: see `matching.match`.
    missing_sensors: 'mask' fills a sensor that a sample or a store lacks with
      zeros of which no band is valid.
  """

  sensor: contract.Sensor | tuple[contract.Sensor, ...]
  _: dataclasses.KW_ONLY
  sources: Sequence[Source | tuple[stores.Store, str | None, float]]
  batch_size: int
  crop: augment.Crop
  statistics: Mapping[str, stats.Statistics] = dataclasses.field(
    default_factory=dict
  )
  missing_bands: matching.Policy = 'error'
  missing_sensors: MissingSensors = 'error'

  def __post_init__(self):
    policies = get_args(MissingSensors)
    choices.check(self.missing_sensors, policies, key='missing_sensors')

  @property
  def sensors(self) -> tuple[contract.Sensor, ...]:
    one = isinstance(self.sensor, contract.Sensor)
    return (self.sensor,) if one else tuple(self.sensor)

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(sensor.name for sensor in self.sensors)


def batches(
  streams: Sequence[Stream],
  *,
  seed: int,
  step: int = 0,
  share: shares.Share = shares.ALL,
  workers: int = 0,
  threads: int = 2,
) -> Iterator[Batch]:
  """This host's share of every global batch from `step` on, without end.

  Args:
    streams: each fills its own sensors of the batch.
    seed: of order and augmentation.
    step: first step.
    share: blocks of rows of the global batch; see `shares.of_process`.
    workers: processes that make batches; 0 makes them in threads here.
    threads: batches made at a time, in each process.

  Yields:
    `{sensor: {image, band_valid, pixel_valid, valid}}`; B per host.

  Raises:
    ValueError: streams that do not fit together, stores or hosts.
  """
  names = [name for stream in streams for name in stream.names]
  if len(set(names)) < len(names) or not names:
    raise ValueError(f'each sensor needs exactly one stream, got {names}.')
  parts = [_host_batches(stream, seed=seed, share=share) for stream in streams]
  length = min(map(len, parts))
  ds = grain.experimental.ZipMapDataset([part[:length] for part in parts])
  return read(ds.map(_merge), step=step, workers=workers, threads=threads)


def endless(
  records: Any,
  transform: Callable[[Any, np.random.Generator], Any],
  *,
  names: Sequence[str],
  number: int,
  seed: int,
) -> grain.MapDataset:
  """A source shuffled anew every epoch and transformed, by global index.

  Args:
    records: Grain source of samples.
    transform: `(sample, rng) -> arrays`, rng a function of the position.
    names: sensors of the stream; they name its randomness, so that another
      stream or a further source moves nothing else.
    number: of the source within the stream.
    seed: of the run.
  """
  name = zlib.crc32('/'.join(names).encode())
  order, noise = np.random.SeedSequence([seed, name, number]).generate_state(2)
  ds = grain.MapDataset.source(records).shuffle(seed=int(order)).repeat()
  return ds.random_map(transform, seed=int(noise))


def host_batches(
  sources: Sequence[grain.MapDataset],
  weights: Sequence[float],
  *,
  names: Sequence[str],
  batch_size: int,
  share: shares.Share,
) -> grain.MapDataset:
  """Element s is this host's share of the stream's batch of step s.

  Args:
    sources: endless, of one form.
    weights: how often each is drawn, relative to the others.
    names: sensors of the stream, for messages.
    batch_size: rows of the global batch.
    share: blocks of rows that are read.

  Raises:
    ValueError: blocks that do not divide the batch, or weights.
  """
  if batch_size % share.of or not set(share.parts) <= set(range(share.of)):
    raise ValueError(
      f'batch_size={batch_size} of {tuple(names)} must be a multiple of the '
      f'{share.of} blocks that it is cut into, and {share.parts} must be some '
      'of them.'
    )
  if not sources or min(weights) <= 0:
    raise ValueError(f'{tuple(names)} needs sources of positive weight.')
  order = grain.MapDataset.mix(list(sources), list(weights))
  blocks = order.batch(batch_size // share.of, drop_remainder=True)
  end = len(blocks) // share.of * share.of
  parts = [blocks[part : end : share.of] for part in share.parts]
  if len(parts) == 1:
    return parts[0]
  return grain.experimental.ZipMapDataset(parts).map(_concatenated)


def read(
  ds: grain.MapDataset, *, step: int, workers: int, threads: int
) -> Iterator[Any]:
  """Elements from `step` on, made ahead in threads or worker processes."""
  ds = ds[step:].to_iter_dataset(
    grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
  )
  if workers:
    ds = ds.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
  return iter(ds)


def evaluation_batches(
  store: stores.Store,
  split: str | None,
  sensor: contract.Sensor,
  batch_size: int,
  *,
  statistics: stats.Statistics | None = None,
  fit: Fit = 'native',
  size: int | None = None,
  missing_bands: matching.Policy = 'error',
  threads: int = 2,
) -> Iterator[Batch]:
  """A split once, in order, without augmentation, in batches of one shape.

  Args:
    store: where from.
    split: which split, None for all samples.
    sensor: contract of the model.
    batch_size: rows of every batch; the last one is filled up with zeros
      and `valid` False.
    statistics: what normalises it; complex SAR needs none.
    fit: `native` (all images have one size), centre `crop` or `resize` of
      the whole image to `size`.
    size: output pixels, square.
    missing_bands: see `matching.match`.
    threads: samples read at a time.

  Yields:
    `{sensor: {image, band_valid, pixel_valid, valid, index, label}}`; index
    i64 [B] counts the samples of the store (-1 where padded), label is there
    for labelled splits only.

  Raises:
    ValueError: sizes differ under `native`, or complex SAR would be resized.
  """
  choices.check(fit, get_args(Fit), key='fit')
  if (size is None) != (fit == 'native'):
    raise ValueError(f'fit={fit!r} does not go with size={size}.')
  adapter = adapt.Adapter.of(
    store, sensor, statistics=statistics, missing_bands=missing_bands
  )
  records = store.source(split)
  shape = adapter.shape(records[0])
  ds = grain.MapDataset.source(records).map(_Fitted(adapter, fit, size, shape))
  ds = ds.batch(batch_size, drop_remainder=False).to_iter_dataset(
    grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
  )
  rows = {'index': records.indices}
  column = store.column('label')
  if all(column[i] is not None for i in records.indices):
    rows['label'] = store.labels(split)
  for start, part in zip(range(0, len(records), batch_size), ds):
    stop = start + batch_size
    part |= {name: values[start:stop] for name, values in rows.items()}
    part['valid'] = np.ones(len(part['index']), bool)
    yield {sensor.name: pad(part, batch_size, fill={'index': -1})}


def pad(
  arrays: Mapping[str, np.ndarray], rows: int, *, fill: Mapping[str, int]
) -> dict[str, np.ndarray]:
  """Arrays [B, ...] filled up to `rows`: with zeros, or with `fill` by name."""
  return {
    name: np.pad(
      values,
      [(0, rows - len(values))] + [(0, 0)] * (values.ndim - 1),
      constant_values=fill.get(name, 0),
    )
    if len(values) < rows
    else values
    for name, values in arrays.items()
  }


@dataclasses.dataclass(frozen=True)
class _Augment:
  """Record to `{sensor: arrays}`: one ground window for all its sensors.

  `absent` has the channels of sensors that may be missing.
  """

  adapters: tuple[adapt.Adapter, ...]
  crop: augment.Crop
  absent: Mapping[str, int]

  def __call__(
    self, record: Mapping[str, np.ndarray], rng: np.random.Generator
  ) -> Batch:
    adapters = self.adapters
    if self.absent:
      held = [a for a in adapters if f'{a.name}/image' in record]
      adapters = held or adapters
    shapes = [adapter.shape(record) for adapter in adapters]
    exact = [s for a, s in zip(adapters, shapes) if a.exact]
    # The window lies on whole pixels of the coarsest image that counts.
    grid = min(exact or shapes, key=math.prod)
    if exact:
      box = augment.exact_box(rng, grid, self.crop.size)
    else:
      box = augment.random_box(rng, grid, self.crop)
    symmetry = augment.random_symmetry(rng, self.crop.symmetry)
    size = self.crop.size
    empty = {name: _nothing(size, n) for name, n in self.absent.items()}
    return empty | {
      adapter.want.name: adapter(
        record,
        augment.transfer(box, grid, shape),
        size,
        symmetry=symmetry,
        filter=self.crop.filter,
      )
      for adapter, shape in zip(adapters, shapes)
    }


def _nothing(size: int, channels: int) -> dict[str, np.ndarray]:
  """A sensor that was not there, of the form of one that was."""
  return {
    'image': np.zeros((size, size, channels), np.float32),
    'band_valid': np.zeros(channels, bool),
    'pixel_valid': np.zeros((size, size), bool),
  }


@dataclasses.dataclass(frozen=True)
class _Fitted:
  """Record to arrays of one fixed size, nothing random."""

  adapter: adapt.Adapter
  fit: Fit
  size: int | None
  first: tuple[int, int]

  def __call__(self, record: Mapping[str, np.ndarray]) -> dict[str, Any]:
    shape = self.adapter.shape(record)
    if self.fit == 'crop':
      return self.adapter(
        record, augment.centre_box(shape, self.size), self.size
      )
    if self.fit == 'native' and shape != self.first:
      raise ValueError(
        f'{self.adapter.name} has images of {self.first} and of {shape} '
        'pixels; set fit=crop or fit=resize and a size.'
      )
    return self.adapter(record, augment.Box(0, 0, *shape), self.size)


def _host_batches(
  stream: Stream, *, seed: int, share: shares.Share
) -> grain.MapDataset:
  sources = [Source(*source) for source in stream.sources]
  return host_batches(
    [
      _endless(stream, source, seed=seed, number=number)
      for number, source in enumerate(sources)
    ],
    [source.weight for source in sources],
    names=stream.names,
    batch_size=stream.batch_size,
    share=share,
  )


def _endless(
  stream: Stream, source: Source, *, seed: int, number: int
) -> grain.MapDataset:
  masks = stream.missing_sensors == 'mask'
  adapters = tuple(
    adapt.Adapter.of(
      source.store,
      sensor,
      statistics=stream.statistics.get(sensor.name),
      missing_bands=stream.missing_bands,
    )
    for sensor in stream.sensors
    if not masks or adapt.feeds(source.store, sensor)
  )
  if not adapters:
    raise ValueError(f'{source.store.folder} has none of {stream.names}.')
  absent = {s.name: len(s.bands) for s in stream.sensors} if masks else {}
  return endless(
    source.store.source(source.split),
    _Augment(adapters, stream.crop, absent),
    names=stream.names,
    number=number,
    seed=seed,
  )


def _concatenated(parts: Sequence[Batch]) -> Batch:
  return {
    sensor: {
      name: np.concatenate([part[sensor][name] for part in parts])
      for name in arrays
    }
    for sensor, arrays in parts[0].items()
  }


def _merge(parts: Sequence[Batch]) -> Batch:
  batch = {name: arrays for part in parts for name, arrays in part.items()}
  for arrays in batch.values():
    arrays['valid'] = np.ones(len(arrays['image']), bool)
  return batch
