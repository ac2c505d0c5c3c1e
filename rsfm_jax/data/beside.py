"""What lies on the grid of an image: its series, a later date, a mask."""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import numpy as np

from rsfm_jax.data import masks
from rsfm_jax.data import raster
from rsfm_jax.data import readers
from rsfm_jax.data import recipe as recipes
from rsfm_jax.data import sources
from rsfm_jax.data import tile_cut


class Beside(NamedTuple):
  """What is cut by the windows of the image.

  Attributes:
    later: the raster of a later date, or none.
    mask: uint8 or float32 [H, W], or None.
    series: the rasters of all dates, where they are one sample.
  """

  later: Sequence[raster.Raster] = ()
  mask: np.ndarray | None = None
  series: Sequence[raster.Raster] = ()


def open_beside(
  scene: sources.Scene,
  frames: Sequence[raster.Raster],
  recipe: recipes.Recipe,
) -> Beside:
  """Opens it; a later GeoTIFF on the grid of the image.

  Args:
    scene: whose files they are.
    frames: its rasters.
    recipe: how they lie in the files.

  Raises:
    ValueError: damaged, or of another size than the image; names the file.
  """
  first, mask = frames[0], None
  if scene.mask:
    mask = masks.read(scene.mask, recipe.mask, frame=scene.frame)
    _check_size(mask.shape, first, scene.mask)
  later: list[raster.Raster] = []
  if scene.after:
    grid = first.grid if readers.is_windowed(scene) else ''
    later = readers.open_scene(
      dataclasses.replace(scene, files=scene.after, grid=grid),
      sensor=recipe.source,
      layout=recipe.layout,
    )
    shape = (later[0].height, later[0].width)
    _check_size(shape, first, scene.after[0][1])
  series = frames if recipe.frames_as == 'series' and len(frames) > 1 else ()
  return Beside(later, mask, series)


def cut_mask(
  mask: np.ndarray, window: raster.Window, recipe: recipes.Recipe
) -> np.ndarray:
  """The window, unlabelled where the chips before it have the pixels already.

  That is at the far borders, where chips move back to end at the edge; chips
  that overlap by a stride keep their labels.
  """
  row, column, height, width = window
  found = mask[row : row + height, column : column + width].copy()
  size = recipe.chip
  if size and recipe.cut == 'tile' and recipe.stride in (None, size):
    unlabelled = tile_cut.UNLABELLED if mask.dtype == np.uint8 else np.nan
    found[: -row % size] = unlabelled
    found[:, : -column % size] = unlabelled
  return found


def _check_size(
  shape: tuple[int, ...], image: raster.Raster, path: str
) -> None:
  if tuple(shape) != (image.height, image.width):
    raise ValueError(
      f'{path} has {shape[0]} x {shape[1]} pixels, its image '
      f'{image.height} x {image.width}; they must lie on each other.'
    )
