"""Stored pixels to what a model takes: in training, evaluation and export.

NumPy and JAX alike, channels last: the loading pipeline runs it on the host,
an exported graph holds it.
"""

from typing import NamedTuple

import jax
import numpy as np

from rsfm_jax.sensors import contract
from rsfm_jax.sensors import matching
from rsfm_jax.sensors import statistics as stats
from rsfm_jax.sensors import units

Array = np.ndarray | jax.Array


class Recipe(NamedTuple):
  """How pixels of one contract become inputs of another.

  Attributes:
    have: contract of the pixels, cut down to the bands that are used.
    want: contract of the model.
    columns: channels of the stored image that make up `have`.
    found: how converted `have` becomes `want`.
    statistics: of `want`, None for complex SAR.
  """

  have: contract.Sensor
  want: contract.Sensor
  columns: tuple[int, ...]
  found: matching.Match
  statistics: stats.Statistics | None


def recipe(
  have: contract.Sensor,
  want: contract.Sensor,
  *,
  statistics: stats.Statistics | None,
  missing_bands: matching.Policy = 'error',
) -> Recipe:
  """Matches two contracts, band by name.

  Raises:
    ValueError: bands or units that do not match, or statistics missing or of
      another number of bands.
  """
  found = _match(have, want, missing_bands)
  columns = tuple(range(len(have.bands)))
  if have.kind != contract.Kind.SAR_COMPLEX:
    # Bands that nobody asked for are not worth resampling.
    columns = tuple(sorted({i for i in found.indices if i >= 0}))
    have = have.select(tuple(have.band_names[i] for i in columns))
    found = _match(have, want, missing_bands)
  if want.kind == contract.Kind.SAR_COMPLEX:
    statistics = None
  elif statistics is None or len(statistics.mean) != len(want.bands):
    raise ValueError(
      f'{want.name}: statistics of its {len(want.bands)} bands are needed '
      f'to normalise, got {statistics}.'
    )
  return Recipe(have, want, columns, found, statistics)


def measured(
  image: Array,
  *,
  have: contract.Sensor,
  want: contract.Sensor,
  found: matching.Match,
  statistics: stats.Statistics | None,
  scene_scale: Array | None = None,
  processing_baseline: str | None = None,
) -> tuple[Array, np.ndarray]:
  """Stored values to normalised values of the wanted bands.

  Args:
    image: [..., C], the bands of `have`; no NaN where it counts.
    have: of a `Recipe`, like `want`, `found` and `statistics`.
    want: see `have`.
    found: see `have`.
    statistics: see `have`; None divides by the scene's RMS amplitude.
    scene_scale: that amplitude, broadcasting against [..., C].
    processing_baseline: see `units.convert`.

  Returns:
    float32 [..., C_want] and bool [C_want], bands that hold values.
  """
  if have.units != want.units or processing_baseline is not None:
    image = units.convert(
      image,
      source=have,
      target=want.units,
      processing_baseline=processing_baseline,
    )
  image, band_valid = matching.apply(found, image)
  if statistics is None:
    return image.astype(np.float32) / scene_scale, band_valid
  return stats.normalise(image, statistics), band_valid


def pixel_valid(image: Array, sensor: contract.Sensor) -> Array:
  """Pixels that were seen, as `rsfm data pack` finds them: bool [...].

  A real pixel is invalid when any band is nodata or not finite, a complex one
  when all its parts are exactly zero or any is not finite.

  Args:
    image: [..., C], the bands of `sensor`, as they are stored.
    sensor: the contract of `image`; its nodata is looked for.
  """
  xp = image.__array_namespace__()
  valid = xp.isfinite(image).all(axis=-1)
  if sensor.kind is contract.Kind.SAR_COMPLEX:
    return valid & (image != 0).any(axis=-1)
  if sensor.nodata is not None and not np.isnan(sensor.nodata):
    valid = valid & (image != sensor.nodata).all(axis=-1)
  return valid


def _match(
  have: contract.Sensor, want: contract.Sensor, policy: matching.Policy
) -> matching.Match:
  return matching.match(units.converted(have, want.units), want, policy=policy)
