"""What an HDF5 or NetCDF-4 file tells of times and place, by CF conventions.

Beside the arrays of `arrays`, only these are read: the coordinates x and y,
the well-known text of their CRS, and the time axis with its units. Text is
matched or parsed and never evaluated.
"""

import io
import re

import h5py
import numpy as np

from rsfm_jax.data import geotiff
from rsfm_jax.data import raster
from rsfm_jax.data import sources

_SINCE = re.compile(
  r'(second|minute|hour|day)s? since (\d{4}-\d\d-\d\d)'
  r'(?:[ T](\d\d:\d\d:\d\d))?'
)
_UNITS = {'second': 's', 'minute': 'm', 'hour': 'h', 'day': 'D'}
# Where the CRS is said: of xarray and rioxarray, then of openEO.
_CRS = ('spatial_ref', 'crs')


def times(path: str, dataset: str) -> list[str]:
  """The times of the frames of a file, ISO to the second or the day.

  Args:
    path: of the file, or of an archive's member.
    dataset: integers with units '<unit> since <date>', or names that have a
      date each, as products do ('S2A_MSIL2A_20200102T102421_...').

  Returns:
    One each; '' for a name without a date.

  Raises:
    ValueError: no such data set, or neither of the two.
  """
  with _open(path) as content:
    found = content.get(dataset)
    if not isinstance(found, h5py.Dataset) or found.ndim != 1:
      raise ValueError(
        f'{path}: times={dataset!r} is no list among {sorted(content)}.'
      )
    if h5py.check_string_dtype(found.dtype):
      return [sources.date_in(name) or '' for name in found.asstr()[()]]
    since = _SINCE.match(_text(found, 'units'))
    if not since or found.dtype.kind not in 'iu':
      raise ValueError(
        f'{path}: {dataset} is {found.dtype} of units '
        f'{_text(found, "units")!r}; integers of "days since 1990-01-01" or '
        'the like are needed, or names with dates.'
      )
    unit, day, clock = since.groups()
    start = np.datetime64(f'{day}T{clock or "00:00:00"}', 's')
    passed = found[()].astype(np.int64).astype(f'timedelta64[{_UNITS[unit]}]')
    return [str(time) for time in start + passed]


def place(path: str) -> raster.Place:
  """Where the grid of a file lies; without fields where it does not say.

  The grid is regular, with rows from north to south and square to the CRS.
  """
  with _open(path) as content:
    x, y = (content.get(name) for name in 'xy')
    if x is None or y is None or x.size < 2 or y.size < 2:
      return raster.Place()
    known = (content.get(name) for name in _CRS)
    text = next((_text(item, 'crs_wkt') for item in known if item), '')
    x, y = x[()], y[()]
  across, down = (x[-1] - x[0]) / (len(x) - 1), (y[0] - y[-1]) / (len(y) - 1)
  bounds = (
    float(x[0] - across / 2),
    float(y[-1] - down / 2),
    float(x[-1] + across / 2),
    float(y[0] + down / 2),
  )
  return geotiff.located(text, bounds)


def _open(path: str) -> h5py.File:
  """The file, a context; a member of an archive from memory."""
  file = io.BytesIO(sources.read_bytes(path)) if '!' in path else path
  try:
    return h5py.File(file)
  except (OSError, RuntimeError) as error:
    raise ValueError(f'{path} is not readable as HDF5: {error}') from error


def _text(item: h5py.HLObject, name: str) -> str:
  """An attribute that is a string, else ''."""
  value = item.attrs.get(name, '')
  if isinstance(value, bytes):
    value = value.decode('utf-8', 'replace')
  return value if isinstance(value, str) else ''
