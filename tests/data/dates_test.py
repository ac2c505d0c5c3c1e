import numpy as np
import pytest

from rsfm_jax.data import dates


def test_days_count_from_the_first_of_january():
  assert dates.of_date('2023-01-01') == 0
  assert dates.of_date('2023-12-31') == 364
  assert dates.of_date('2024-12-31T10:30:00') == dates.LAST == 365


@pytest.mark.parametrize('unknown', [None, '', '2023', 'spring'])
def test_what_is_no_date_is_unknown(unknown):
  assert dates.of_date(unknown) == dates.UNKNOWN


def test_a_date_that_no_calendar_has_is_an_error():
  with pytest.raises(ValueError):
    dates.of_date('2023-02-30')


def test_series_run_on_into_the_following_years():
  days = dates.of_series(np.array([300, 365, 366, 364 + 365]), '2023-10-28')
  assert days.tolist() == [300, 365, 1, 364]
  assert days.dtype == np.int32
  # 2024 is a leap year: its last day is the 366th.
  assert dates.of_series(np.array([365 + 365, 366 + 365]), '2023-01-01')[0] == (
    365
  )
  assert dates.of_series(np.array([366 + 365]), '2023-01-01')[0] == 0


def test_unknown_days_stay_unknown():
  assert dates.of_series(np.array([-1, 7]), None).tolist() == [-1, 7]


@pytest.mark.parametrize('days', [[-2], [366], [20230101], [0.5], [[1]]])
def test_days_of_no_year_are_errors(days):
  with pytest.raises(ValueError, match='days'):
    dates.of_series(np.array(days), None)


def test_days_since_another_epoch_are_errors():
  with pytest.raises(ValueError, match='19358.*outside the year'):
    dates.of_series(np.array([19358]), '2023-01-01')


def test_jitter_moves_known_days_within_the_year():
  rng = np.random.default_rng(0)
  days = np.repeat(np.int32([-1, 0, 200, 365]), 2000)
  moved = dates.jitter(days, 5, rng).reshape(4, 2000)
  assert (moved[0] == -1).all()
  assert set(moved[1]) == set(range(6))
  assert set(moved[2]) == set(range(195, 206))
  assert set(moved[3]) == set(range(360, 366))
  assert moved.dtype == np.int32
  np.testing.assert_array_equal(dates.jitter(days, 0, rng), days)
