"""Layers with different numbers of experts."""

import numpy as np
import pytest

from rsfm_jax.moe import counts


def test_equal_numbers_are_one_number():
  """So that a model from which nothing was taken has the same spec."""
  assert counts.check((4, 4, 4), 3, key='k') == 4
  assert counts.check([4, 2], 2, key='k') == (4, 2)
  assert counts.check(3, 9, key='k') == 3
  assert counts.per_layer(3, 2) == (3, 3)
  assert counts.per_layer((3, 1), 2) == (3, 1)


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    (-1, 'k=-1 must not be negative'),
    ((1, 2), r'k=\(1, 2\) must be .* each of the 3 layers'),
    ((1, 2, -3), r'k=\(1, 2, -3\)'),
  ],
)
def test_other_numbers_are_errors(given, message):
  with pytest.raises(ValueError, match=message):
    counts.check(given, 3, key='k')


def test_reports_come_to_one_width():
  a = {'load': np.ones((2, 3, 4)), 'loss': np.ones(2)}
  b = {'load': np.full((1, 3, 2), 5.0), 'loss': np.zeros(1)}
  found = counts.join([a, b])
  assert found['load'].shape == (3, 3, 4)
  np.testing.assert_array_equal(found['load'][2, 0], [5, 5, 0, 0])
  np.testing.assert_array_equal(found['loss'], [1, 1, 0])
