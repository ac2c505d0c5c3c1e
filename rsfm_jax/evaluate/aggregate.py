"""One number of many: over seeds, and over tasks."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from rsfm_jax.evaluate import bootstrap


def over_seeds(
  values: Sequence[float], *, level: float = 0.95
) -> bootstrap.Interval:
  """The mean and Student's t interval of the mean over S >= 2 seeds.

  It says how far the mean would move with other seeds (other choices of
  labels, other starts of a probe), on the same test samples; it may leave the
  range of the metric.

  Raises:
    ValueError: fewer than two values, or one that is not finite.
  """
  found = np.asarray(values, np.float64)
  if found.ndim != 1 or len(found) < 2 or not np.isfinite(found).all():
    raise ValueError(f'{values}: needs at least two finite values.')
  error = found.std(ddof=1) / np.sqrt(len(found))
  reach = float(stats.t.ppf((1 + level) / 2, len(found) - 1) * error)
  mean = float(found.mean())
  return bootstrap.Interval(mean, mean - reach, mean + reach)


def iqm(values: np.ndarray) -> float:
  """Interquartile mean: of the middle half, a quarter cut at either end.

  The number cut is rounded down, as in scipy's `trim_mean(x, 0.25)`, which the
  reports of GEO-Bench take over from rliable (Agarwal et al. 2021).
  """
  found = np.sort(np.asarray(values, np.float64), axis=None)
  if not len(found):
    raise ValueError('an interquartile mean needs a value.')
  cut = len(found) // 4
  return float(found[cut : len(found) - cut].mean())


def stratified_iqm(
  scores: Sequence[Sequence[float]],
  *,
  resamples: int = 1000,
  seed: int = 0,
  level: float = 0.95,
) -> bootstrap.Interval:
  """IQM of all runs of all tasks, with its stratified percentile interval.

  Args:
    scores: of each task those of its runs, comparable between tasks.
    resamples: of the bootstrap, which draws runs within every task.
    seed: of the draws.
    level: of the interval.

  Raises:
    ValueError: no task, or one without a run.
  """
  tasks = [np.asarray(runs, np.float64) for runs in scores]
  if not tasks or not all(len(runs) for runs in tasks):
    raise ValueError('every task needs at least one run.')
  rng = np.random.default_rng(seed)
  drawn = [
    iqm(
      np.concatenate(
        [runs[rng.integers(len(runs), size=len(runs))] for runs in tasks]
      )
    )
    for _ in range(resamples)
  ]
  tail = (1 - level) / 2
  low, high = np.quantile(drawn, (tail, 1 - tail))
  return bootstrap.Interval(iqm(np.concatenate(tasks)), float(low), float(high))


def normalised(value: float, worst: float, best: float) -> float:
  """Min-max: 0 at the worst of the baselines, 1 at the best (GEO-Bench).

  Raises:
    ValueError: the two are equal.
  """
  if worst == best:
    raise ValueError(f'worst and best are both {best}: no scale between them.')
  return (value - worst) / (best - worst)


def mean_ranks(
  scores: Mapping[str, Mapping[str, float]],
  *,
  lower_is_better: Sequence[str] = (),
) -> tuple[dict[str, float], list[str]]:
  """Mean rank of every name over the tasks that all of them have.

  Args:
    scores: {name: {task: value}}.
    lower_is_better: tasks whose best value is the least.

  Returns:
    {name: mean rank}, 1 the best, equal values sharing the mean of their
    ranks; and the tasks that were counted. Without a common task both are
    empty.
  """
  names = list(scores)
  tasks = [
    task
    for task in (scores[names[0]] if names else ())
    if all(task in scores[name] for name in names)
  ]
  if not tasks:
    return {}, []
  ranks = []
  for task in tasks:
    values = np.array([scores[name][task] for name in names])
    ranks.append(stats.rankdata(values if task in lower_is_better else -values))
  return dict(zip(names, map(float, np.mean(ranks, axis=0)))), tasks
