"""Predictions of a split, and the first of its samples to look at."""

import numpy as np

from rsfm_jax.evaluate import finetuned


def batches(split):
  """Three batches of two, the last one with a row that is padding."""
  assert split == 'test'
  for i in range(3):
    image = np.full((2, 4, 4, 1), 2.0 * i) + np.arange(2).reshape(2, 1, 1, 1)
    yield {
      'opt': {'image': image},
      finetuned.PLACE: {
        'target': image[..., 0].astype(np.uint8) % 2,
        'index': np.array([2 * i, 2 * i + 1]),
        'valid': np.array([True, i < 2]),
      },
    }


def predict(params, extra, batch):
  assert 'target' not in batch[finetuned.PLACE]
  return (batch['opt']['image'][..., 0] > params).astype(np.uint8)


MEASURE = finetuned.Finetuned(predict, batches, 'segmentation', 2)
STATE = {'params': 1.5, 'extra': {}}


def test_examples_are_the_first_valid_samples_with_what_is_predicted():
  found = MEASURE.examples(STATE, 'test', count=3)
  np.testing.assert_array_equal(found.images[:, 0, 0, 0], [0, 1, 2])
  np.testing.assert_array_equal(found.targets[:, 0, 0], [0, 1, 0])
  np.testing.assert_array_equal(found.found[:, 0, 0], [0, 0, 1])
  assert len(MEASURE.examples(STATE, 'test', count=99).found) == 5


def test_an_outcome_is_of_all_valid_samples():
  table = MEASURE.outcome(STATE, 'test').table()
  np.testing.assert_array_equal(table, 16 * np.array([[1, 2], [1, 1]]))
