"""Days of the year, from what a store says about its dates."""

import re

import numpy as np

UNKNOWN = -1
LAST = 365  # Of a leap year; 1 January is 0.

# Days count on from one year into the next ones; nothing runs for longer.
_LONGEST = 10 * 366
_DATE = re.compile(r'\d{4}-\d\d-\d\d')


def of_date(date: str | None) -> int:
  """Day of the year of an ISO date; -1 where there is none.

  Raises:
    ValueError: a month or day that no calendar has.
  """
  found = _DATE.match(date or '')
  if not found:
    return UNKNOWN
  return int(_in_year(np.datetime64(found[0], 'D')))


def since(time: str, first: str | None) -> int:
  """Days from 1 January of the year of `first` on; -1 where unknown."""
  if not time or not first:
    return UNKNOWN
  start = np.datetime64(first[:4], 'D')
  return int((np.datetime64(time[:10], 'D') - start).astype(int))


def of_series(days: np.ndarray, date: str | None) -> np.ndarray:
  """Days of the year of a series.

  Args:
    days: int [K], from 1 January on: 0..365 is the day of the year, and
      larger numbers count on into the years that follow that of `date`; -1
      where unknown.
    date: ISO date of the first image; None where unknown.

  Returns:
    int32 [K] in 0..365, -1 where unknown.

  Raises:
    ValueError: days that lie in no year.
  """
  last = _LONGEST if _DATE.match(date or '') else LAST
  days = np.asarray(days)
  if days.dtype.kind not in 'iu' or days.ndim != 1:
    raise ValueError(f'days are {days.dtype} {days.shape}, not integers [K].')
  days = days.astype(np.int64)
  if (days < UNKNOWN).any() or (days > last).any():
    why = '' if last > LAST else ', or up to ten years with a date'
    raise ValueError(
      f'days {days.tolist()} lie outside the year: allowed are 0..{LAST} '
      f'from 1 January on, -1 where unknown{why}.'
    )
  late = days > LAST
  if late.any():
    start = np.datetime64(date[:4], 'D')
    days = np.where(late, _in_year(start + days), days)
  return days.astype(np.int32)


def jitter(
  days: np.ndarray, limit: int, rng: np.random.Generator
) -> np.ndarray:
  """Moves known days by up to `limit` days, within the year. int32 [K]."""
  if not limit:
    return days
  moved = days + rng.integers(-limit, limit, days.shape, np.int32, True)
  return np.where(days == UNKNOWN, days, moved.clip(0, LAST))


def _in_year(date: np.ndarray) -> np.ndarray:
  """Days since 1 January of each date's own year."""
  return (date - date.astype('datetime64[Y]')).astype(np.int64)
