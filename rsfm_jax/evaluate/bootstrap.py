"""Confidence intervals by resampling test samples, seeded.

The percentile bootstrap over test samples says how far a value would move
with another draw of the test set. It does not cover another training run.
"""

from typing import NamedTuple

import numpy as np

from rsfm_jax.evaluate import metrics
from rsfm_jax.evaluate import outcomes


class Interval(NamedTuple):
  value: float
  low: float
  high: float


def _resampled(tables, metric, *, classes, resamples, seed) -> np.ndarray:
  """The metric of every list of cells under the same draws: f64[R, M]."""
  score = metrics.counted(metric)
  rng = np.random.default_rng(seed)
  size = len(tables[0])
  out = np.empty((resamples, len(tables)))
  for row in out:
    draw = rng.integers(size, size=size)
    row[:] = [
      score(metrics.count(cell[draw], classes=classes)) for cell in tables
    ]
  return out


def _interval(value: float, samples: np.ndarray, level: float) -> Interval:
  tail = (1 - level) / 2
  low, high = np.nanquantile(samples, (tail, 1 - tail))
  return Interval(value, float(low), float(high))


def interval(
  predictions,
  labels,
  *,
  classes: int,
  metric: str = 'accuracy',
  scores=None,
  resamples: int = 1000,
  seed: int = 0,
  level: float = 0.95,
) -> Interval:
  """The metric of predictions [N] or [N, L] with its percentile interval.

  `scores`, [N, K] or [N, L], are for metrics of `metrics.SCORED`.

  Raises:
    ValueError: an unknown metric, no samples, or values that are no classes.
  """
  if not len(labels):
    raise ValueError('A bootstrap needs at least one test sample.')
  if metric in metrics.SCORED:
    score, size = metrics.SCORED[metric], len(labels)
    scores, labels = np.asarray(scores), np.asarray(labels)
    rng = np.random.default_rng(seed)
    draws = (rng.integers(size, size=size) for _ in range(resamples))
    samples = np.array([score(scores[draw], labels[draw]) for draw in draws])
    return _interval(score(scores, labels), samples, level)
  cell = metrics.cells(predictions, labels, classes=classes)
  value = metrics.counted(metric)(metrics.count(cell, classes=classes))
  samples = _resampled(
    [cell], metric, classes=classes, resamples=resamples, seed=seed
  )
  return _interval(value, samples[:, 0], level)


def of_outcome(
  outcome: outcomes.Outcome,
  *,
  resamples: int = 1000,
  seed: int = 0,
  level: float = 0.95,
) -> dict[str, Interval]:
  """Every metric of an outcome with its percentile interval over the samples.

  All metrics see the same draws; those that say nothing of one leave it out.
  """
  value = outcome.measure()
  rng = np.random.default_rng(seed)
  size = len(outcome)
  drawn = [
    outcome.measure(rng.integers(size, size=size)) for _ in range(resamples)
  ]
  return {
    metric: _interval(
      value[metric], np.array([found[metric] for found in drawn]), level
    )
    for metric in value
  }


def difference(
  first,
  second,
  labels,
  *,
  classes: int,
  metric: str = 'accuracy',
  resamples: int = 1000,
  seed: int = 0,
  level: float = 0.95,
) -> Interval:
  """`first` minus `second` on the same test samples, drawn together.

  Pairing removes what both predictions share, so that it resolves smaller
  differences than two separate intervals: `low > 0` means that `first` wins.

  Raises:
    ValueError: as in `interval`.
  """
  if not len(labels):
    raise ValueError('A bootstrap needs at least one test sample.')
  cell = [
    metrics.cells(predictions, labels, classes=classes)
    for predictions in (first, second)
  ]
  score = metrics.counted(metric)
  values = [score(metrics.count(c, classes=classes)) for c in cell]
  samples = _resampled(
    cell, metric, classes=classes, resamples=resamples, seed=seed
  )
  return _interval(values[0] - values[1], samples[:, 0] - samples[:, 1], level)
