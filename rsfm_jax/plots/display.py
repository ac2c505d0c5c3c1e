"""Pixels of any sensor as something an eye can compare."""

from collections.abc import Sequence
import colorsys
from typing import NamedTuple

import numpy as np

from rsfm_jax.sensors import contract

# Total power may be zero over shadow or masked pixels; 60 dB below the
# brightest pixel is blacker than any display shows.
FLOOR_DB = 60.0


class Limits(NamedTuple):
  """What maps to black and to white."""

  low: float
  high: float


def power_db(image: np.ndarray) -> np.ndarray:
  """Total power of I/Q channels in dB: [..., C] -> [...].

  P = sum over polarisations of I^2 + Q^2; absent polarisations are zeros or
  NaN and add nothing. A single channel is taken as power already.
  """
  image = np.asarray(image, np.float32)
  power = image[..., 0] if image.shape[-1] == 1 else np.nansum(image**2, -1)
  highest = float(np.nanmax(power, initial=np.finfo(np.float32).tiny))
  floor = highest * 10 ** (-FLOOR_DB / 10)
  return 10 * np.log10(np.maximum(power, floor))


def channels(image: np.ndarray, sensor: contract.Sensor) -> np.ndarray:
  """What to look at: [..., C] -> [..., 3] in colour or [..., 1] in grey.

  True colour where the sensor has red, green and blue (by name or common
  name), total power in dB for complex SAR, else the first band.
  """
  if sensor.kind is contract.Kind.SAR_COMPLEX:
    return power_db(image)[..., None]
  index = {}
  for i, band in enumerate(sensor.bands):
    index.setdefault(band.common_name, i)
    index[band.name] = i
  if {'red', 'green', 'blue'} <= index.keys():
    return image[..., [index[name] for name in ('red', 'green', 'blue')]]
  return image[..., :1]


def caption(sensor: contract.Sensor) -> str:
  """What `channels` shows of a sensor, with its unit."""
  if sensor.kind is contract.Kind.SAR_COMPLEX:
    return 'total power, dB'
  names = {b.name for b in sensor.bands} | {b.common_name for b in sensor.bands}
  if {'red', 'green', 'blue'} <= names:
    return 'true colour'
  band = sensor.bands[0]
  unit = 'dB' if band.units is contract.Units.DB else str(band.units)
  return f'{band.name}, {unit}'


def limits(values: np.ndarray, *, percentiles=(1.0, 99.0)) -> Limits:
  """Robust black and white points over all channels, so colours stay true."""
  finite = np.asarray(values)[np.isfinite(values)]
  if not finite.size:
    return Limits(0.0, 1.0)
  low, high = np.percentile(finite, percentiles)
  return Limits(float(low), float(max(high, low + 1e-6)))


def rgba(values: np.ndarray, to: Limits) -> np.ndarray:
  """[..., 1 or 3] -> [..., 4] in 0..1; what is not finite is transparent."""
  values = np.asarray(values, np.float32)
  seen = np.isfinite(values).all(-1, keepdims=True)
  scaled = (np.where(seen, values, to.low) - to.low) / (to.high - to.low)
  colour = np.broadcast_to(np.clip(scaled, 0, 1), (*values.shape[:-1], 3))
  return np.concatenate([colour, seen.astype(np.float32)], -1)


def enlarge(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Nearest neighbour to `size`: [..., h, w, C] -> [..., H, W, C]."""
  rows, columns = (
    np.arange(new) * old // new
    for new, old in zip(size, image.shape[-3:-1], strict=True)
  )
  return image[..., rows, :, :][..., columns, :]


def sheet(rows: Sequence[np.ndarray], *, gap: int = 3) -> np.ndarray:
  """Rows of pictures [N, H, W, 4] as one RGBA with transparent gaps."""
  grid = np.stack(rows)
  pad = [(0, 0), (0, 0), (0, gap), (0, gap), (0, 0)]
  r, n, h, w, _ = (padded := np.pad(grid, pad)).shape
  whole = padded.transpose(0, 2, 1, 3, 4).reshape(r * h, n * w, 4)
  return whole[: r * h - gap, : n * w - gap]


def class_colours(count: int) -> tuple[tuple[int, int, int], ...]:
  """RGB of 0 to 255 for each of `count` classes: hues that differ."""
  # Steps of the golden ratio keep any number of hues apart.
  hues = [(0.6180339887 * i) % 1 for i in range(count)]
  found = [colorsys.hsv_to_rgb(h, 0.65, 0.9) for h in hues]
  return tuple(tuple(round(255 * v) for v in rgb) for rgb in found)
