"""Where on Earth a sample lies, as one of a fixed number of regions.

The cells are about 65 km wide and high: 4,294 km2 per region, as SkySense has
it (facts/skysense_v2.md 2; its cell scheme is NOT FOUND, DEFAULT a hash of a
grid to the number of regions, so that no index of the training set is needed).
"""

from collections.abc import Sequence
import math
import zlib

CELL_KM = 65.0
UNKNOWN = -1

_KM_PER_DEGREE = 40_030.2 / 360  # Great circle of a sphere of 6,371 km.
_ROWS = round(180 * _KM_PER_DEGREE / CELL_KM)


def region_of(lonlat: Sequence[float] | None, regions: int) -> int:
  """The region of a place: the same on every machine and in every run.

  Args:
    lonlat: degrees, east and north positive; None where unknown.
    regions: how many there are; several cells of the Earth share one.

  Returns:
    0 to regions - 1; -1 where the place is missing, not finite, or not on
    Earth (longitudes are -180..180).

  Raises:
    ValueError: `regions` is not positive.
  """
  if regions < 1:
    raise ValueError(f'regions={regions} must be at least 1.')
  cell = cell_of(lonlat)
  if cell is None:
    return UNKNOWN
  return zlib.crc32(b'%d/%d' % cell) % regions


def cell_of(lonlat: Sequence[float] | None) -> tuple[int, int] | None:
  """(row from the south, column from 180 W) of a place; None where unknown.

  Rows are equally high; each has as many columns as fit at its middle.
  """
  if lonlat is None or len(lonlat) != 2:
    return None
  longitude, latitude = lonlat
  if longitude is None or latitude is None:
    return None
  # False for NaN too.
  if not (-180 <= longitude <= 180 and -90 <= latitude <= 90):
    return None
  row = min(int((latitude + 90) / 180 * _ROWS), _ROWS - 1)
  middle = math.radians((row + 0.5) / _ROWS * 180 - 90)
  columns = max(1, round(360 * _KM_PER_DEGREE * math.cos(middle) / CELL_KM))
  return row, int((longitude + 180) / 360 * columns) % columns
