"""From stores to batches: every position a function of (seed, step).

Per source: shuffle, repeat and augment, all by global index; then the sources
of a stream are mixed by weight, cut into batches and these into blocks of rows;
a host reads the blocks that its devices hold. So the global batch of a step is
the same, row by row (masks and noise belong to rows), for any number of hosts,
threads and worker processes, and a resume needs only the step. That
holds because every transform is one-to-one: filter when packing, never here.
"""

from collections.abc import Iterator, Mapping, Sequence
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
  ds = ds.map(_merge)[step:]
  ds = ds.to_iter_dataset(
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
    yield {sensor.name: _pad(part, batch_size)}


@dataclasses.dataclass(frozen=True)
class _Augment:
  """Record to `{sensor: arrays}`: one ground window for all its sensors."""

  adapters: tuple[adapt.Adapter, ...]
  crop: augment.Crop

  def __call__(
    self, record: Mapping[str, np.ndarray], rng: np.random.Generator
  ) -> Batch:
    shapes = [adapter.shape(record) for adapter in self.adapters]
    exact = [s for a, s in zip(self.adapters, shapes) if a.exact]
    # The window lies on whole pixels of the coarsest image that counts.
    grid = min(exact or shapes, key=math.prod)
    if exact:
      box = augment.exact_box(rng, grid, self.crop.size)
    else:
      box = augment.random_box(rng, grid, self.crop)
    symmetry = augment.random_symmetry(rng, self.crop.symmetry)
    return {
      adapter.want.name: adapter(
        record,
        augment.transfer(box, grid, shape),
        self.crop.size,
        symmetry=symmetry,
        filter=self.crop.filter,
      )
      for adapter, shape in zip(self.adapters, shapes)
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
  """Element s is this host's share of the stream's batch of step s."""
  if stream.batch_size % share.of or not set(share.parts) <= set(
    range(share.of)
  ):
    raise ValueError(
      f'batch_size={stream.batch_size} of {stream.names} must be a multiple '
      f'of the {share.of} blocks that it is cut into, and {share.parts} must '
      'be some of them.'
    )
  sources = [Source(*source) for source in stream.sources]
  if not sources or min(source.weight for source in sources) <= 0:
    raise ValueError(f'{stream.names} needs sources of positive weight.')
  order = grain.MapDataset.mix(
    [
      _endless(stream, source, seed=seed, number=number)
      for number, source in enumerate(sources)
    ],
    [source.weight for source in sources],
  )
  blocks = order.batch(stream.batch_size // share.of, drop_remainder=True)
  end = len(blocks) // share.of * share.of
  read = [blocks[part : end : share.of] for part in share.parts]
  if len(read) == 1:
    return read[0]
  return grain.experimental.ZipMapDataset(read).map(_concatenated)


def _endless(
  stream: Stream, source: Source, *, seed: int, number: int
) -> grain.MapDataset:
  """A source shuffled anew every epoch and augmented, by global index."""
  adapters = tuple(
    adapt.Adapter.of(
      source.store,
      sensor,
      statistics=stream.statistics.get(sensor.name),
      missing_bands=stream.missing_bands,
    )
    for sensor in stream.sensors
  )
  # By name, so that another stream or a further source moves nothing else.
  name = zlib.crc32('/'.join(stream.names).encode())
  order, noise = np.random.SeedSequence([seed, name, number]).generate_state(2)
  ds = grain.MapDataset.source(source.store.source(source.split))
  ds = ds.shuffle(seed=int(order)).repeat()
  return ds.random_map(_Augment(adapters, stream.crop), seed=int(noise))


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


def _pad(arrays: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
  """Fills up to `rows` with zeros, `index` with -1."""
  missing = rows - len(arrays['valid'])
  if not missing:
    return dict(arrays)
  return {
    name: np.pad(
      values,
      [(0, missing)] + [(0, 0)] * (values.ndim - 1),
      constant_values=-1 if name == 'index' else 0,
    )
    for name, values in arrays.items()
  }
