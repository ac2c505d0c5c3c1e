"""Places: scenes of the same ground, of several sensors and dates, stacked.

A place becomes the stack of the images that its scenes would make alone, as
`tiles` reads it: `image` and, where a sensor has several dates, `series`, with
the `days` of all of them. Nothing is registered here: who lists scenes as one
place says that their pixels lie on each other, and what the files tell of
their places is held against that.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import re
from typing import Any, NamedTuple

import numpy as np

from rsfm_jax.data import cut
from rsfm_jax.data import dates as calendar
from rsfm_jax.data import netcdf
from rsfm_jax.data import readers
from rsfm_jax.data import recipe as recipes
from rsfm_jax.data import sources
from rsfm_jax.data import splits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place(sources.Scene):
  """Scenes of one place, unopened; `files` are those of all of them.

  Attributes:
    layers: the scenes of every layer of the recipe.
  """

  layers: tuple[tuple[sources.Scene, ...], ...]


class _Frame(NamedTuple):
  """One sensor at one date.

  Attributes:
    time: ISO date or second, '' where unknown.
    image: [H, W, C], absent bands zero.
    valid: bool [H, W].
    bands: bool [C].
    fields: of the index: crs, bounds, lonlat.
    path: for messages.
  """

  time: str
  image: np.ndarray
  valid: np.ndarray
  bands: np.ndarray
  fields: dict[str, Any]
  path: str


def scenes(source: str, recipe: recipes.Places) -> list[Place]:
  """The places of a source, sorted by name; a place may lack a layer.

  Raises:
    ValueError: a layer without scenes, or a scene that names no place.
  """
  found: dict[str, list[list[sources.Scene]]] = {}
  for number, layer in enumerate(recipe.layers):
    for scene in sources.scenes(
      source, sensor=layer.recipe.source, pattern=layer.pattern
    ):
      match = re.search(layer.place, scene.id)
      if not match:
        raise ValueError(
          f'{scene.path}: place={layer.place!r} is not in {scene.id!r}.'
        )
      name = '_'.join(group for group in match.groups() if group)
      place = found.setdefault(name, [[] for _ in recipe.layers])
      place[number].append(scene)
  return [_place(name, layers) for name, layers in sorted(found.items())]


def _place(name: str, layers: Sequence[Sequence[sources.Scene]]) -> Place:
  every = [scene for layer in layers for scene in layer]
  sizes = [scene.size for scene in every]
  return Place(
    id=name,
    files=tuple(file for scene in every for file in scene.files),
    size=None if None in sizes else sum(sizes),
    layers=tuple(map(tuple, layers)),
  )


def cut_place(
  place: Place, recipe: recipes.Places, *, source: str, counts: cut.Counts
) -> Iterator[cut.Sample]:
  """Reads all scenes of a place; yields its sample, or nothing if it is empty.

  Dates with more nodata than their layer allows, and those that lack the bands
  of a further layer, are left out and counted as nodata. The date of the
  sample is the first of all sensors, from whose year on days count.

  Args:
    place: what to read.
    recipe: how.
    source: noted with the sample.
    counts: is added to.

  Raises:
    ValueError: what `cut.cut` raises, or scenes that do not lie on each other.
  """
  sensors = _read(place, recipe, counts)
  if not sensors:
    return
  every = [frame for frames in sensors.values() for frame in frames]
  _check_ground(every)
  first = min((frame.time[:10] for frame in every if frame.time), default=None)
  arrays, bands = {}, {}
  for name, frames in sensors.items():
    here = np.all([frame.bands for frame in frames], 0)
    arrays |= _stacked(name, frames, here, first)
    if not here.all():
      names = np.array(recipe.sensors[name].band_names)
      bands[name] = names[here].tolist()
  where = next((f.fields for f in every if f.fields['lonlat']), {})
  licences = (layer.recipe.licence for layer in recipe.layers)
  fields = {
    'id': place.id,
    'source': source,
    'split': splits.assign(recipe.split, scene=place.id),
    'date': first,
    'licence': next(filter(None, licences), None),
    'bands': bands or None,
  }
  yield cut.Sample(arrays, fields | where)


def _read(
  place: Place, recipe: recipes.Places, counts: cut.Counts
) -> dict[str, list[_Frame]]:
  """{sensor: its dates in order, unknown ones last}, of the sensors it has."""
  sensors: dict[str, list[_Frame]] = {}
  for layer, found in zip(recipe.layers, place.layers, strict=True):
    grid = _grid(place, recipe, layer)
    frames = [
      frame for scene in found for frame in _frames(scene, layer, grid, counts)
    ]
    have = sensors.get(layer.recipe.target.name, [])
    if layer.adds == 'bands':
      frames = _joined(have, frames, counts)
    else:
      frames = have + frames
    sensors[layer.recipe.target.name] = frames
  return {
    name: sorted(frames, key=lambda frame: (not frame.time, frame.time))
    for name, frames in sensors.items()
    if frames
  }


def _grid(place: Place, recipe: recipes.Places, layer: recipes.Layer) -> str:
  """The raster that a layer is warped to, '' for none."""
  if layer.grid == 'own':
    return ''
  for other, found in zip(recipe.layers, place.layers, strict=True):
    for scene in filter(readers.is_windowed, found):
      (frame,) = readers.open_scene(
        scene, sensor=other.recipe.source, layout=other.recipe.layout
      )
      frame.close()
      return frame.grid
  return ''


def _frames(
  scene: sources.Scene, layer: recipes.Layer, grid: str, counts: cut.Counts
) -> Iterator[_Frame]:
  """The images of one scene, those that are worth keeping."""
  times, where = [], {}
  if scene.path.lower().endswith(sources.HDF5):
    where = netcdf.place(scene.path)._asdict()
    if layer.times:
      times = netcdf.times(scene.path, layer.times)
  target = layer.recipe.target
  scene = dataclasses.replace(scene, grid=grid)
  for arrays, fields in cut.cut(scene, layer.recipe, counts=counts):
    # Frames of a file are numbered in the ids of their samples.
    number = int(fields['id'][len(scene.id) + 1 :] or 0)
    if layer.times and number >= len(times):
      raise ValueError(
        f'{scene.path}: {layer.times} has {len(times)} times, but there is a '
        f'frame {number}.'
      )
    image = arrays[f'{target.name}/image']
    valid = arrays.get(f'{target.name}/valid')
    if valid is None:
      valid = np.ones(image.shape[:2], bool)
    present = (fields['bands'] or {}).get(target.name, target.band_names)
    told = {k: fields[k] or where.get(k) for k in ('crs', 'bounds', 'lonlat')}
    yield _Frame(
      times[number] if layer.times else scene.date or '',
      _repeated(image, layer.repeat),
      _repeated(valid, layer.repeat),
      np.array([band in present for band in target.band_names]),
      told,
      scene.path,
    )


def _repeated(array: np.ndarray, times: int) -> np.ndarray:
  """[H, W, ...] to [times H, times W, ...]."""
  return array.repeat(times, 0).repeat(times, 1)


def _joined(
  frames: Sequence[_Frame], further: Sequence[_Frame], counts: cut.Counts
) -> list[_Frame]:
  """Frames that have gained the bands of the further ones of equal time."""
  by_time = {frame.time: frame for frame in further}
  if len(by_time) < len(further) or '' in by_time:
    raise ValueError(
      f'{further[0].path}: bands can only be added to frames that have each '
      'their own time.'
    )
  joined = []
  for frame in frames:
    other = by_time.get(frame.time)
    if other is None:
      counts.nodata += 1
      continue
    if frame.image.shape != other.image.shape:
      raise ValueError(
        f'{other.path} is {other.image.shape[:2]}, {frame.path} '
        f'{frame.image.shape[:2]} pixels; set repeat.'
      )
    new = other.bands & ~frame.bands
    joined.append(
      frame._replace(
        image=np.where(new, other.image, frame.image),
        valid=frame.valid & other.valid,
        bands=frame.bands | new,
      )
    )
  return joined


def _check_ground(frames: Sequence[_Frame]) -> None:
  """Raises ValueError unless all lie on each other, as far as files tell."""
  finest = max(frames, key=lambda frame: frame.image.shape[0])
  size = finest.image.shape[:2]
  for frame in frames:
    shape = frame.image.shape[:2]
    factor = size[0] // shape[0]
    if (shape[0] * factor, shape[1] * factor) != size:
      raise ValueError(
        f'{frame.path} is {shape}, {finest.path} {size} pixels: not whole '
        'pixels of each other, so not the same ground.'
      )
  known = [frame for frame in frames if frame.fields['bounds']]
  for frame in known:
    one, other = known[0].fields, frame.fields
    left, bottom, right, top = other['bounds']
    height, width = frame.image.shape[:2]
    pixel = max((right - left) / width, (top - bottom) / height)
    apart = np.abs(np.subtract(one['bounds'], other['bounds'])).max()
    if one['crs'] != other['crs'] or apart > pixel:
      raise ValueError(
        f'{frame.path} lies at {other["bounds"]} of {other["crs"]}, '
        f'{known[0].path} at {one["bounds"]} of {one["crs"]}: not the same '
        "ground to a pixel; grid='first' warps GeoTIFFs."
      )


def _stacked(
  name: str, frames: Sequence[_Frame], here: np.ndarray, first: str | None
) -> dict[str, np.ndarray]:
  """The arrays of a sensor, zero in bands that are not `here`: bool [C]."""
  shapes = {frame.image.shape for frame in frames}
  if len(shapes) > 1:
    raise ValueError(
      f'{frames[0].path}: the dates of {name} differ in shape: '
      f'{sorted(shapes)}.'
    )
  series = np.stack([frame.image for frame in frames])
  if not here.all():
    series = np.where(here, series, series.dtype.type(0))
  valid = np.stack([frame.valid for frame in frames])
  days = [calendar.since(frame.time, first) for frame in frames]
  arrays = {
    f'{name}/image': series[0],
    f'{name}/days': np.array(days, np.int32),
  }
  if not valid[0].all():
    arrays[f'{name}/valid'] = valid[0]
  if len(frames) > 1:
    arrays[f'{name}/series'] = series
    if not valid.all():
      arrays[f'{name}/series_valid'] = valid
  return arrays
