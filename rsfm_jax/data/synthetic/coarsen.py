"""Images of larger pixels: what a sensor sees is averaged over blocks.

A large pixel receives the mean of the light, or of the radar power, of the
small ones under it; so the mean is taken in a unit that is linear in that, and
the result is in the sensor's own unit again.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import units

Kind = contract.Kind
Sensor = contract.Sensor
Units = contract.Units

_LINEAR = (Units.REFLECTANCE, Units.DN, Units.METRES, Units.KELVIN)


def check(
  factors: Mapping[str, int], sensors: Sequence[Sensor], *, size: int
) -> None:
  """Raises ValueError for factors that cannot be.

  Args:
    factors: {sensor: pixels of the grid per pixel of the sensor, per axis}.
    sensors: contracts that are rendered.
    size: height and width of the grid.
  """
  by_name = {sensor.name: sensor for sensor in sensors}
  for name, factor in factors.items():
    choices.check(name, by_name, key='coarse')
    if not 1 <= factor <= size or size % factor:
      raise ValueError(
        f'coarse: {name}={factor} must divide the size of {size} pixels.'
      )
    sensor = by_name[name]
    if sensor.kind is Kind.SAR_COMPLEX or sensor.units == Units.UINT8:
      raise ValueError(
        f'coarse: {name} is in {sensor.units}; means of complex or display '
        'values have no meaning. Choose a sensor in reflectance, dn, db or '
        'linear units.'
      )


def image(image: np.ndarray, sensor: Sensor, factor: int) -> np.ndarray:
  """Means over blocks of factor x factor pixels.

  Args:
    image: [H, W, C] in the sensor's unit.
    sensor: its contract.
    factor: divides H and W.

  Returns:
    [H / factor, W / factor, C] in the same unit and dtype: optical images and
    heights by the mean of their values, radar images by the mean of power.
  """
  if factor == 1:
    return image
  if sensor.units in _LINEAR:
    return _stored(means(image, factor), image.dtype)
  power = units.convert(image, source=sensor, target=Units.LINEAR_POWER)
  return units.convert(
    means(power, factor),
    source=units.converted(sensor, Units.LINEAR_POWER),
    target=sensor.units,
  ).astype(image.dtype)


def means(array: np.ndarray, factor: int) -> np.ndarray:
  """[H, W, ...] to [H / factor, W / factor, ...], float32."""
  height, width, *rest = array.shape
  blocks = array.reshape(
    height // factor, factor, width // factor, factor, *rest
  )
  return blocks.mean((1, 3), dtype=np.float32)


def _stored(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
  return (np.rint(values) if dtype.kind in 'ui' else values).astype(dtype)
