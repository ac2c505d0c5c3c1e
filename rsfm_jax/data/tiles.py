"""Batches of co-registered tiles: several sensors, dates and pixel sizes.

All sensors of a sample cover the same ground. A tile is cut at whole pixels of
every one of them, so that nothing is resampled: its corner lies on the grid
that their pixels share. As in `pipeline`, whose order these batches have, the
global batch is a function of (seed, step).

Beside images and series, see `samples`, a record may hold

  <sensor>/days or days  int [K], see `dates.of_series`
  landcover              u8 [H, W] codes, 255 where unlabelled

and its row of the index `lonlat` and `date`, of the first image.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple, get_args

import grain
import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.data import adapt
from rsfm_jax.data import pipeline
from rsfm_jax.data import shares
from rsfm_jax.data import store as stores
from rsfm_jax.data import tile_cut
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import matching
from rsfm_jax.sensors import regions as region_lib
from rsfm_jax.sensors import statistics as stats

Batch = pipeline.Batch
Shapes = dict[str, dict[str, tuple[tuple[int, ...], np.dtype]]]

# What padding rows hold where it is not zero.
_FILL = {
  'index': -1,
  'region': region_lib.UNKNOWN,
  'day': -1,
  'landcover': tile_cut.UNLABELLED,
}


@dataclasses.dataclass(frozen=True)
class TileStream:
  """What fills a batch.

  Attributes:
    sensors: contracts of the model.
    sources: `(store, split, weight)` each.
    batch_size: samples per step over all hosts.
    tile: height and width in pixels of the finest sensor.
    dates: {sensor: dates of a sample}; 1 for a sensor that is not named.
    statistics: per sensor name, what normalises it; complex SAR needs none.
    day_jitter: days by which a date is moved at most; the image stays.
    regions: see `regions.region_of`.
    classes: of the land cover, None for any; larger codes are an error.
    missing_bands: see `matching.match`.
    missing_sensors: 'mask' fills a sensor that a sample lacks with zeros,
      `valid` False.
    factors: {sensor: pixels of the finest sensor per pixel, on each axis}; by
      default what the first sample that has all sensors says.
  """

  sensors: tuple[contract.Sensor, ...]
  _: dataclasses.KW_ONLY
  sources: Sequence[pipeline.Source | tuple[stores.Store, str | None, float]]
  batch_size: int
  tile: int
  dates: Mapping[str, int] = dataclasses.field(default_factory=dict)
  statistics: Mapping[str, stats.Statistics] = dataclasses.field(
    default_factory=dict
  )
  day_jitter: int = 0
  regions: int = 4096
  classes: int | None = None
  missing_bands: matching.Policy = 'error'
  missing_sensors: pipeline.MissingSensors = 'error'
  factors: Mapping[str, int] | None = None

  def __post_init__(self):
    for name, count in self.dates.items():
      choices.check(name, self.names, key='dates')
      if count < 1:
        raise ValueError(f'dates: {name}={count} must be at least 1.')
    if not self.names or len(set(self.names)) < len(self.names):
      raise ValueError(f'sensors={self.names}: name each once.')
    if not 0 <= self.day_jitter <= 365:
      raise ValueError(f'day_jitter={self.day_jitter} must be within 0..365.')
    policies = get_args(pipeline.MissingSensors)
    choices.check(self.missing_sensors, policies, key='missing_sensors')

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(sensor.name for sensor in self.sensors)


class Row(NamedTuple):
  """What the index says of a sample."""

  id: str
  lonlat: Sequence[float] | None
  date: str | None


class _Samples:
  """A Grain source of (arrays, row of the index); picklable."""

  def __init__(self, store: stores.Store, split: str | None):
    self.records = store.source(split)
    columns = (store.column(name) for name in Row._fields)
    rows = list(zip(*columns))
    self.rows = [Row(*rows[i]) for i in self.records.indices]

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, i: int) -> tuple[dict[str, np.ndarray], Row]:
    return self.records[i], self.rows[i]


def batches(
  stream: TileStream,
  *,
  seed: int,
  step: int = 0,
  share: shares.Share = shares.ALL,
  workers: int = 0,
  threads: int = 2,
) -> Iterator[Batch]:
  """This host's share of every global batch from `step` on, without end.

  A tile lies at random; of a series that is longer than asked for, a random
  subset of dates is kept, in order.

  Args:
    stream: what fills the batch.
    seed: of order, places, dates and jitter.
    step: first step.
    share: blocks of rows of the global batch; see `shares.of_process`.
    workers: processes that make batches; 0 makes them in threads here.
    threads: batches made at a time, in each process.

  Yields:
    per sensor {image f32 [B, T, H, W, C] normalised, band_valid bool [B, C],
    pixel_valid bool [B, T, H, W], date_valid bool [B, T], day i32 [B, T] (0 to
    365, -1 unknown), valid bool [B]}, whatever is invalid is zero in the
    image; and 'place': {region i32 [B] (-1 unknown), landcover u8 [B, h, w]
    (most frequent code in each pixel of the coarsest sensor, 255 where there
    is none), valid bool [B]}.

  Raises:
    ValueError: a stream or share that does not fit; while reading, a sample
      that does not, by its id.
  """
  cuts, sources = geometry(stream), _sources(stream)
  ds = pipeline.host_batches(
    [
      pipeline.endless(
        _Samples(source.store, source.split),
        cutter(stream, cuts, source.store),
        names=stream.names,
        number=number,
        seed=seed,
      )
      for number, source in enumerate(sources)
    ],
    [source.weight for source in sources],
    names=stream.names,
    batch_size=stream.batch_size,
    share=share,
  )
  return pipeline.read(ds, step=step, workers=workers, threads=threads)


def evaluation_batches(
  store: stores.Store,
  split: str | None,
  sensors: tuple[contract.Sensor, ...],
  batch_size: int,
  *,
  tile: int,
  threads: int = 2,
  **options: Any,
) -> Iterator[Batch]:
  """A split once, in order, without chance, in batches of one shape.

  Tiles lie in the middle; of a series that is longer than asked for, dates at
  even distances are kept.

  Args:
    store: where from.
    split: which split, None for all samples.
    sensors: contracts of the model.
    batch_size: rows of every batch; the last one is filled up with zeros and
      `valid` False.
    tile: pixels of the finest of the sensors.
    threads: samples read at a time.
    **options: of `TileStream`: dates, statistics, regions, classes, factors,
      missing_bands, missing_sensors.

  Yields:
    what `batches` yields, and in 'place' index i64 [B], which counts the
    samples of the store (-1 where padded), and label for labelled splits.

  Raises:
    ValueError: see `batches`.
  """
  stream = TileStream(
    sensors,
    sources=[(store, split, 1.0)],
    batch_size=batch_size,
    tile=tile,
    **options,
  )
  samples = _Samples(store, split)
  indices = samples.records.indices
  rows = {'index': indices}
  column = store.column('label')
  if all(column[i] is not None for i in indices):
    rows['label'] = store.labels(split)
  ds = grain.MapDataset.source(samples)
  ds = ds.map(cutter(stream, geometry(stream), store))
  ds = ds.batch(batch_size, drop_remainder=False)
  parts = pipeline.read(ds, step=0, workers=0, threads=threads)
  for start, part in zip(range(0, len(samples), batch_size), parts):
    stop = start + batch_size
    part['place'] |= {name: v[start:stop] for name, v in rows.items()}
    yield {
      name: pipeline.pad(arrays, batch_size, fill=_FILL)
      for name, arrays in part.items()
    }


def shapes(
  sensors: Sequence[contract.Sensor],
  *,
  batch_size: int,
  tile: int,
  dates: Mapping[str, int],
  factors: Mapping[str, int],
) -> Shapes:
  """{sensor: {array: (shape, dtype)}} of a global batch, no store needed."""
  cuts = tile_cut.Geometry.of(
    tuple(sensor.name for sensor in sensors), tile, factors
  )
  out: Shapes = {}
  b, flag = batch_size, np.dtype(bool)
  for sensor in sensors:
    t, c = dates.get(sensor.name, 1), len(sensor.bands)
    side = cuts.side(sensor.name)
    out[sensor.name] = {
      'image': ((b, t, side, side, c), np.dtype(np.float32)),
      'band_valid': ((b, c), flag),
      'pixel_valid': ((b, t, side, side), flag),
      'date_valid': ((b, t), flag),
      'day': ((b, t), np.dtype(np.int32)),
      'valid': ((b,), flag),
    }
  out['place'] = {
    'region': ((b,), np.dtype(np.int32)),
    'landcover': ((b, cuts.cells, cuts.cells), np.dtype(np.uint8)),
    'valid': ((b,), flag),
  }
  return out


def abstract(stream: TileStream) -> Shapes:
  """The `shapes` of a stream's global batch."""
  return shapes(
    stream.sensors,
    batch_size=stream.batch_size,
    tile=stream.tile,
    dates=stream.dates,
    factors=geometry(stream).factors,
  )


def geometry(stream: TileStream) -> tile_cut.Geometry:
  """How the pixels of the sensors of a stream lie on each other.

  Raises:
    ValueError: no first sample has all sensors and no factors are given, or
      the tile does not hold whole pixels of every sensor.
  """
  factors = stream.factors or _found_factors(stream)
  return tile_cut.Geometry.of(stream.names, stream.tile, factors)


def _found_factors(stream: TileStream) -> dict[str, int]:
  """Those of the first sample of a source that has all sensors."""
  for source in _sources(stream):
    of_store = cutter(stream, None, source.store)
    first = int(source.store.indices(source.split)[0])
    row = Row(*(source.store.column(name)[first] for name in Row._fields))
    factors = of_store.factors((source.store.read(first), row))
    if factors is not None:
      return factors
  raise ValueError(
    f'no first sample of the sources has all of {stream.names}: give the '
    'factors of their pixel sizes, e.g. factors={"sentinel1_grd": 8, ...}.'
  )


def _sources(stream: TileStream) -> list[pipeline.Source]:
  return [pipeline.Source(*source) for source in stream.sources]


def cutter(
  stream: TileStream, cuts: tile_cut.Geometry | None, store: stores.Store
) -> tile_cut.Cutter:
  """What cuts the samples of a store; None where only `factors` is asked."""
  adapters = {}
  for sensor in stream.sensors:
    absent = sensor.name not in store.sensors
    if absent and stream.missing_sensors == 'mask':
      continue
    adapters[sensor.name] = adapt.Adapter.of(
      store,
      sensor,
      statistics=stream.statistics.get(sensor.name),
      missing_bands=stream.missing_bands,
    )
  return tile_cut.Cutter(
    folder=str(store.folder),
    bands={sensor.name: len(sensor.bands) for sensor in stream.sensors},
    adapters=adapters,
    geometry=cuts,
    dates={name: stream.dates.get(name, 1) for name in stream.names},
    day_jitter=stream.day_jitter,
    regions=stream.regions,
    classes=stream.classes,
    missing=stream.missing_sensors,
  )
