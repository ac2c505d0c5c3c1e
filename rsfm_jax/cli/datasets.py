"""A labelled store in a config, and what models see of it."""

import dataclasses
from typing import Any

from rsfm_jax.cli import frozen
from rsfm_jax.cli import measure
from rsfm_jax.cli import measure_tiles
from rsfm_jax.cli import models
from rsfm_jax.data import store as stores


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A labelled store seen by one sensor or several.

  Attributes:
    store: folder, with splits train, val and test.
    sensor: of the models, one image a sample.
    sensors: instead, one sensor or several with their dates (SkySense V2).
    fit: see `measure.Target`.
    size: of crop or resize.
    missing_bands: policy.
    dates: of `sensors`.
    missing_sensors: of `sensors`.
  """

  store: str
  sensor: str = 'opt'
  sensors: tuple[str, ...] = ()
  fit: str = 'native'
  size: int | None = None
  missing_bands: str = 'error'
  dates: int = measure_tiles.DATES
  missing_sensors: str = 'error'

  @property
  def names(self) -> tuple[str, ...]:
    return self.sensors or (self.sensor,)


def target(
  data: Dataset,
  store: stores.Store,
  opened: models.Opened | None,
  *,
  batch_size: int,
) -> frozen.Target:
  """The data as a model sees it: of `measure_tiles` where it has `sensors`.

  Raises:
    ValueError: the data does not fit the model or the store.
  """
  options: dict[str, Any] = {
    'fit': data.fit,
    'size': data.size,
    'missing_bands': data.missing_bands,
    'batch_size': batch_size,
  }
  if not data.sensors:
    return measure.target(store, data.sensor, opened, **options)
  options |= {'dates': data.dates, 'missing_sensors': data.missing_sensors}
  return measure_tiles.target(store, data.sensors, opened, **options)
