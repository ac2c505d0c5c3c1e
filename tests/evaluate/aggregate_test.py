"""Many numbers as one: over seeds, over tasks, by rank."""

import numpy as np
import pytest
from scipy import stats

from rsfm_jax.evaluate import aggregate


def test_the_interval_over_seeds_is_students():
  values = [0.71, 0.75, 0.70, 0.74, 0.72]
  found = aggregate.over_seeds(values)
  low, high = stats.t.interval(
    0.95, 4, loc=np.mean(values), scale=stats.sem(values)
  )
  assert found == pytest.approx((np.mean(values), low, high))


def test_equal_seeds_leave_no_doubt_and_one_seed_no_interval():
  assert aggregate.over_seeds([0.5, 0.5]) == (0.5, 0.5, 0.5)
  for values in ([0.5], [0.5, np.nan]):
    with pytest.raises(ValueError, match='two finite values'):
      aggregate.over_seeds(values)


@pytest.mark.parametrize('count', (1, 3, 4, 7, 20))
def test_iqm_is_the_trimmed_mean(count):
  values = np.random.default_rng(count).normal(size=count)
  assert aggregate.iqm(values) == pytest.approx(stats.trim_mean(values, 0.25))


def test_outliers_do_not_move_the_iqm():
  assert aggregate.iqm([-1e9, 1.0, 1.0, 1e9]) == 1.0


def test_runs_are_drawn_within_their_task():
  """Tasks that differ a lot, runs that do not: no interval."""
  found = aggregate.stratified_iqm([[0.1] * 3, [0.5] * 3, [0.9] * 3])
  assert found.low == found.value == found.high
  wide = aggregate.stratified_iqm([[0.1, 0.3], [0.5, 0.7]], resamples=200)
  assert wide.low < wide.value < wide.high
  with pytest.raises(ValueError, match='every task'):
    aggregate.stratified_iqm([[0.1], []])


def test_minmax():
  assert aggregate.normalised(0.75, 0.5, 1.0) == 0.5
  with pytest.raises(ValueError, match='no scale'):
    aggregate.normalised(0.75, 0.5, 0.5)


def test_mean_ranks_share_ties_and_count_common_tasks_only():
  scores = {
    'a': {'x': 0.9, 'y': 0.5, 'rmse': 1.0},
    'b': {'x': 0.8, 'y': 0.5, 'rmse': 3.0, 'more': 1.0},
    'c': {'x': 0.7, 'y': 0.1, 'rmse': 2.0},
  }
  ranks, tasks = aggregate.mean_ranks(scores, lower_is_better=('rmse',))
  assert tasks == ['x', 'y', 'rmse']
  assert ranks == pytest.approx(
    {'a': (1 + 1.5 + 1) / 3, 'b': (2 + 1.5 + 3) / 3, 'c': (3 + 3 + 2) / 3}
  )
  assert aggregate.mean_ranks({'a': {'x': 1.0}, 'b': {}}) == ({}, [])
  assert aggregate.mean_ranks({}) == ({}, [])
