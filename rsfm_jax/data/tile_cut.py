"""One sample to one tile: places, dates, land cover; see `tiles`."""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import math
from typing import Any, NamedTuple, Self

import numpy as np

from rsfm_jax.data import adapt
from rsfm_jax.data import augment
from rsfm_jax.data import dates as calendar
from rsfm_jax.data import samples
from rsfm_jax.sensors import regions as region_lib

UNLABELLED = 255

Record = Mapping[str, np.ndarray]
Arrays = dict[str, np.ndarray]


class Geometry(NamedTuple):
  """How the pixels of several sensors lie on each other.

  Attributes:
    tile: pixels of the finest sensor.
    factors: {sensor: pixels of the finest sensor per pixel, on each axis}.
    step: pixels of the finest sensor between places where a tile may lie.
  """

  tile: int
  factors: dict[str, int]
  step: int

  @classmethod
  def of(
    cls, names: tuple[str, ...], tile: int, factors: Mapping[str, int]
  ) -> Self:
    """Checks that a tile holds whole pixels of every sensor.

    Raises:
      ValueError: it does not, or a factor is missing or not positive.
    """
    wrong = [name for name in names if factors.get(name, 0) < 1]
    if wrong:
      raise ValueError(f'factors={dict(factors)} must name {wrong} too, >= 1.')
    factors = {name: factors[name] for name in names}
    step = math.lcm(*factors.values())
    if tile < 1 or tile % step:
      raise ValueError(
        f'tile={tile} must be a positive multiple of {step} pixels, for whole '
        f'pixels of all sensors (pixels of the finest per pixel: {factors}).'
      )
    return cls(tile, factors, step)

  @property
  def coarsest(self) -> int:
    return max(self.factors.values())

  @property
  def cells(self) -> int:
    """Pixels of the coarsest sensor along a tile."""
    return self.tile // self.coarsest

  def side(self, name: str) -> int:
    """Pixels of a sensor along a tile."""
    return self.tile // self.factors[name]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cutter:
  """(record, row of the index) to arrays; picklable. See `tiles.TileStream`.

  Attributes:
    folder: of the store, for messages.
    bands: {sensor: channels}, in the order of the batch.
    adapters: of the sensors that the store has.
    geometry: None where only `factors` is asked for.
    dates: {sensor: T}.
    day_jitter: days, at most.
    regions: how many there are.
    classes: of the land cover, or None.
    missing: 'error' or 'mask'.
  """

  folder: str
  bands: Mapping[str, int]
  adapters: Mapping[str, adapt.Adapter]
  geometry: Geometry | None
  dates: Mapping[str, int]
  day_jitter: int
  regions: int
  classes: int | None
  missing: str

  def __call__(
    self, sample: tuple[Record, Any], rng: np.random.Generator | None = None
  ) -> dict[str, Arrays]:
    """Cuts at random, or in the middle without `rng`.

    Raises:
      ValueError: the sample does not fit, by its id.
    """
    record, row = sample
    with self.naming(row):
      return self._cut(record, row, rng)

  def factors(self, sample: tuple[Record, Any]) -> dict[str, int] | None:
    """{sensor: factor} of a sample; None where it lacks a sensor.

    Raises:
      ValueError: pixels of one sensor that are no multiple of another's.
    """
    record, row = sample
    with self.naming(row):
      shapes = self._shapes(record)
      if len(shapes) < len(self.bands):
        return None
      fine = max(shapes.values())
      factors = {name: fine[0] // shape[0] for name, shape in shapes.items()}
      if any(
        (h * factors[name], w * factors[name]) != fine
        for name, (h, w) in shapes.items()
      ):
        raise ValueError(
          f'sensors of {shapes} pixels do not cover the same ground in whole '
          'pixels of each other.'
        )
    return factors

  @contextlib.contextmanager
  def naming(self, row: Any) -> Iterator[None]:
    """Adds the sample's id and the store to what is wrong with it."""
    try:
      yield
    except ValueError as error:
      raise ValueError(
        f'sample {row.id!r} of {self.folder}: {error}'
      ) from error

  def _shapes(self, record: Record) -> dict[str, tuple[int, int]]:
    """(H, W) of the sensors that a record has."""
    shapes = {}
    for name, adapter in self.adapters.items():
      found = samples.pixels(record, adapter.name)
      if found is None:
        if self.missing == 'error':
          adapter.shape(record)  # Says what is there instead.
        continue
      shapes[name] = found[0].shape[1:3]
    return shapes

  def _cut(self, record: Record, row: Any, rng) -> dict[str, Arrays]:
    ground = self.ground(record)
    corner = self._corner(ground, rng)
    out = self.sensors(record, row, corner, rng)
    out['place'] = {
      'region': self.region(row),
      'landcover': self._landcover(record.get('landcover'), ground, corner),
      'valid': np.asarray(True),
    }
    return out

  def ground(self, record: Record) -> tuple[int, int]:
    """(H, W) of what its sensors see, in pixels of the finest of all.

    Raises:
      ValueError: it has no sensor, or they see different grounds.
    """
    shapes, factors = self._shapes(record), self.geometry.factors
    if not shapes:
      raise ValueError(f'it has none of {list(self.bands)}.')
    grounds = {
      (h * factors[name], w * factors[name]) for name, (h, w) in shapes.items()
    }
    if len(grounds) != 1:
      raise ValueError(
        f'sensors of {shapes} pixels do not cover the same ground, with '
        f'{factors} pixels of the finest per pixel of each.'
      )
    (ground,) = grounds
    return ground

  def sensors(
    self,
    record: Record,
    row: Any,
    corner: tuple[int, int] | None,
    rng: np.random.Generator | None,
    *,
    filter: augment.Filter = 'bilinear',
  ) -> dict[str, Arrays]:
    """{sensor: arrays} of a tile; see `tiles.batches`.

    Args:
      record: arrays of a sample.
      row: of the index.
      corner: (top, left) of the tile in pixels of the finest sensor; None
        resamples the whole ground to a tile.
      rng: for dates; None takes them at even distances.
      filter: how a whole ground is resampled.
    """
    shapes = self._shapes(record)
    cut = lambda name: self._sensor(name, record, row, corner, rng, filter)
    return {
      name: cut(name) if name in shapes else self._absent(name)
      for name in self.bands
    }

  def region(self, row: Any) -> np.ndarray:
    found = region_lib.region_of(row.lonlat, self.regions)
    return np.asarray(found, np.int32)

  def _corner(self, ground: tuple[int, int], rng) -> tuple[int, int]:
    """(top, left) of the tile in pixels of the finest sensor."""
    tile, step = self.geometry.tile, self.geometry.step
    if min(ground) < tile:
      raise ValueError(
        f'a tile of {tile} x {tile} pixels does not fit into {ground[0]} x '
        f'{ground[1]}; lower the tile or pack larger images.'
      )
    places = [(side - tile) // step + 1 for side in ground]
    if rng is None:
      return tuple(((n - 1) // 2) * step for n in places)
    return tuple(int(rng.integers(n)) * step for n in places)

  def _sensor(
    self, name: str, record: Record, row: Any, corner, rng, filter
  ) -> Arrays:
    adapter, wanted = self.adapters[name], self.dates[name]
    pixels, valid = samples.pixels(record, adapter.name)
    chosen = _choose(len(pixels), wanted, rng)
    day = _days(record, adapter.name, row.date, len(pixels))[chosen]
    if rng is not None:
      day = calendar.jitter(day, self.day_jitter, rng)
    window = np.s_[:] if corner is None else self._window(name, corner)
    pixels = pixels[window][chosen]
    valid = None if valid is None else valid[window][chosen]
    rest = {
      what: record[what]
      for part in ('band_valid', 'scene_scale')
      if (what := f'{adapter.name}/{part}') in record
    }
    side = self.geometry.side(name)
    if pixels.shape[1:3] == (side, side):
      out = _measured(adapter, rest, pixels, valid)
    else:
      out = _resampled(adapter, rest, pixels, valid, side, filter)
    seen = out['pixel_valid']
    return {
      'image': _padded(out['image'], wanted),
      'band_valid': out['band_valid'],
      'pixel_valid': _padded(seen, wanted),
      'date_valid': _padded(seen.any((1, 2)), wanted),
      'day': _padded(day, wanted, calendar.UNKNOWN),
      'valid': np.asarray(True),
    }

  def _window(self, name: str, corner: tuple[int, int]):
    """Indices of the tile in the pixels [K, H, W, C] of a sensor."""
    factor, side = self.geometry.factors[name], self.geometry.side(name)
    top, left = (offset // factor for offset in corner)
    return np.s_[:, top : top + side, left : left + side]

  def _absent(self, name: str) -> Arrays:
    t, side, bands = self.dates[name], self.geometry.side(name), self.bands
    return {
      'image': np.zeros((t, side, side, bands[name]), np.float32),
      'band_valid': np.zeros(bands[name], bool),
      'pixel_valid': np.zeros((t, side, side), bool),
      'date_valid': np.zeros(t, bool),
      'day': np.full(t, calendar.UNKNOWN, np.int32),
      'valid': np.asarray(False),
    }

  def _landcover(
    self, codes: np.ndarray | None, ground: tuple[int, int], corner
  ) -> np.ndarray:
    """The most frequent code in each pixel of the coarsest sensor."""
    cells, coarsest = self.geometry.cells, self.geometry.coarsest
    if codes is None:
      return np.full((cells, cells), UNLABELLED, np.uint8)
    rows, columns = (side // coarsest for side in ground)
    # The map may be finer than any sensor: these pixels vote for a cell.
    voters = len(codes) // rows if codes.ndim else 0
    fits = voters and codes.shape == (rows * voters, columns * voters)
    if codes.dtype != np.uint8 or not fits:
      raise ValueError(
        f'landcover is {codes.dtype} {codes.shape}; uint8 is needed, with '
        f'equally many pixels in each of the {rows} x {columns} pixels of the '
        'coarsest sensor.'
      )
    top, left = (offset // coarsest * voters for offset in corner)
    side = cells * voters
    codes = codes[top : top + side, left : left + side]
    known = codes[codes != UNLABELLED]
    if self.classes is not None and known.size and known.max() >= self.classes:
      raise ValueError(
        f'landcover has code {known.max()}, but there are {self.classes} '
        'classes; use the table of classes that belongs to this store.'
      )
    return majority(codes, voters)


def _measured(
  adapter: adapt.Adapter,
  rest: Arrays,
  pixels: np.ndarray,
  valid: np.ndarray | None,
) -> Arrays:
  """What an adapter makes of dates [K, S, S, C], all at once."""
  count, side = pixels.shape[:2]
  # One date below the other: what an adapter does, it does to each pixel.
  column = {f'{adapter.name}/image': pixels.reshape(-1, *pixels.shape[2:])}
  if valid is not None:
    column[f'{adapter.name}/valid'] = valid.reshape(-1, side)
  out = adapter(column | rest, augment.Box(0, 0, count * side, side))
  return out | {
    'image': out['image'].reshape(count, side, side, -1),
    'pixel_valid': out['pixel_valid'].reshape(count, side, side),
  }


def _resampled(
  adapter: adapt.Adapter,
  rest: Arrays,
  pixels: np.ndarray,
  valid: np.ndarray | None,
  side: int,
  filter: augment.Filter,
) -> Arrays:
  """The same of dates [K, H, W, C] of another size, one by one."""
  whole = augment.Box(0, 0, *pixels.shape[1:3])
  parts = []
  for number, image in enumerate(pixels):
    one = {f'{adapter.name}/image': image} | rest
    if valid is not None:
      one[f'{adapter.name}/valid'] = valid[number]
    parts.append(adapter(one, whole, side, filter=filter))
  stacked = {
    name: np.stack([part[name] for part in parts])
    for name in ('image', 'pixel_valid')
  }
  return parts[0] | stacked


def majority(codes: np.ndarray, factor: int) -> np.ndarray:
  """The most frequent code of every block of factor x factor pixels.

  Args:
    codes: u8 [H, W]; 255, unlabelled, has no vote.
    factor: divides H and W.

  Returns:
    u8 [H / factor, W / factor]: the smallest of equally frequent codes, 255
    where nothing is labelled.
  """
  if factor == 1:
    return np.array(codes)
  height, width = codes.shape[0] // factor, codes.shape[1] // factor
  rows, columns = np.arange(codes.shape[0]), np.arange(codes.shape[1])
  block = rows[:, None] // factor * width + columns // factor
  votes = np.bincount(
    (block * 256 + codes).ravel(), minlength=height * width * 256
  ).reshape(height * width, 256)
  votes[:, UNLABELLED] = 0
  winner = np.where(votes.any(1), votes.argmax(1), UNLABELLED)
  return winner.astype(np.uint8).reshape(height, width)


def _days(
  record: Record, name: str, date: str | None, count: int
) -> np.ndarray:
  """Days of the year of a sensor's dates: i32 [count]."""
  days = record.get(f'{name}/days')
  if days is None:
    days = record.get('days')
  if days is None:
    days = np.full(count, calendar.UNKNOWN, np.int32)
    days[0] = calendar.of_date(date)
    return days
  if f'{name}/series' not in record:
    days = days[:1]  # The image is the first date.
  if len(days) != count:
    raise ValueError(f'{name} has {count} dates but {len(days)} days.')
  return calendar.of_series(days, date)


def _choose(count: int, wanted: int, rng) -> np.ndarray:
  """Which of `count` dates are kept, ascending: int [min(count, wanted)]."""
  if count <= wanted:
    return np.arange(count)
  if rng is None:
    return np.round(np.linspace(0, count - 1, wanted)).astype(int)
  return np.sort(rng.choice(count, wanted, replace=False))


def _padded(array: np.ndarray, length: int, fill: int = 0) -> np.ndarray:
  """[n, ...] to [length, ...]."""
  if len(array) == length:
    return array
  out = np.full((length, *array.shape[1:]), fill, array.dtype)
  out[: len(array)] = array
  return out
