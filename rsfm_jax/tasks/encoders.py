"""Encoders of a task: a model's forward pass as features of a batch.

Both are `encode(params, {sensor: entry}, *, mode, key, prototypes)`; entries
are those of the labelled batches of `data`. The gates of a MAPEX-style model
have their noise in fine-tuning too (NOT FOUND, DEFAULT).
"""

from collections.abc import Mapping
from typing import Any

import jax

from rsfm_jax.models import encoder
from rsfm_jax.nn import batch_norm
from rsfm_jax.tasks import contract

Array = jax.Array
Tree = Any


def single(spec: Any, *, engine: str = 'dropless', **options: Any):
  """An `Encode` of one image, or one of two dates, of one sensor.

  Args:
    spec: of the model.
    engine: of the experts; a dropped token is a hole in a dense prediction.
    **options: of `encoder.images`.
  """
  apply = encoder.images(spec, engine=engine, **options)

  def encode(
    params: Tree,
    entries: Mapping[str, contract.Entry],
    *,
    mode: batch_norm.Mode,
    key: Array | None = None,
    prototypes: Array | None = None,
  ) -> contract.Features:
    del prototypes  # They know the fused features of several sensors alone.
    ((sensor, entry),) = entries.items()
    image = entry['image']
    maps = apply(params, {sensor: image}, mode=mode, key=key)
    return contract.Features(maps, image.shape[-3:-1])

  return encode


def tiles(
  spec: Any,
  *,
  size: tuple[int, int],
  engine: str = 'dropless',
  **options: Any,
):
  """An `Encode` of a series of one sensor, or of several sensors.

  Args:
    spec: of a SkySense V2.
    size: (H, W) of the target in pixels, which no sensor need have.
    engine: see `single`.
    **options: of `encoder.tiles`.
  """
  apply = encoder.tiles(spec, engine=engine, **options)

  def encode(
    params: Tree,
    entries: Mapping[str, contract.Entry],
    *,
    mode: batch_norm.Mode,
    key: Array | None = None,
    prototypes: Array | None = None,
  ) -> contract.Features:
    maps = apply(params, entries, mode=mode, key=key, prototypes=prototypes)
    return contract.Features(maps, size)

  return encode
