"""SimMIM masks: exact counts, uniform, independent, reproducible."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.objectives import masks

KEY = jax.random.key(0)


@pytest.mark.parametrize(
  ('units', 'ratio', 'count'),
  [(36, 0.6, 22), (16, 0.5, 8), (16, 0.6, 10), (4, 0.75, 3), (10, 0.3, 3)],
)
def test_the_count_is_rounded_up_but_not_by_rounding_errors(
  units, ratio, count
):
  assert masks.masked_units(units, ratio) == count


def test_every_sample_has_exactly_the_count():
  made = masks.random_masks(KEY, 50, side=6, ratio=0.6)
  assert made.shape == (50, 6, 6) and made.dtype == bool
  np.testing.assert_array_equal(made.sum((1, 2)), 22)


def test_masks_are_uniform_over_the_units():
  made = masks.random_masks(KEY, 4000, side=4, ratio=0.5)
  share = np.asarray(made.mean(0))
  # The standard deviation of a share is 0.5 / sqrt(4000) = 0.008.
  np.testing.assert_allclose(share, 0.5, atol=0.04)
  flat = np.asarray(made).reshape(4000, 16)
  pairs = np.corrcoef(flat.T)[np.triu_indices(16, 1)]
  # An exact count makes units repel each other by -1 / 15.
  np.testing.assert_allclose(pairs, -1 / 15, atol=0.08)


def test_samples_have_masks_of_their_own_and_a_key_repeats_them():
  made = np.asarray(masks.random_masks(KEY, 20, side=6, ratio=0.6))
  assert len({m.tobytes() for m in made}) == 20
  again = masks.random_masks(KEY, 20, side=6, ratio=0.6)
  np.testing.assert_array_equal(made, again)
  other = masks.random_masks(jax.random.key(1), 20, side=6, ratio=0.6)
  assert (made != other).any((1, 2)).all()


def test_the_first_units_of_an_order_are_masked():
  order = jnp.array([[2, 0, 3, 1], [1, 3, 0, 2]])
  made = masks.from_order(order, 2, 0.5)
  np.testing.assert_array_equal(
    made, [[[True, False], [True, False]], [[False, True], [False, True]]]
  )


def test_upsampling_repeats_each_unit_as_a_square():
  mask = masks.random_masks(KEY, 3, side=2, ratio=0.5)
  large = masks.upsample(mask, 6)
  assert large.shape == (3, 6, 6)
  for i in range(6):
    for j in range(6):
      np.testing.assert_array_equal(large[:, i, j], mask[:, i // 3, j // 3])
