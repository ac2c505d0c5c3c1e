"""Embeddings of several sensors of one ground, fused by SkySense V2."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rsfm_jax.cli import encoders
from rsfm_jax.cli import models
from rsfm_jax.cli import predictor as predictors
from rsfm_jax.core import choices
from rsfm_jax.data import dates
from rsfm_jax.models import encoder

Array = jax.Array


def predictor(
  path: str,
  sensors: Sequence[str],
  *,
  stage: str | None = None,
  size: int | None = None,
  which: str = 'auto',
) -> predictors.Predictor:
  """A map of features that see several sensors at once, one date of each.

  A window of which a sensor has no valid pixel lacks that sensor. Dates and
  the prototypes of regions are not used: scenes do not tell the former.

  Args:
    path: of a run or a model folder.
    sensors: of the model.
    stage: 'fused', or '<sensor>/<stage>'; None for 'fused'.
    size: of windows, in pixels of the finest sensor; None for what the model
      was made for.
    which: see `models.open_model`.

  Raises:
    ValueError: a model that does not fuse, no such sensor or stage, or a size
      that is no whole pixels and tokens of all sensors.
  """
  opened = models.open_model(path, which=which)
  spec = opened.model.spec
  if not getattr(spec, 'fusion_depth', 0):
    raise ValueError(
      f'{path}: --scene SENSOR=PATH needs a SkySense V2 with its fusion; this '
      'model maps one sensor, give its scene alone.'
    )
  for name in sensors:
    choices.check(name, opened.sensors, key='--scene')
  sides = {name: encoder.image_size(spec, name) for name in sensors}
  finest = max(sides.values())
  factors = {name: finest // side for name, side in sides.items()}
  size = size or finest
  _check_size(size, factors)
  stage = stage or encoder.FUSED
  known = encoders.Known(opened.params, None)
  encode = encoders.of_tiles(spec)

  def maps(known: encoders.Known, images: Mapping[str, Array]):
    return encode(known, {'sensors': entries(images), 'region': None})

  images = {
    name: jax.ShapeDtypeStruct(
      (1, size // f, size // f, len(opened.sensors[name].bands)), jnp.float32
    )
    for name, f in factors.items()
  }
  made = jax.eval_shape(maps, known, images)
  choices.check(stage, made, key='--stage')
  run = jax.jit(lambda known, x: maps(known, x)[stage].astype(jnp.float32))
  cell = predictors.cell_of(
    size, made[stage].shape[1], what=f'{stage} of {path}'
  )
  for name, factor in factors.items():
    if cell % factor:
      raise ValueError(
        f'{stage} has a token for every {cell} pixels, which are no whole '
        f'pixels of {name}, {factor} of the finest.'
      )
  return predictors.Predictor(
    call=lambda images: run(known, images),
    kind=predictors.EMBEDDING,
    sensors={name: opened.sensors[name] for name in sensors},
    statistics=opened.statistics,
    factors=factors,
    stage=stage,
    size=size,
    cell=cell,
    outputs=made[stage].shape[-1],
    dates=1,
    content_hash=opened.content_hash,
  )


def entries(images: Mapping[str, Array]) -> dict[str, dict[str, Any]]:
  """{sensor: f32[B, H, W, C]} as a batch of tiles of one date.

  What is not valid is zero in the images, so a sensor that is zero all over
  is absent.
  """
  out = {}
  for name, image in images.items():
    rows, height, width, bands = image.shape
    out[name] = {
      'image': image[:, None],
      'band_valid': jnp.ones((rows, bands), bool),
      'pixel_valid': jnp.ones((rows, 1, height, width), bool),
      'date_valid': (image != 0).any((1, 2, 3))[:, None],
      'day': jnp.full((rows, 1), dates.UNKNOWN, jnp.int32),
      'valid': jnp.ones(rows, bool),
    }
  return out


def _check_size(size: int, factors: Mapping[str, int]) -> None:
  for name, factor in factors.items():
    if size % factor:
      raise ValueError(
        f'--size {size} is no whole pixels of {name}, of which each is '
        f'{factor} of the finest.'
      )
