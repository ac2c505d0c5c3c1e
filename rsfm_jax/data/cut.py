"""Cuts one scene into samples in the units of a contract."""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import numpy as np

from rsfm_jax.data import annotations
from rsfm_jax.data import augment
from rsfm_jax.data import beside
from rsfm_jax.data import boxes as boxes_lib
from rsfm_jax.data import chips
from rsfm_jax.data import dates as calendar
from rsfm_jax.data import raster
from rsfm_jax.data import readers
from rsfm_jax.data import recipe as recipes
from rsfm_jax.data import sources
from rsfm_jax.data import splits
from rsfm_jax.sensors import checks
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import matching
from rsfm_jax.sensors import units

_SCALE_ROWS = 512  # Rows at a time for the RMS amplitude of a scene.


class Sample(NamedTuple):
  """Arguments of `StoreWriter.add`."""

  arrays: dict[str, np.ndarray]
  fields: dict[str, Any]


@dataclasses.dataclass
class Counts:
  """What became of (a part of) a scene, beside its samples."""

  nodata: int = 0  # Chips skipped for their share of nodata.
  border: int = 0  # Chips skipped between blocks of two splits.
  pixel_bytes: int = 0  # Read from the scene, as its data type.

  def add(self, other: 'Counts') -> None:
    self.nodata += other.nodata
    self.border += other.border
    self.pixel_bytes += other.pixel_bytes


def cut(
  scene: sources.Scene,
  recipe: recipes.Recipe,
  *,
  source: str = '',
  part: tuple[int, int] = (0, 1),
  counts: Counts,
) -> Iterator[Sample]:
  """Reads a scene strip by strip and yields its chips.

  A later date and a mask are cut by the same windows as the image. Where the
  last chips of a row or column move back over others, the mask is unlabelled
  in the later one, so that every pixel counts once; chips that overlap on
  purpose, by a stride, keep it.

  Args:
    scene: what to read.
    recipe: how to cut and convert it.
    source: noted with every sample.
    part: (i, n) takes the i-th of n shares of the strips, so that several
      readers can work on one large scene.
    counts: is added to.

  Raises:
    ValueError: damaged, other bands than the contract's, values that cannot
      be in its unit, smaller than a chip, objects outside the image; a later
      date or a mask of another size. The message names the file. What was
      yielded before is then no good either.
  """
  frames = readers.open_scene(scene, sensor=recipe.source, layout=recipe.layout)
  around = beside.Beside()
  try:
    around = beside.open_beside(scene, frames, recipe)
    for view in _views(scene, frames, recipe, source, around):
      yield from _cut_view(view, counts, part)
  except ValueError as error:
    if scene.path in str(error):
      raise
    raise ValueError(f'{scene.path}: {error}') from error
  finally:
    for frame in (*frames, *around.later):
      frame.close()


class _View(NamedTuple):
  """Bands of a frame that make one sample per window."""

  scene: sources.Scene
  frame: raster.Raster
  recipe: recipes.Recipe
  bands: tuple[str, ...]
  id: str
  source: str
  around: beside.Beside


def _views(scene, frames, recipe, source, around) -> Iterator[_View]:
  if around.series:
    frames = [dataclasses.replace(frames[0], name='')]
  for frame in frames:
    base = f'{scene.id}/{frame.name}' if frame.name else scene.id
    if recipe.bands_as == 'channels':
      yield _View(scene, frame, recipe, frame.bands, base, source, around)
      continue
    for band in frame.bands:
      name = f'{base}/{band}'
      yield _View(scene, frame, recipe, (band,), name, source, around)


def _cut_view(view: _View, counts: Counts, part) -> Iterator[Sample]:
  recipe, frame = view.recipe, view.frame
  windows = chips.windows(
    frame.height,
    frame.width,
    size=recipe.chip,
    stride=recipe.stride,
    cut=recipe.cut,
  )
  strips = [list(g) for _, g in itertools.groupby(windows, lambda w: w.row)]
  i, n = part
  mine = strips[i * len(strips) // n : (i + 1) * len(strips) // n]
  alone = len(windows) == 1
  scale = None
  for strip in mine:
    named = [
      (view.id if alone else f'{view.id}/{w.row}_{w.column}', w) for w in strip
    ]
    if scale is None and recipe.target.kind == contract.Kind.SAR_COMPLEX:
      scale = _scene_scale(view)
    yield from _cut_strip(view, named, scale, counts)


def _cut_strip(view: _View, named, scale, counts: Counts) -> Iterator[Sample]:
  """Chips of one row: one read, one conversion, one transform of places."""
  recipe = view.recipe
  windows = [window for _, window in named]
  strip = _read_strip(view, windows, counts)
  places, boxes = view.frame.places(windows), _boxes(view)
  for (id_, window), place in zip(named, places, strict=True):
    start = window.column - windows[0].column
    columns = slice(start, start + window.width)
    valid = strip.valid[:, columns]
    share = chips.nodata_share(valid)
    if share > recipe.max_nodata or share == 1.0:
      counts.nodata += 1
      continue
    split = splits.assign(
      recipe.split,
      scene=view.scene.id,
      given=view.scene.split,
      corners=place.corners,
    )
    if split is None:
      counts.border += 1
      continue
    name = recipe.target.name
    image = np.ascontiguousarray(strip.image[:, columns])
    arrays = {f'{name}/image': image}
    if share:
      arrays[f'{name}/valid'] = np.ascontiguousarray(valid)
    if boxes is not None:
      arrays['boxes'] = boxes_lib.cut(
        boxes,
        augment.Box(window.row, window.column, window.height, window.width),
        None,
        oriented=True,  # Whole, also where a chip cuts them.
      )
    arrays |= _cut_beside(view, window, counts)
    if scale is not None:
      arrays[f'{name}/scene_scale'] = scale
    bands = {name: strip.present} if strip.present else None
    fields = _fields(view, place) | {'id': id_, 'split': split, 'bands': bands}
    yield Sample(arrays, fields)


def _boxes(view: _View) -> np.ndarray | None:
  """Objects of the scene, [n, 6]; those outside of it are an error."""
  if not view.scene.boxes:
    return None
  found = annotations.read(view.scene.boxes, view.recipe.boxes)
  size = (view.frame.width, view.frame.height)
  outside = (found[:, :2] < 0) | (found[:, :2] >= size)
  if outside.any():
    first = found[outside.any(1)][0, :2].tolist()
    raise ValueError(
      f'{view.scene.boxes} has an object at {first}, outside the image of '
      f'{size[0]} x {size[1]} pixels.'
    )
  return found


def _cut_beside(
  view: _View, window: raster.Window, counts: Counts
) -> dict[str, np.ndarray]:
  """The window of what lies beside the image."""
  name, out = view.recipe.target.name, {}
  series = [
    _read_strip(view._replace(frame=frame), [window], counts)
    for frame in view.around.series
  ]
  if series:
    out[f'{name}/series'] = np.stack([date.image for date in series])
    valid = np.stack([date.valid for date in series])
    if not valid.all():
      out[f'{name}/series_valid'] = valid
    if view.scene.dates:
      first = view.scene.date
      days = [calendar.since(date, first) for date in view.scene.dates]
      out[f'{name}/days'] = np.array(days, np.int32)
  for later in view.around.later:
    image, valid, _ = _read_strip(view._replace(frame=later), [window], counts)
    out[f'{name}/after'] = np.ascontiguousarray(image)
    if not valid.all():
      out[f'{name}/after_valid'] = np.ascontiguousarray(valid)
  if view.around.mask is not None:
    out[view.recipe.mask.name] = beside.cut_mask(
      view.around.mask, window, view.recipe
    )
  return out


def _fields(view: _View, place: raster.Place) -> dict[str, Any]:
  return {
    'source': view.source,
    'label': view.frame.label or view.scene.label,
    'crs': place.crs,
    'bounds': place.bounds,
    'lonlat': place.lonlat,
    'date': view.scene.date,
    'licence': view.recipe.licence or None,
  }


class _Strip(NamedTuple):
  """image [H, W, C], valid bool [H, W], bands present if some are absent."""

  image: np.ndarray
  valid: np.ndarray
  present: tuple[str, ...] | None


def _read_strip(
  view: _View, windows: Sequence[raster.Window], counts: Counts
) -> _Strip:
  """Windows of one row in one read, in the units and bands of the store."""
  recipe, first = view.recipe, windows[0]
  width = windows[-1].column + windows[-1].width - first.column
  area = raster.Window(first.row, first.column, first.height, width)
  plan = _plan(recipe, view.bands)
  image, valid = view.frame.read(area, plan.read.band_names)
  counts.pixel_bytes += image.nbytes
  # Without a mask the check makes no copies of the bands.
  mask = None if valid.all() else valid
  checks.check_range(image, plan.read, valid=mask)
  if plan.convert:
    image = units.convert(
      image,
      source=plan.read,
      target=recipe.target.units,
      processing_baseline=recipe.processing_baseline or None,
    )
    checks.check_range(image, plan.have, valid=mask)
  if image.dtype.kind == 'f' and mask is not None:
    image = np.where(valid[..., None], image, 0)  # No NaN into the store.
  image, band_valid = matching.apply(plan.match, image)
  present = tuple(np.array(plan.match.bands)[band_valid].tolist())
  absent = len(present) < len(plan.match.bands)
  return _Strip(_stored(image, recipe), valid, present if absent else None)


class _Plan(NamedTuple):
  """What to read and how to bring it into the store's contract."""

  read: contract.Sensor  # Bands of the file that the store needs.
  have: contract.Sensor  # The same after the conversion.
  match: matching.Match
  convert: bool


@functools.lru_cache(maxsize=64)
def _plan(recipe: recipes.Recipe, bands: tuple[str, ...]) -> _Plan:
  """Reads no band that the store does not want."""
  target = recipe.target

  def contracts(names):
    # Nodata is in the mask of the reader, who may know better than the sensor.
    read = dataclasses.replace(recipe.source.select(names), nodata=None)
    have = units.converted(read, target.units)
    if recipe.bands_as == 'samples':
      have = dataclasses.replace(
        have,
        bands=(dataclasses.replace(have.bands[0], name=target.band_names[0]),),
      )
    return read, have, matching.match(have, target, policy=recipe.missing_bands)

  _, _, match = contracts(bands)
  used = tuple(bands[i] for i in sorted(set(match.indices)) if i >= 0)
  read, have, match = contracts(used)
  convert = read.units != target.units or bool(recipe.processing_baseline)
  return _Plan(read, have, match, convert)


def _stored(image: np.ndarray, recipe: recipes.Recipe) -> np.ndarray:
  """The data type of a store: uint8, uint16 DN, else float32."""
  unit = recipe.target.units
  dtype = np.dtype(np.float32)
  if unit == contract.Units.UINT8:
    dtype = np.dtype(np.uint8)
  elif unit == contract.Units.DN:
    # Removing the baseline offset leaves dark pixels below zero.
    dtype = np.dtype(np.int32 if recipe.processing_baseline else np.uint16)
  if image.dtype == dtype:
    return image
  if dtype.kind in 'ui' and image.size:
    image = np.rint(image)
    limits = np.iinfo(dtype)
    if image.min() < limits.min or image.max() > limits.max:
      raise ValueError(
        f'values {image.min()} to {image.max()} do not fit {dtype} of {unit}.'
      )
  return image.astype(dtype)


def _scene_scale(view: _View) -> np.ndarray:
  """RMS amplitude over the valid pixels and polarisations of the scene."""
  bands = _plan(view.recipe, view.bands).read.band_names
  total, count = 0.0, 0
  for area in _strips(view.frame):
    image, valid = view.frame.read(area, bands)
    power = np.square(image[valid], dtype=np.float64)
    total += power.sum()
    count += power.size // 2  # I and Q together are one amplitude.
  if total <= 0:
    raise ValueError('the scene is empty: every pixel is zero or not finite.')
  return np.float32(np.sqrt(total / count)).reshape(())


def _strips(frame: raster.Raster) -> Iterator[raster.Window]:
  for row in range(0, frame.height, _SCALE_ROWS):
    height = min(_SCALE_ROWS, frame.height - row)
    yield raster.Window(row, 0, height, frame.width)
