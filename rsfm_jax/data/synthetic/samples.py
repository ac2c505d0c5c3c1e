"""Samples as they go into a store: arrays by name, and fields."""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.data.synthetic import changes
from rsfm_jax.data.synthetic import coarsen
from rsfm_jax.data.synthetic import ground as ground_lib
from rsfm_jax.data.synthetic import materials
from rsfm_jax.data.synthetic import objects
from rsfm_jax.data.synthetic import optical
from rsfm_jax.data.synthetic import sar
from rsfm_jax.data.synthetic import scene as scene_lib
from rsfm_jax.data.synthetic import season
from rsfm_jax.data.synthetic import sequences
from rsfm_jax.sensors import contract

Kind = contract.Kind
Sensor = contract.Sensor

# What the codes of `landcover` mean, in order.
LANDCOVER = tuple(cover.name.lower() for cover in materials.LandCover)

_RADAR = (Kind.SAR_COMPLEX, Kind.SAR_AMPLITUDE)
_LIGHT = (Kind.OPTICAL, Kind.MULTISPECTRAL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """What to synthesize.

  Attributes:
    sensors: contracts to render, all on one grid.
    size: height and width in pixels, at least 32.
    seed: of the whole set.
    dates: images of a year; above 1 adds `<sensor>/series`.
    pair: 'change' adds the same place later, with a change mask.
    frames: images of a sequence of moving objects; 0 for none.
    frame_seconds: time between two frames.
    cloudiness: share of clouds, on average, over the dates of a series.
    objects: bright halls and tanks of 8 to 16 pixels that are added to every
      scene, as far as there is room.
    coarse: sensors of larger pixels, `{name: pixels of the grid per pixel, on
      each axis}`. Where any is given, only these have a series; the others
      see the first date, as a costly image of high resolution does.
  """

  sensors: tuple[Sensor, ...]
  size: int = 64
  seed: int = 0
  dates: int = 1
  pair: str = 'none'
  frames: int = 0
  frame_seconds: float = 0.2
  cloudiness: float = 0.0
  objects: int = 0
  coarse: Mapping[str, int] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    limits = {
      'size': (self.size, 32, 4096),
      'seed': (self.seed, 0, 2**63),
      'dates': (self.dates, 1, 365),
      'frames': (self.frames, 0, 1000),
      'objects': (self.objects, 0, 64),
      'cloudiness': (self.cloudiness, 0.0, 0.9),
    }
    for name, (value, low, high) in limits.items():
      if not low <= value <= high:
        raise ValueError(f'{name}={value} is outside {low}..{high}.')
    choices.check(self.pair, ('none', 'change'), key='pair')
    if not self.sensors:
      raise ValueError('sensors is empty; name at least one.')
    coarsen.check(self.coarse, self.sensors, size=self.size)


class Sample(NamedTuple):
  """Arrays of a record, and the fields of its row in the index."""

  arrays: dict[str, np.ndarray]
  fields: dict[str, Any]


def make(options: Options, index: int) -> Sample:
  """Sample `index`: a function of (options, index), and of no other sample.

  Arrays: `<sensor>/image` [H, W, C], `<complex sensor>/scene_scale` f32 [],
  `landcover` u8 [H, W], `height` f32 [H, W] (visible surface, metres), `boxes`
  f32 [n, 7]; of several dates `<sensor>/series` [K, H, W, C] (its first is
  `image`), `days` i32 [K] (from 1 January of the first date's year on) and
  `clouds` u8 [K, H, W] (percent; at the largest pixels); of a pair
  `<sensor>/after`, `landcover_after`, `height_after`, `boxes_after`, `change`
  u8 [H, W]; of a sequence `<optical sensor>/sequence` [T, H, W, C] and
  `tracks` f32 [T, n, 7].
  """
  scene = scene_lib.compose(
    seed=options.seed,
    index=index,
    size=options.size,
    scattered=options.objects,
  )
  ground = scene.ground
  first = _moment(scene, ground, options, scene.day, 'date/0')
  arrays = {f'{name}/image': image for name, image in first.images.items()}
  arrays |= {f'{name}/scene_scale': s for name, s in first.scales.items()}
  arrays |= _labels(ground)
  if options.dates > 1:
    arrays |= _series(scene, options, first)
  if options.pair == 'change':
    arrays |= _pair(scene, options)
  if options.frames:
    arrays |= _sequence(scene, options)
  fields = {
    'id': id_of(options, index),
    'source': 'synthetic',
    'split': scene.split,
    'label': scene.label,
    'lonlat': [round(scene.longitude, 4), round(scene.latitude, 4)],
    'date': scene_lib.date_of(scene.day),
    'licence': 'CC0-1.0',
  }
  return Sample(arrays, fields)


def make_many(options: Options, indices: Sequence[int]) -> list[Sample]:
  """Several samples; the unit of work of a process."""
  return [make(options, i) for i in indices]


def id_of(options: Options, index: int) -> str:
  """The id of sample `index`."""
  return f'synthetic-{options.seed}-{index:07d}'


class _Images(NamedTuple):
  images: dict[str, np.ndarray]  # By sensor.
  scales: dict[str, np.ndarray]  # RMS amplitude of complex sensors.
  cloud: np.ndarray  # [H, W] opacity.


def _moment(
  scene: scene_lib.Scene,
  ground: ground_lib.Ground,
  options: Options,
  day: int,
  name: str,
  sensors: Collection[str] | None = None,
) -> _Images:
  """The named sensors (None: all) at one time; `name` names its randomness."""
  cloudy = scene.stream('clouds', name).random()
  seen = optical.view(
    ground,
    scene.stream('weather', name),
    latitude=scene.latitude,
    day=day % season.DAYS,
    # Uniform between none and twice the average.
    cloudiness=min(2 * options.cloudiness * cloudy, 0.95),
    tint=scene.tint,
  )
  images, scales, slc = {}, {}, None
  for sensor in options.sensors:
    if sensors is not None and sensor.name not in sensors:
      continue
    if sensor.kind in _LIGHT:
      rng = scene.stream('camera', sensor.name, name)
      images[sensor.name] = optical.render(ground, seen, sensor, rng)
    elif sensor.kind in _RADAR:
      if slc is None:  # One acquisition serves all radar products.
        slc = sar.scatter(ground, scene.stream('radar', name), green=seen.green)
      if sensor.kind is Kind.SAR_COMPLEX:
        images[sensor.name] = sar.to_channels(slc, sensor)
        scales[sensor.name] = sar.scene_scale(slc)
      else:
        images[sensor.name] = sar.to_amplitude(slc, sensor)
    else:
      images[sensor.name] = ground.terrain[..., None]
    if factor := options.coarse.get(sensor.name):
      images[sensor.name] = coarsen.image(images[sensor.name], sensor, factor)
  return _Images(images, scales, seen.cloud)


def _labels(
  ground: ground_lib.Ground, suffix: str = ''
) -> dict[str, np.ndarray]:
  height = ground_lib.surface(ground, ground_lib.texture(ground))
  boxes = objects.pad(ground.boxes, objects.capacity(ground.size))
  return {
    f'landcover{suffix}': ground.landcover,
    f'height{suffix}': height,
    f'boxes{suffix}': boxes,
  }


def _series(
  scene: scene_lib.Scene, options: Options, first: _Images
) -> dict[str, np.ndarray]:
  """Dates spread over the year that follows the first one."""
  days = scene.day + np.arange(options.dates) * season.DAYS // options.dates
  moments = [first] + [
    _moment(
      scene,
      scene.ground,
      options,
      int(day),
      f'date/{k}',
      options.coarse or None,
    )
    for k, day in enumerate(days[1:], start=1)
  ]
  arrays = {
    f'{name}/series': np.stack([moment.images[name] for moment in moments])
    for name in options.coarse or first.images
  }
  clouds = np.stack([moment.cloud for moment in moments])
  if factor := max(options.coarse.values(), default=0):
    clouds = np.stack([coarsen.means(cloud, factor) for cloud in clouds])
  arrays['days'] = days.astype(np.int32)
  arrays['clouds'] = np.rint(100 * clouds).astype(np.uint8)
  return arrays


def _pair(scene: scene_lib.Scene, options: Options) -> dict[str, np.ndarray]:
  """The place after a change, at another time of the year."""
  rng = scene.stream('change')
  after = changes.change(scene.ground, rng)
  day = scene.day + int(rng.integers(20, 700))
  later = _moment(scene, after, options, day, 'after')
  arrays = {f'{name}/after': image for name, image in later.images.items()}
  arrays['change'] = changes.mask(scene.ground, after)
  return arrays | _labels(after, '_after')


def _sequence(
  scene: scene_lib.Scene, options: Options
) -> dict[str, np.ndarray]:
  """Frames of the optical sensors on the first date, with tracks."""
  frames = [
    sequences.frame(scene.ground, k * options.frame_seconds)
    for k in range(options.frames)
  ]
  # One name of randomness for all frames: the light and the camera stay.
  optical_sensors = [s.name for s in options.sensors if s.kind in _LIGHT]
  images = [
    _moment(scene, ground, options, scene.day, 'date/0', optical_sensors).images
    for ground, _ in frames
  ]
  arrays = {
    f'{name}/sequence': np.stack([image[name] for image in images])
    for name in images[0]
  }
  arrays['tracks'] = sequences.tracks(frames, objects.capacity(options.size))
  return arrays
