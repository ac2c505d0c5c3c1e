"""Where the sun stands and how green the ground is, by date and latitude."""

from typing import NamedTuple

import numpy as np

from rsfm_jax.data.synthetic import materials

DAYS = 365


class Sun(NamedTuple):
  """Direction of the sun, in radians."""

  azimuth: float  # Clockwise from north.
  elevation: float


def sun(latitude: float, day: float, *, hour: float = 10.5) -> Sun:
  """Position of the sun at local solar time `hour` (24 h clock).

  Args:
    latitude: degrees, north positive.
    day: day of the year, 0..364.
    hour: local solar time; polar-orbiting imagers pass near 10:30.
  """
  phi = np.radians(latitude)
  declination = -np.radians(23.44) * np.cos(2 * np.pi * (day + 10) / DAYS)
  angle = np.radians(15.0) * (hour - 12.0)
  up = np.sin(phi) * np.sin(declination)
  up += np.cos(phi) * np.cos(declination) * np.cos(angle)
  east = -np.cos(declination) * np.sin(angle)
  north = np.cos(phi) * np.sin(declination)
  north -= np.sin(phi) * np.cos(declination) * np.cos(angle)
  return Sun(float(np.arctan2(east, north)), float(np.arcsin(up)))


def _bell(day: np.ndarray, centre: float, width: float) -> np.ndarray:
  """Periodic bump of height 1 around day `centre`."""
  distance = (day - centre + DAYS / 2) % DAYS - DAYS / 2
  return np.exp(-0.5 * (distance / width) ** 2)


def greenness(
  cycle: np.ndarray, day: float, *, latitude: float, delay: np.ndarray
) -> np.ndarray:
  """Share of full green cover, 0..1.

  Args:
    cycle: [P] of materials.Cycle.
    day: day of the year.
    latitude: degrees; the southern year is half a year late, and the tropics
      swing less.
    delay: [P] days by which a patch is late.

  Returns:
    float32 [P].
  """
  local = day + (DAYS / 2 if latitude < 0 else 0) - np.asarray(delay)
  half_year = _bell(local, 200, 55)
  curves = np.stack(
    [
      np.ones_like(local),
      np.full_like(local, 0.95),
      0.1 + 0.9 * np.minimum(1.0, 1.6 * half_year),
      0.3 + 0.7 * _bell(local, 150, 60),
      0.05 + 0.95 * _bell(local, 130, 38),
      0.02 + 0.98 * _bell(local, 210, 36),
    ]
  )
  value = np.take_along_axis(curves, np.asarray(cycle)[None], axis=0)[0]
  seasonal = np.asarray(cycle) > materials.Cycle.EVERGREEN
  mildness = max(0.0, 1.0 - abs(latitude) / 35.0) * seasonal
  return (value * (1 - mildness) + 0.75 * mildness).astype(np.float32)
