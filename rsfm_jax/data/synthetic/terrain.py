"""Relief: flat water, land that rises from it, shading and cast shadows."""

import numpy as np

_MIN_WALL_STEP = 1e-6


def from_shore(
  fractal: np.ndarray,
  shore: np.ndarray | None,
  *,
  base: float,
  relief: float,
  bank: float = 0.08,
) -> np.ndarray:
  """Heights that agree with the water.

  Args:
    fractal: [H, W] field of unit variance.
    shore: [H, W] metres to the water's edge, <= 0 on water, or None without.
    base: level of the water (without water, of the lowest point) in metres.
    relief: standard deviation of the land far from water, in metres.
    bank: slope of the land at the shore.

  Returns:
    float32 [H, W] metres: exactly `base` on water, higher everywhere else.
  """
  rough = (fractal - fractal.min()) * relief
  if shore is None:
    return (base + rough).astype(np.float32)
  inland = np.maximum(shore, 0)
  ramp = np.minimum(inland / 40.0, 1.0)
  height = base + bank * np.minimum(inland, 80.0) + rough * ramp
  return height.astype(np.float32)


def gradient(height: np.ndarray, gsd_m: float) -> tuple[np.ndarray, np.ndarray]:
  """Slopes towards east and north, dimensionless. Two float32 [H, W]."""
  rows, columns = np.gradient(height, np.float32(gsd_m))
  return columns, -rows


def shading(
  height: np.ndarray, gsd_m: float, *, azimuth: float, elevation: float
) -> np.ndarray:
  """Cosine of the angle between ground normal and source, 0 if turned away.

  Divided by its value on flat ground, so that flat ground is 1.

  Args:
    height: [H, W] metres.
    gsd_m: pixel size in metres.
    azimuth: of the source, radians clockwise from north.
    elevation: of the source, radians.
  """
  east, north = gradient(height, gsd_m)
  across = east * np.sin(azimuth) + north * np.cos(azimuth)
  normal = np.sqrt(1 + east**2 + north**2)
  cosine = (np.sin(elevation) - across * np.cos(elevation)) / normal
  return np.maximum(cosine, 0) / np.sin(elevation)


def cast_shadow(
  height: np.ndarray,
  gsd_m: float,
  *,
  azimuth: float,
  elevation: float,
  reach: int = 14,
) -> np.ndarray:
  """Where something between the ground and the source is in the way.

  Marches `reach` pixels towards the source; arguments as in `shading`.

  Returns:
    bool [H, W].
  """
  size_y, size_x = height.shape
  padded = np.pad(height, reach, mode='edge')
  rise = gsd_m * np.tan(elevation)
  # Nothing taller than the relief of the image can cast a longer shadow.
  span = float(height.max() - height.min())
  reach_needed = min(reach, int(np.ceil(span / max(rise, _MIN_WALL_STEP))))
  shadow = np.zeros(height.shape, bool)
  for k in range(1, reach_needed + 1):
    dx = reach + round(k * np.sin(azimuth))
    dy = reach - round(k * np.cos(azimuth))
    above = padded[dy : dy + size_y, dx : dx + size_x]
    shadow |= above > height + k * rise
  return shadow
