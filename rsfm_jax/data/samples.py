"""What one sample of a store may hold: its arrays and its row of the index.

Arrays by name:

  <sensor>/image        [H, W, C], bands and units of the sensor's contract;
                        an absent band is zero and missing in `bands`
  <sensor>/valid        bool [H, W], False = nodata; optional
  <sensor>/series       [K, H, W, C], all dates, of which `image` is the first;
                        optional
  <sensor>/series_valid bool [K, H, W]; without it `valid` holds on all dates
  <sensor>/band_valid   bool [C], written from `bands`; optional
  <sensor>/scene_scale  float32 [], RMS amplitude of the scene that a complex
                        SAR chip was cut from; complex SAR only, required
  anything else         landcover u8 [H, W], height f32 [H, W], boxes, ...
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.sensors import contract

COLUMNS = (
  'id',
  'source',
  'split',
  'label',
  'crs',
  'bounds',
  'lonlat',
  'date',
  'licence',
  'bands',
)
_PER_SENSOR = ('image', 'valid', 'series', 'series_valid', 'scene_scale')


def row(
  fields: Mapping[str, Any],
  *,
  classes: Sequence[str] | None,
  taken: Collection[str],
) -> dict[str, Any]:
  """The index row of a sample, as JSON values.

  Args:
    fields: `id` and any other of `COLUMNS`; `label` may be a class name.
    classes: names that `label` counts.
    taken: ids in use.

  Raises:
    ValueError: an unknown field or class, or an id that is not new.
  """
  for name in fields:
    choices.check(name, COLUMNS, key='sample field')
  values = dict.fromkeys(COLUMNS) | {k: _plain(v) for k, v in fields.items()}
  if not isinstance(values['id'], str) or values['id'] in taken:
    raise ValueError(f'sample id={values["id"]!r} is not a new string.')
  if isinstance(values['label'], str):
    classes = list(classes or ())
    key = f'label of sample {values["id"]!r}'
    values['label'] = classes.index(
      choices.check(values['label'], classes, key=key)
    )
  return values


def check(
  arrays: Mapping[str, np.ndarray],
  sensors: Mapping[str, contract.Sensor],
  *,
  bands: Mapping[str, Sequence[str]] | None,
  where: str,
) -> list[str]:
  """Holds a sample against the contracts; returns the sensors it has.

  Args:
    arrays: see the module docstring.
    sensors: contracts by name.
    bands: `{sensor: bands present}` where some are absent.
    where: names the sample, for messages.

  Raises:
    ValueError: an array does not fit, or there is no image at all.
  """
  for name in arrays:
    sensor, _, what = name.partition('/')
    if what in _PER_SENSOR:
      choices.check(sensor, sensors, key=f'{where}: sensor')
  present = [name for name in sensors if f'{name}/image' in arrays]
  if not present:
    raise ValueError(f'{where} has no image of {list(sensors)}.')
  for name in bands or ():
    choices.check(name, present, key=f'{where}: bands, sensor')
  for name in present:
    _check_image(arrays, sensors[name], name, where)
    for band in (bands or {}).get(name, ()):
      allowed = sensors[name].band_names
      choices.check(band, allowed, key=f'{where}: bands of {name}')
  return present


def _check_image(
  arrays: Mapping[str, np.ndarray],
  sensor: contract.Sensor,
  name: str,
  where: str,
) -> None:
  image, valid = arrays[f'{name}/image'], arrays.get(f'{name}/valid')
  if image.ndim != 3 or image.shape[-1] != len(sensor.bands):
    raise ValueError(
      f'{where}: {name}/image has shape {image.shape}; the contract has '
      f'{len(sensor.bands)} bands {sensor.band_names}, last.'
    )
  if image.dtype.kind not in 'uif' or not image.size:
    raise ValueError(
      f'{where}: {name}/image is {image.dtype} {image.shape}; give pixels '
      'of a real type (I and Q as bands).'
    )
  if valid is not None and (
    valid.dtype != bool or valid.shape != image.shape[:2]
  ):
    raise ValueError(
      f'{where}: {name}/valid is {valid.dtype} {valid.shape}, not bool '
      f'{image.shape[:2]}.'
    )
  _check_series(arrays, image, name, where)
  if sensor.kind == contract.Kind.SAR_COMPLEX:
    scale = arrays.get(f'{name}/scene_scale')
    if scale is None or scale.shape or not 0 < scale < np.inf:
      raise ValueError(
        f'{where}: {name}/scene_scale={scale} must be the RMS amplitude of '
        'the scene, a positive scalar.'
      )


def _check_series(
  arrays: Mapping[str, np.ndarray], image: np.ndarray, name: str, where: str
) -> None:
  series = arrays.get(f'{name}/series')
  if series is not None and (
    series.ndim != 4
    or series.shape[1:] != image.shape
    or series.dtype.kind not in 'uif'
    or not series.size
  ):
    raise ValueError(
      f'{where}: {name}/series is {series.dtype} {series.shape}; give at least '
      f'one date of a real type, [K, {", ".join(map(str, image.shape))}].'
    )
  valid = arrays.get(f'{name}/series_valid')
  dates = None if series is None else series.shape[:3]
  if valid is not None and (valid.dtype != bool or valid.shape != dates):
    raise ValueError(
      f'{where}: {name}/series_valid is {valid.dtype} {valid.shape}, not bool '
      f'{dates or "beside a series"}.'
    )


def pixels(
  arrays: Mapping[str, np.ndarray], name: str
) -> tuple[np.ndarray, np.ndarray | None] | None:
  """All dates of a sensor: [K, H, W, C], and bool [K, H, W] or None for all.

  A sensor without a series has its image as the one date; None where the
  sample lacks the sensor.
  """
  found, valid = arrays.get(f'{name}/series'), arrays.get(f'{name}/valid')
  if found is None:
    image = arrays.get(f'{name}/image')
    if image is None:
      return None
    found = image[None]
  valid = arrays.get(f'{name}/series_valid', valid)
  if valid is not None:
    valid = np.broadcast_to(valid, found.shape[:3])
  return found, valid


def _plain(value: Any) -> Any:
  """NumPy scalars and arrays, tuples and mappings as JSON values."""
  if isinstance(value, np.ndarray | np.generic):
    return value.tolist()
  if isinstance(value, Mapping):
    return {str(k): _plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(v) for v in value]
  return value
