"""One duration, four units, one number of steps."""

import pytest

from rsfm_jax.core import durations


@pytest.mark.parametrize(
  'section, steps',
  [
    ({'warmup_steps': 7}, 7),
    ({'warmup_examples': 640}, 10),
    ({'warmup_examples': 641}, 11),
    ({'warmup_epochs': 2}, 32),
    ({'warmup_percent': 5}, 10),
    ({'warmup_percent': 0.1}, 1),
    ({'warmup_steps': None, 'warmup_percent': 50}, 100),
    ({'total_steps': 9}, None),
    ({}, None),
  ],
)
def test_every_unit_becomes_steps_rounded_up(section, steps):
  got = durations.steps(
    section, 'warmup', batch_size=64, dataset_size=1024, total_steps=200
  )
  assert got == steps


def test_rounding_is_exact_where_floats_are_not():
  # 1.1 * 100 is 110.00000000000001 in floating point.
  got = durations.steps(
    {'w_percent': 1.1}, 'w', batch_size=1, total_steps=10_000
  )
  assert got == 110


def test_the_default_stands_in_for_an_absent_key():
  assert durations.steps({}, 'warmup', batch_size=1, default=5) == 5


def test_two_units_at_once_are_refused():
  section = {'warmup_steps': 1, 'warmup_epochs': 2}
  with pytest.raises(ValueError, match='warmup_steps.*warmup_epochs'):
    durations.steps(section, 'warmup', batch_size=1)


@pytest.mark.parametrize(
  'unit, needs', [('epochs', 'dataset_size'), ('percent', 'total_steps')]
)
def test_a_unit_that_cannot_be_resolved_says_what_it_needs(unit, needs):
  with pytest.raises(ValueError, match=f'warmup_{unit}=3 needs {needs}'):
    durations.steps({f'warmup_{unit}': 3}, 'warmup', batch_size=1)
