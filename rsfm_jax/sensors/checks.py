"""Values that cannot be what the contract says they are."""

from typing import NamedTuple

import numpy as np

from rsfm_jax.sensors import contract

Sensor = contract.Sensor
Units = contract.Units

# Sun glint, fire and bright roofs do exceed the usual range; not whole images.
RARE = 0.01
_ENOUGH = 64  # Pixels from which "no negative value at all" is no accident.


class Limits(NamedTuple):
  """Usual range, which 99 % of pixels keep, and the range all must keep."""

  low: float
  high: float
  least: float
  most: float


LIMITS = {
  # Harmonised dark pixels fall to -0.1; clouds and snow rise above 1.
  Units.REFLECTANCE: Limits(-0.2, 2.0, -1.0, 10.0),
  Units.DN: Limits(-2000, 65535, -2000, 65535),
  Units.UINT8: Limits(0, 255, 0, 255),
  # From the floor of units.py up to uncalibrated 16 bit amplitudes.
  Units.DB: Limits(-101, 100, -101, 100),
  Units.LINEAR_POWER: Limits(0, np.inf, 0, np.inf),
  Units.LINEAR_AMPLITUDE: Limits(0, np.inf, 0, np.inf),
  Units.COMPLEX: Limits(-np.inf, np.inf, -np.inf, np.inf),
  # Dead Sea shore to Everest, with a margin.
  Units.METRES: Limits(-500, 9000, -500, 9000),
  Units.KELVIN: Limits(150, 400, 100, 1500),
}


def check_range(
  image: np.ndarray, sensor: Sensor, *, valid: np.ndarray | None = None
) -> None:
  """Refuses an image whose values cannot be in the sensor's unit.

  Args:
    image: [..., C], the bands of `sensor` in order.
    sensor: the contract that `image` claims to keep.
    valid: bool [...], False = not looked at. None: all but `sensor.nodata`.

  Raises:
    ValueError: the message names the sensor, the band, the range of the
      values, the unit, what it allows and which unit is more likely.
  """
  image = np.asarray(image)
  if image.shape[-1:] != (len(sensor.bands),):
    raise ValueError(
      f'{sensor.name}: image of shape {image.shape} does not have '
      f'{len(sensor.bands)} channels last: {sensor.band_names}.'
    )
  for c, band in enumerate(sensor.bands):
    values = image[..., c]
    if valid is not None:
      values = values[valid]
    elif sensor.nodata is not None:
      values = values[values != sensor.nodata]
    if values.size:
      _check_band(values.reshape(-1), sensor.name, band)


def _check_band(values: np.ndarray, name: str, band: contract.Band) -> None:
  low, high = values.min(), values.max()
  if not (np.isfinite(low) and np.isfinite(high)):
    share = 1 - np.isfinite(values).mean()
    raise ValueError(
      f'{name} {band.name}: {share:.1%} of the valid pixels are not finite; '
      'mark them in the valid mask.'
    )
  limits = LIMITS[band.units]
  wrong = low < limits.least or high > limits.most
  if not wrong and (low < limits.low or high > limits.high):
    outside = (values < limits.low) | (values > limits.high)
    wrong = outside.mean() > RARE
  allowed = f'{limits.low:g} to {limits.high:g}'
  reason = '' if wrong else _contradiction(values, band)
  if wrong or reason:
    raise ValueError(
      f'{name} {band.name}: values {low:g} to {high:g} cannot be '
      f'{band.units} (allowed {reason or allowed}). {_hint(values, band)}'
    )


def _contradiction(values: np.ndarray, band: contract.Band) -> str:
  """What the unit demands that in-range values break, or ''."""
  low, high = values.min(), values.max()
  many = values.size >= _ENOUGH
  small = low >= -1 and high <= 2
  if band.units in (Units.DN, Units.UINT8) and small and not _whole(values):
    return 'whole steps, not fractions between 0 and 1'
  if band.units is Units.DB and band.polarisation and many and low >= 0:
    return 'calibrated backscatter, which is not above 0 dB everywhere'
  if band.units is Units.COMPLEX and many and low >= 0 and high > 0:
    return 'both signs; real and imaginary parts have them'
  return ''


def _hint(values: np.ndarray, band: contract.Band) -> str:
  """A sentence on what the values look like."""
  low, high = float(values.min()), float(values.max())
  if low in (-9999.0, -32768.0) or abs(low) > 1e30 or high > 1e30:
    return 'The extreme looks like a nodata fill: mark it in the valid mask.'
  if band.units in (Units.DB, Units.COMPLEX):
    likely = [Units.LINEAR_POWER, Units.LINEAR_AMPLITUDE]
  elif low < -1 and low > -100 and high < 60:
    likely = [Units.DB]
  elif low >= -0.2 and high <= 2:
    likely = [Units.REFLECTANCE]
  elif _whole(values) and 0 <= low and high <= 255:
    likely = [Units.UINT8]
  else:
    likely = [Units.DN]
  likely = [str(unit) for unit in likely if unit != band.units]
  if not likely:
    return 'Is this the right sensor?'
  return f'They look like {" or ".join(likely)}: see units.convert.'


def _whole(values: np.ndarray) -> bool:
  return values.dtype.kind in 'biu' or bool((values == np.round(values)).all())
