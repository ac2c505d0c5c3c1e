"""Labelled tiles: several sensors, their dates, and a target on one ground.

Sensors are cut as in pre-training (`tile_cut`): a window lies on whole pixels
of every one of them and of the target, or it is the whole ground, resampled.
What `labelled` and `labelled_evaluation` yield of them is

  <sensor>  image f32 [B, T, H, W, C], band_valid bool [B, C], pixel_valid bool
            [B, T, H, W], date_valid bool [B, T], day i32 [B, T], valid bool [B]
  place     target [B, ...], region i32 [B] (-1 unknown), valid bool [B]

with `index` where a split is evaluated.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math

import numpy as np

from rsfm_jax.data import augment
from rsfm_jax.data import labelled_cut
from rsfm_jax.data import pipeline
from rsfm_jax.data import store as stores
from rsfm_jax.data import tile_cut
from rsfm_jax.data import tiles
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import matching
from rsfm_jax.sensors import statistics as stats


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledTiles:
  """A store of several sensors, or of series of one, with targets.

  Attributes:
    store: where from.
    sensors: contracts of the model.
    target: see there; of one date.
    statistics: by sensor, what normalises it; complex SAR needs none.
    tile: height and width of a window in pixels of the finest sensor.
    target_size: of a target of pixels, its height and width in a window.
    dates: {sensor: T}, 1 where not named. A longer series gives T of its dates,
      at random in training; a shorter one is filled up.
    factors: {sensor: pixels of the finest per pixel}, 1 where not named.
    regions: how many the model knows; see `regions.region_of`.
    missing_bands: see `matching.match`.
    missing_sensors: 'mask' fills what a sample lacks with zeros.
  """

  store: stores.Store
  sensors: tuple[contract.Sensor, ...]
  target: labelled_cut.Target
  statistics: Mapping[str, stats.Statistics]
  tile: int
  target_size: int
  dates: Mapping[str, int] = dataclasses.field(default_factory=dict)
  factors: Mapping[str, int] = dataclasses.field(default_factory=dict)
  regions: int = 1
  missing_bands: matching.Policy = 'error'
  missing_sensors: pipeline.MissingSensors = 'error'

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(sensor.name for sensor in self.sensors)

  def cutter(self) -> 'Cutter':
    """Raises ValueError for sizes and sensors that do not fit."""
    stream = tiles.TileStream(
      self.sensors,
      sources=[(self.store, None, 1.0)],
      batch_size=1,
      tile=self.tile,
      dates=self.dates,
      statistics=self.statistics,
      regions=self.regions,
      missing_bands=self.missing_bands,
      missing_sensors=self.missing_sensors,
      factors=factors_of(self.names, self.factors),
    )
    cut = tiles.cutter(stream, tiles.geometry(stream), self.store)
    return Cutter(cut, self.target, self.target_size)


@dataclasses.dataclass(frozen=True)
class Cutter:
  """Cuts all sensors of a sample and its target by one window; picklable."""

  tiles: tile_cut.Cutter
  target: labelled_cut.Target
  target_size: int

  @property
  def step(self) -> int:
    """Pixels of the finest sensor between places where a window may lie."""
    tile, step = self.tiles.geometry.tile, self.tiles.geometry.step
    if self.target.kind in labelled_cut.DENSE:
      step = math.lcm(step, tile // math.gcd(tile, self.target_size))
    return step

  def shape(self, sample: labelled_cut.Sample) -> tuple[int, int]:
    """(H, W) of the ground, in pixels of the finest sensor."""
    with self.tiles.naming(sample):
      return self.tiles.ground(sample.arrays)

  def __call__(
    self,
    sample: labelled_cut.Sample,
    box: augment.Box,
    size: int | None,
    *,
    symmetry: int = 0,
    filter: augment.Filter = 'bilinear',
    rng: np.random.Generator | None = None,
  ) -> pipeline.Batch:
    """See `labelled_cut.Cutter`.

    Raises:
      ValueError: a window that is neither one tile nor the whole ground, or
        sensors and a target on other grounds; by the sample's id.
    """
    ground = self.shape(sample)
    with self.tiles.naming(sample):
      corner = self._corner(box, ground, size)
      out = self.tiles.sensors(
        sample.arrays, sample, corner, rng, filter=filter
      )
      target = self._target(sample, ground, corner, symmetry)
    for entry in out.values():
      for name in ('image', 'pixel_valid'):
        entry[name] = _turned(entry[name], symmetry)
    place = {'target': target, 'region': self.tiles.region(sample)}
    return out | {labelled_cut.PLACE: place}

  def _corner(
    self, box: augment.Box, ground: tuple[int, int], size: int | None
  ) -> tuple[int, int] | None:
    """Of a window of one tile; None where it is the whole ground."""
    tile = self.tiles.geometry.tile
    if (box.height, box.width) == (tile, tile) and size in (None, tile):
      return int(box.top), int(box.left)
    if box == (0, 0, *ground) and size == tile:
      return None
    raise ValueError(
      f'a window of {box.height} x {box.width} of {ground} pixels is no tile '
      f'of {tile}: with data.sensors, data.window.form is scale, of (1, 1), or '
      'whole.'
    )

  def _target(
    self,
    sample: labelled_cut.Sample,
    ground: tuple[int, int],
    corner: tuple[int, int] | None,
    symmetry: int,
  ) -> np.ndarray:
    kind, size = self.target.kind, self.target_size
    if kind not in labelled_cut.DENSE:
      return np.asarray(sample.label, labelled_cut.DTYPES[kind])
    ((name, found),) = labelled_cut.arrays_of(sample, self.target).items()
    if corner is None:
      whole = augment.Box(0, 0, *found.shape)
      found = augment.resize(found, whole, size, filter='nearest')
    else:
      tile = self.tiles.geometry.tile
      if tuple(tile * side for side in found.shape) != tuple(
        size * side for side in ground
      ):
        raise ValueError(
          f'{name} has {found.shape} pixels on a ground of {ground}: '
          f'data.target_size={size} of data.window.size={tile} does not fit.'
        )
      top, left = (offset * size // tile for offset in corner)
      found = found[top : top + size, left : left + size]
    found = augment.apply_symmetry(found, symmetry)
    return np.ascontiguousarray(found, labelled_cut.DTYPES[kind])


def factors_of(
  names: Sequence[str], factors: Mapping[str, int]
) -> dict[str, int]:
  """1 for sensors that are not named."""
  return dict.fromkeys(names, 1) | dict(factors)


def shapes(
  sensors: Sequence[contract.Sensor],
  target: labelled_cut.Target,
  *,
  batch_size: int,
  tile: int,
  target_size: int,
  dates: Mapping[str, int],
  factors: Mapping[str, int],
) -> tiles.Shapes:
  """{part: {array: (shape, dtype)}} of a global batch, no store needed."""
  names = [sensor.name for sensor in sensors]
  out = tiles.shapes(
    sensors,
    batch_size=batch_size,
    tile=tile,
    dates=dates,
    factors=factors_of(names, factors),
  )
  place = out[labelled_cut.PLACE]
  dtype = np.dtype(labelled_cut.DTYPES[target.kind])
  place['target'] = ((batch_size, *target.shape(target_size)), dtype)
  del place['landcover']
  return out


def _turned(dates: np.ndarray, symmetry: int) -> np.ndarray:
  """A symmetry of every date of [T, S, S, ...]."""
  if not symmetry:
    return dates
  return np.stack([augment.apply_symmetry(date, symmetry) for date in dates])
