"""The model and the scenes of a map, and the grid that these share."""

import argparse
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rsfm_jax.cli import predictor as predictors
from rsfm_jax.cli import predictor_fused as fused_lib
from rsfm_jax.data import cog
from rsfm_jax.data import raster
from rsfm_jax.data import scenes
from rsfm_jax.models import encoder
from rsfm_jax.sensors import catalogue


class Opened(NamedTuple):
  """Scenes of a map, and the grid that they share.

  Attributes:
    scenes: one, or before and after.
    georeference: of the first.
  """

  scenes: tuple[scenes.Scene, ...]
  georeference: raster.Georeference

  @property
  def shape(self) -> tuple[int, int]:
    return self.scenes[0].shape

  def read(self, window: raster.Window) -> tuple[np.ndarray, np.ndarray]:
    """f32[(2,) H, W, C] and bool[H, W], where all of them are valid."""
    found = [scene.read(window) for scene in self.scenes]
    if len(found) == 1:
      return found[0]
    images, valid = zip(*found)
    return np.stack(images), np.logical_and(*valid)

  def close(self) -> None:
    for scene in self.scenes:
      scene.frame.close()


class Several(NamedTuple):
  """A scene of each of several sensors, on one ground.

  Attributes:
    scenes: {sensor: scene}.
    factors: {sensor: pixels of the finest per pixel, on each axis}.
    georeference: of the finest.
    shape: of the finest.
  """

  scenes: Mapping[str, scenes.Scene]
  factors: Mapping[str, int]
  georeference: raster.Georeference
  shape: tuple[int, int]

  def read(
    self, window: raster.Window
  ) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """{sensor: f32[h, w, C]} and bool[H, W], where any of them is valid."""
    images, seen = {}, np.zeros((window.height, window.width), bool)
    for name, scene in self.scenes.items():
      factor = self.factors[name]
      part = raster.Window(*(side // factor for side in window))
      images[name], valid = scene.read(part)
      seen |= valid.repeat(factor, 0).repeat(factor, 1)
    return images, seen

  def close(self) -> None:
    for scene in self.scenes.values():
      scene.frame.close()


def named(text: str) -> tuple[str, str]:
  """'SENSOR=PATH' as a pair."""
  sensor, equals, path = text.partition('=')
  if not (sensor and equals and path):
    raise argparse.ArgumentTypeError(f'{text!r} is not SENSOR=PATH.')
  return sensor, path


def model(args: argparse.Namespace) -> predictors.Predictor:
  if args.size is not None and args.size < 1:
    raise ValueError(f'--size {args.size} must be at least 1.')
  _check_scenes(args)
  options = {'size': args.size, 'which': args.which}
  if args.kind != predictors.EMBEDDING:
    found = predictors.tuned(args.model, size=args.size)
  elif args.scenes:
    found = fused_lib.predictor(
      args.model, list(dict(args.scenes)), stage=args.stage, **options
    )
  else:
    stage = args.stage or encoder.FINAL
    found = predictors.embedding(
      args.model, sensor=args.sensor, stage=stage, **options
    )
  if (args.after is None) != (found.dates == 1):
    raise ValueError(
      f'--after {args.after}: {args.model} maps {found.kind} from '
      f'{found.dates} scene{"s" if found.dates > 1 else ""}.'
    )
  return found


def _check_scenes(args: argparse.Namespace) -> None:
  if bool(args.scenes) == bool(args.scene):
    raise ValueError('give one SCENE, or --scene SENSOR=PATH for each sensor.')
  if not args.scenes:
    return
  names = [name for name, _ in args.scenes]
  if len(set(names)) < len(names):
    raise ValueError(f'--scene names a sensor twice: {names}.')
  if args.kind != predictors.EMBEDDING:
    raise ValueError(
      f'--scene goes with --as {predictors.EMBEDDING}; the heads of rsfm '
      'finetune are of one sensor, give its scene alone.'
    )
  for key in ('after', 'sensor', 'input', 'bands'):
    if getattr(args, key):
      raise ValueError(f'--{key} does not go with --scene SENSOR=PATH.')


def opened(
  args: argparse.Namespace, model: predictors.Predictor
) -> Opened | Several:
  """Opens scenes on one grid.

  Raises:
    ValueError: no CRS, no ground in common, or bands that do not fit.
  """
  return _several(args, model) if args.scenes else _one(args, model)


def _options(
  args: argparse.Namespace, model: predictors.Predictor, sensor: str
) -> dict[str, Any]:
  """How a scene is read as a sensor of the model."""
  want = model.sensors[sensor]
  return {
    'files': catalogue.get(args.input) if args.input else want,
    'want': want,
    'statistics': model.statistics.get(sensor),
    'bands': args.bands,
    'nodata': args.nodata,
    'missing_bands': args.missing_bands,
    'processing_baseline': args.processing_baseline,
  }


def _placed(
  args: argparse.Namespace, scene: scenes.Scene
) -> raster.Georeference:
  """Where a scene lies, by itself or by --crs."""
  where = scene.frame.georeference
  if args.crs:
    if where.crs:
      raise ValueError(f'--crs {args.crs}: {scene.path} has a CRS itself.')
    where = where._replace(crs=cog.wkt_of(args.crs))
  if not where.crs:
    raise ValueError(
      f'{scene.path} has no CRS, so its map would have no place; give it '
      'by --crs EPSG:CODE.'
    )
  return where


def _one(args: argparse.Namespace, model: predictors.Predictor) -> Opened:
  (sensor,) = model.sensors
  options = _options(args, model, sensor)
  found = [scenes.open_scene(args.scene, **options)]
  try:
    where = _placed(args, found[0])
    if args.after:
      found.append(scenes.open_beside(args.after, found[0], **options))
  except ValueError:
    for scene in found:
      scene.frame.close()
    raise
  return Opened(tuple(found), where)


def _several(args: argparse.Namespace, model: predictors.Predictor) -> Several:
  """Scenes of all sensors; pixels lie on those of the finest.

  Raises:
    ValueError: see `opened`; a scene on another grid, with both grids.
  """
  found: dict[str, scenes.Scene] = {}
  try:
    for sensor, path in args.scenes:
      options = _options(args, model, sensor)
      found[sensor] = scenes.open_scene(path, **options)
    first = found[min(model.factors, key=model.factors.get)]
    where = _placed(args, first)
    for sensor, scene in found.items():
      _check_grid(sensor, scene, first, model.factors[sensor])
  except ValueError:
    for scene in found.values():
      scene.frame.close()
    raise
  return Several(found, model.factors, where, first.shape)


def _check_grid(
  sensor: str, scene: scenes.Scene, first: scenes.Scene, factor: int
) -> None:
  if scene.frame.lies_on(first.frame, factor=factor):
    return
  grid = lambda one: (
    f'{one.shape[0]} x {one.shape[1]} pixels, transform '
    f'{one.frame.georeference.transform}, CRS {one.frame.crs_name or "none"}'
  )
  raise ValueError(
    f'--scene {sensor}={scene.path} does not lie on the grid of {first.path}: '
    f'it has {grid(scene)}; the other has {grid(first)}, and {factor} x '
    f'{factor} of its pixels must make one of {sensor}. Warp it first, for '
    'instance by gdalwarp -t_srs, -te and -ts.'
  )
