"""Every change of unit, in one place; NumPy and JAX, channels last.

Quantised values (DN, uint8) become physical by the sensor's scale and offset:
reflectance for optical sensors, amplitude for SAR, metres for elevation. Radar
values then move between complex, power, amplitude and dB through power.
"""

from collections.abc import Callable
import dataclasses
import re

import jax
import numpy as np

from rsfm_jax.sensors import contract

Array = np.ndarray | jax.Array
Kind = contract.Kind
Sensor = contract.Sensor
Units = contract.Units

# Power below this is written as this in dB: -100 dB, far under any radar's
# noise floor. Quantised sources use half a step instead, as zero means "less".
POWER_FLOOR = 1e-10

# Sentinel-2 products of processing baseline 04.00 and later (25 January 2022)
# store DN = 10000 reflectance + 1000 (RADIO_ADD_OFFSET = BOA_ADD_OFFSET).
SENTINEL2_OFFSET = -1000.0
SENTINEL2_OFFSET_SINCE = (4, 0)

_QUANTISED = (Units.DN, Units.UINT8)
_PHYSICAL = {
  Kind.OPTICAL: Units.REFLECTANCE,
  Kind.MULTISPECTRAL: Units.REFLECTANCE,
  Kind.SAR_COMPLEX: Units.COMPLEX,
  Kind.SAR_AMPLITUDE: Units.LINEAR_AMPLITUDE,
  Kind.ELEVATION: Units.METRES,
}
_RADAR = (Units.LINEAR_POWER, Units.LINEAR_AMPLITUDE, Units.DB)


def convert(
  image: Array,
  *,
  source: Sensor,
  target: Units,
  processing_baseline: str | None = None,
  offset_applied: bool = False,
) -> Array:
  """Pixel values of `source` in the unit `target`.

  Nodata is not looked at: mask it before, a fill value becomes a plain number.

  Args:
    image: [..., C], the bands of `source` in order, in `source.units`.
    source: the contract of `image`; its scale and offset are used.
    target: unit wanted. uint8 is rounded and clipped, DN is not rounded.
    processing_baseline: Sentinel-2 DN only, e.g. '05.09' or 'N0509'; from
      '04.00' on the stored offset is removed. None: taken as harmonised.
    offset_applied: the provider has already removed the baseline offset.

  Returns:
    float32 [..., C] (uint8 for UINT8); complex to anything else pairs I with
    Q, so [..., C/2], one channel per polarisation.

  Raises:
    ValueError: there is no such conversion, or the baseline is unreadable.
  """
  target = Units(target)
  if image.shape[-1] != len(source.bands):
    raise ValueError(
      f'image of shape {image.shape} has {image.shape[-1]} channels last; '
      f'{source.name} has {len(source.bands)}: {source.band_names}.'
    )
  steps = _steps(source, target)
  if image.dtype.kind == 'c':
    raise ValueError(f'{source.name}: split complex values into I and Q bands.')
  # Before the subtraction: unsigned DN would wrap around.
  image = image.astype(np.float32)
  if processing_baseline is not None:
    offset = baseline_offset(source, processing_baseline)
    image = image if offset_applied else image + offset
  for step in steps:
    image = step(image)
  return image


def converted(source: Sensor, target: Units) -> Sensor:
  """The contract of what `convert` returns: same bands, other unit.

  Raises:
    ValueError: there is no such conversion.
  """
  target = Units(target)
  _steps(source, target)
  if source.units == target:
    return source
  bands = source.bands
  if source.kind is Kind.SAR_COMPLEX and target is not Units.COMPLEX:
    bands = tuple(
      dataclasses.replace(band, name=band.polarisation) for band in bands[::2]
    )
  kind = source.kind
  if kind is Kind.SAR_COMPLEX and target is not Units.COMPLEX:
    kind = Kind.SAR_AMPLITUDE
  quantised = target in _QUANTISED
  return dataclasses.replace(
    source,
    kind=kind,
    bands=tuple(dataclasses.replace(band, units=target) for band in bands),
    scale=source.scale if quantised else 1.0,
    offset=source.offset if quantised else 0.0,
    nodata=None,
  )


def baseline_offset(source: Sensor, processing_baseline: str) -> float:
  """DN to add to a Sentinel-2 image of this processing baseline.

  Raises:
    ValueError: not Sentinel-2 DN, or the baseline is unreadable.
  """
  if not source.name.startswith('sentinel2') or source.units != Units.DN:
    raise ValueError(
      f'processing_baseline={processing_baseline!r} is for Sentinel-2 DN; '
      f'{source.name} is in {source.units}.'
    )
  parts = re.fullmatch(r'N?(\d\d)\.?(\d\d)', processing_baseline)
  if parts is None:
    raise ValueError(
      f'processing_baseline={processing_baseline!r} is not like "04.00" or '
      '"N0400".'
    )
  version = int(parts[1]), int(parts[2])
  return SENTINEL2_OFFSET if version >= SENTINEL2_OFFSET_SINCE else 0.0


def _steps(source: Sensor, target: Units) -> list[Callable[[Array], Array]]:
  """The conversions to run in turn; empty when nothing has to change."""
  unit, steps = source.units, []
  if unit == target:
    return steps
  physical = _PHYSICAL[source.kind]
  stored = unit in _QUANTISED or target in _QUANTISED
  if stored and physical == Units.REFLECTANCE and source.scale == 1.0:
    raise ValueError(
      f'{source.name}: {unit} to {target} needs a calibration, but the '
      'sensor has scale 1; display values have no physical unit.'
    )
  floor = POWER_FLOOR
  if unit in _QUANTISED and target not in _QUANTISED:
    steps.append(lambda x: x * source.scale + source.offset)
    floor = (source.scale / 2) ** 2
    unit = physical
  end = physical if target in _QUANTISED else target
  if unit != end:
    if unit not in (*_RADAR, Units.COMPLEX) or end not in _RADAR:
      raise ValueError(
        f'{source.name} ({source.kind}): there is no conversion from '
        f'{source.units} to {target}.'
      )
    steps += [_to_power(source, unit), _from_power(end, floor)]
  if target in _QUANTISED:
    if source.units in _QUANTISED:
      raise ValueError(
        f'{source.name}: {source.units} to {target} is ambiguous; one sensor '
        'has one scale.'
      )
    steps.append(lambda x: (x - source.offset) / source.scale)
    if target == Units.UINT8:
      steps.append(lambda x: x.round().clip(0, 255).astype(np.uint8))
  return steps


def _to_power(source: Sensor, unit: Units) -> Callable[[Array], Array]:
  if unit == Units.LINEAR_POWER:
    return lambda x: x
  if unit == Units.LINEAR_AMPLITUDE:
    return lambda x: x * x
  if unit == Units.DB:
    return lambda x: 10.0 ** (x / 10.0)
  pairs = list(zip(source.bands[::2], source.bands[1::2], strict=False))
  if len(source.bands) % 2 or any(
    not (i.name.endswith('_I') and q.name == i.name[:-2] + '_Q')
    for i, q in pairs
  ):
    raise ValueError(
      f'{source.name}: complex bands must be pairs X_I, X_Q; got '
      f'{source.band_names}.'
    )
  return lambda x: x[..., ::2] ** 2 + x[..., 1::2] ** 2


def _from_power(unit: Units, floor: float) -> Callable[[Array], Array]:
  if unit == Units.LINEAR_POWER:
    return lambda x: x
  if unit == Units.LINEAR_AMPLITUDE:
    return lambda x: x**0.5

  def decibel(power: Array) -> Array:
    xp = power.__array_namespace__()
    return 10.0 * xp.log10(power.clip(floor))

  return decibel
