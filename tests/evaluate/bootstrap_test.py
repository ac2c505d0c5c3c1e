"""Intervals cover, repeat by seed, and resolve paired differences."""

import numpy as np
import pytest

from rsfm_jax.evaluate import bootstrap
from rsfm_jax.evaluate import metrics


def answers(size, right, seed=0):
  """Labels of ten classes and predictions of which a share is right."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(10, size=size)
  wrong = (labels + 1) % 10
  return np.where(rng.random(size) < right, labels, wrong), labels


def test_width_follows_the_binomial_law():
  predictions, labels = answers(1000, 0.8)
  value, low, high = bootstrap.interval(
    predictions, labels, classes=10, resamples=2000
  )
  assert value == np.mean(predictions == labels)
  expected = 2 * 1.96 * np.sqrt(value * (1 - value) / 1000)
  assert high - low == pytest.approx(expected, rel=0.1)
  assert low < value < high


def test_same_seed_same_interval():
  predictions, labels = answers(200, 0.7)
  run = lambda seed: bootstrap.interval(
    predictions, labels, classes=10, metric='macro_f1', seed=seed
  )
  assert run(3) == run(3)
  assert run(3) != run(4)


def test_perfect_answers_have_no_width():
  labels = np.arange(10).repeat(5)
  assert bootstrap.interval(labels, labels, classes=10) == (1.0, 1.0, 1.0)


def test_pairing_resolves_what_two_intervals_do_not():
  first, labels = answers(1000, 0.8)
  second = first.copy()
  lost = np.flatnonzero(first == labels)[:15]
  second[lost] = (labels[lost] + 1) % 10
  apart = [bootstrap.interval(p, labels, classes=10) for p in (first, second)]
  assert apart[1].high > apart[0].low  # They overlap,
  paired = bootstrap.difference(first, second, labels, classes=10)
  assert paired.value == pytest.approx(0.015)
  assert paired.low > 0  # and yet the first one wins.


def test_equal_predictions_differ_by_nothing():
  predictions, labels = answers(100, 0.5)
  same = bootstrap.difference(predictions, predictions, labels, classes=10)
  assert same == (0.0, 0.0, 0.0)


def test_multilabel_resamples_whole_samples():
  rng = np.random.default_rng(0)
  labels = rng.integers(2, size=(50, 4))
  value, low, high = bootstrap.interval(
    labels, labels, classes=4, metric='micro_f1'
  )
  assert (value, low, high) == (1.0, 1.0, 1.0)


def test_no_samples_is_an_error():
  with pytest.raises(ValueError, match='at least one test sample'):
    bootstrap.interval([], [], classes=2)


def test_metrics_of_scores_resample_whole_samples():
  rng = np.random.default_rng(0)
  bits = (rng.random((60, 4)) > 0.5).astype(int)
  scores = 0.3 * bits + 0.7 * rng.random((60, 4))
  found = bootstrap.interval(
    bits, bits, classes=4, metric='micro_map', scores=scores, resamples=50
  )
  expected = metrics.mean_average_precision(scores, bits, average='micro')
  assert found.low <= found.value == expected <= found.high < 1.0 + 1e-9
  assert found.low < found.high
