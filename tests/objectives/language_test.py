"""Cells against class vectors by hand; majorities by counting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.objectives import language

RNG = np.random.default_rng(0)
B, SIDE, D, E, K = 8, 2, 5, 4, 3
FEATURES = jnp.asarray(RNG.standard_normal((B, SIDE, SIDE, D)), 'float32')
TABLE = jnp.asarray(RNG.standard_normal((K, E)), 'float32')
KERNEL = jnp.asarray(RNG.standard_normal((D, E)), 'float32')
CLASSES = jnp.asarray(RNG.integers(0, K, (B, SIDE, SIDE)), 'uint8')
CLASSES = CLASSES.at[0, 0, 0].set(255).at[1, 1, 1].set(K)


@jax.jit
def step(features, kernel, classes=CLASSES, table=TABLE, valid=None):
  def loss(features, kernel, table):
    return language.loss(
      features, classes, table, project=lambda x: x @ kernel, valid=valid
    )

  return jax.value_and_grad(loss, (0, 1, 2))(features, kernel, table)


def test_the_mean_over_labelled_cells_of_minus_log_softmax():
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  total, count = 0.0, 0
  cells = zip(np.reshape(FEATURES, (-1, D)), np.ravel(CLASSES))
  for vector, label in cells:
    if label < K:
      logits = unit(vector @ KERNEL) @ unit(np.asarray(TABLE)).T / 0.07
      total -= logits[label] - np.log(np.exp(logits).sum())
      count += 1
  assert count == B * SIDE * SIDE - 2
  np.testing.assert_allclose(step(FEATURES, KERNEL)[0], total / count, 1e-5)


def test_the_table_is_frozen_and_its_lengths_do_not_matter():
  value, (_, d_kernel, d_table) = step(FEATURES, KERNEL)
  assert d_kernel.any() and not d_table.any()
  longer = step(FEATURES, KERNEL, table=TABLE * 7)[0]
  np.testing.assert_allclose(value, longer, rtol=1e-5)


def test_unlabelled_unknown_and_invalid_cells_change_no_bit():
  valid = jnp.asarray(RNG.random(CLASSES.shape) < 0.7)
  counts = (CLASSES < K) & valid
  spoiled = jnp.where(counts[..., None], FEATURES, jnp.nan)
  clean = step(FEATURES, KERNEL, valid=valid)
  dirty = step(spoiled, KERNEL, valid=valid)
  jax.tree.map(np.testing.assert_array_equal, clean, dirty)


def test_without_labels_the_loss_is_zero():
  value, gradients = step(FEATURES, KERNEL, jnp.full_like(CLASSES, 255))
  assert value == 0 and not any(g.any() for g in gradients)


def test_masks_of_another_grid_and_too_many_classes_are_refused():
  with pytest.raises(ValueError, match='see language.majority'):
    step(FEATURES, KERNEL, CLASSES[:, :1])
  with pytest.raises(ValueError, match='256 classes'):
    step(FEATURES, KERNEL, table=jnp.ones((256, E)))


def test_majority_by_counting_with_ties_to_the_smaller_id():
  labels = RNG.choice([0, 1, 2, 7, 255], (3, 8, 12)).astype('uint8')
  labels[0, :4, :4] = 255
  found = jax.jit(language.majority, static_argnums=1)(labels, 4)
  assert found.shape == (3, 2, 3) and found.dtype == jnp.uint8
  for b, y, x in np.ndindex(found.shape):
    cell = labels[b, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].ravel()
    votes = np.bincount(cell[cell != 255], minlength=1)
    expected = votes.argmax() if votes.any() else 255
    assert found[b, y, x] == expected
  assert found[0, 0, 0] == 255


def test_cells_of_one_pixel_stay_and_other_sizes_are_refused():
  np.testing.assert_array_equal(language.majority(CLASSES, 1), CLASSES)
  with pytest.raises(ValueError, match='factor=3 does not divide the 2 x 2'):
    language.majority(CLASSES, 3)
