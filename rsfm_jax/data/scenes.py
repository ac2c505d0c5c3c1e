"""Windows of GeoTIFF scenes of any size, as a model sees them."""

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

import numpy as np

from rsfm_jax.data import geotiff
from rsfm_jax.data import raster
from rsfm_jax.data import readers
from rsfm_jax.data import sources
from rsfm_jax.sensors import checks
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import matching
from rsfm_jax.sensors import preprocess
from rsfm_jax.sensors import statistics as stats


@dataclasses.dataclass(frozen=True)
class Scene:
  """An open scene beside what a model takes; for one thread at a time.

  Attributes:
    path: for messages.
    frame: the file.
    recipe: from its bands to those of the model.
    processing_baseline: of Sentinel-2 DN, or None.
    scale: RMS amplitude of complex SAR, or None.
  """

  path: str
  frame: geotiff.GeoTiff
  recipe: preprocess.Recipe
  processing_baseline: str | None = None
  scale: np.ndarray | None = None

  @property
  def shape(self) -> tuple[int, int]:
    return self.frame.height, self.frame.width

  def read(self, window: raster.Window) -> tuple[np.ndarray, np.ndarray]:
    """Normalised pixels of a window, which may reach beyond the scene.

    Returns:
      f32[H, W, C] of the model's bands and bool[H, W]; what is not valid,
      beyond the scene too, is zero, the mean of the training data.

    Raises:
      ValueError: damaged, or values that cannot be in the contract's unit.
    """
    height = min(window.height, self.frame.height - window.row)
    width = min(window.width, self.frame.width - window.column)
    inside = window._replace(height=height, width=width)
    try:
      image, valid = self._inside(inside)
    except ValueError as error:
      if self.path in str(error):
        raise
      raise ValueError(f'{self.path}: {error}') from error
    below, right = window.height - height, window.width - width
    if below or right:
      image = np.pad(image, ((0, below), (0, right), (0, 0)))
      valid = np.pad(valid, ((0, below), (0, right)))
    return image, valid

  def _inside(self, window: raster.Window) -> tuple[np.ndarray, np.ndarray]:
    have = self.recipe.have
    image, valid = self.frame.read(window, have.band_names)
    checks.check_range(image, have, valid=None if valid.all() else valid)
    # Before any arithmetic: NaN survives a product with zero.
    image = np.where(valid[..., None], image, image.dtype.type(0))
    image, band_valid = preprocess.measured(
      image,
      have=have,
      want=self.recipe.want,
      found=self.recipe.found,
      statistics=self.recipe.statistics,
      scene_scale=self.scale,
      processing_baseline=self.processing_baseline,
    )
    keep = valid[..., None] & band_valid
    return np.where(keep, image, np.float32(0)).astype(np.float32), valid


def open_scene(
  path: str,
  *,
  files: contract.Sensor,
  want: contract.Sensor,
  statistics: stats.Statistics | None,
  bands: Sequence[str] = (),
  nodata: float | None = None,
  missing_bands: matching.Policy = 'error',
  processing_baseline: str | None = None,
  grid: str = '',
) -> Scene:
  """Opens a GeoTIFF and matches its bands, by name, to those of a model.

  Args:
    path: of the scene.
    files: contract of what the file stores.
    want: contract of the model.
    statistics: of `want`; complex SAR has none.
    bands: of the file in its order; see `readers.Layout`.
    nodata: see `readers.Layout`.
    missing_bands: see `matching.match`.
    processing_baseline: see `units.convert`.
    grid: a raster to whose grid the scene is warped.

  Raises:
    ValueError: no GeoTIFF, bands that are not those of `files`, or that lack
      some of `want`.
  """
  if pathlib.PurePath(path).suffix.lower() not in sources.TIFF:
    raise ValueError(
      f'{path} is no GeoTIFF (allowed: {", ".join(sorted(sources.TIFF))}).'
    )
  scene = sources.Scene(id=path, files=(('', path),), grid=grid)
  layout = readers.Layout(bands=tuple(bands), nodata=nodata)
  (frame,) = readers.open_scene(scene, sensor=files, layout=layout)
  try:
    # What is nodata is in the mask of the reader.
    have = dataclasses.replace(files.select(frame.bands), nodata=None)
    recipe = preprocess.recipe(
      have, want, statistics=statistics, missing_bands=missing_bands
    )
    if recipe.statistics is None:
      raise ValueError(
        f'{want.name} is complex SAR, whose scenes are not mapped yet.'
      )
  except ValueError as error:
    frame.close()
    raise ValueError(f'{path}: {error}') from error
  return Scene(path, frame, recipe, processing_baseline)


def open_beside(path: str, first: Scene, **options: Any) -> Scene:
  """Opens another scene of the ground of `first`, on its grid.

  Args:
    path: of the scene.
    first: an open one.
    **options: of `open_scene`.

  Raises:
    ValueError: see `open_scene`; no CRS, no ground in common, or pixels that
      `first` has and nobody could tell from data, for lack of a nodata value.
  """
  scene = open_scene(path, **options)
  here, there = (_box(one) for one in (scene, first))
  same = (
    scene.shape == first.shape
    and scene.frame.georeference == first.frame.georeference
  )
  fault = ''
  if here is None or there is None:
    if not same:
      lacks = scene if here is None else first
      fault = f'{lacks.path} has no CRS by which to align it with the other'
  elif (here[0] >= there[1]).any() or (there[0] >= here[1]).any():
    fault = f'{path} and {first.path} have no ground in common'
  elif not same and scene.frame.nodata is None:
    fault = (
      f'{path} lies on another grid than {first.path} and has no nodata '
      'value for where it does not reach; give --nodata'
    )
  if same and not fault:
    return scene
  scene.frame.close()
  if fault:
    raise ValueError(f'{fault}.')
  return open_scene(path, **options, grid=first.frame.grid)


def _box(scene: Scene) -> np.ndarray | None:
  """(west, south), (east, north) in degrees: f64[2, 2]; None without a CRS."""
  (place,) = scene.frame.places([raster.Window(0, 0, *scene.shape)])
  if place.corners is None:
    return None
  corners = np.array(place.corners)
  return np.stack([corners.min(0), corners.max(0)])
