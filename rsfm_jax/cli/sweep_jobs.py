"""Runs jobs of a sweep, group by group; what fails becomes a row."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import itertools
import pathlib
import time
from typing import Any, NamedTuple

import numpy as np

from rsfm_jax.cli import measure
from rsfm_jax.cli import sweep_features
from rsfm_jax.cli import sweep_grid
from rsfm_jax.core import log
from rsfm_jax.core import progress
from rsfm_jax.data import labelled
from rsfm_jax.evaluate import feature_cache
from rsfm_jax.evaluate import protocols
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.evaluate import run as runs
from rsfm_jax.evaluate import sweep_rows


class Planned(NamedTuple):
  """A group and what stands of it.

  Attributes:
    group: the part of it that is asked for.
    prepared: None where it cannot run.
    error: why not.
    cached: whether its features are there.
    pending: jobs that are not done.
  """

  group: sweep_grid.Group
  prepared: sweep_features.Prepared | None
  error: str
  cached: bool
  pending: tuple[sweep_rows.Job, ...]

  @property
  def key(self) -> str:
    return self.prepared.key if self.prepared else ''

  @property
  def to_encode(self) -> int:
    """Images."""
    if not self.pending or self.cached or not self.prepared:
      return 0
    return self.prepared.images


def plan(
  grid: sweep_grid.Grid,
  piece: sweep_rows.Piece,
  found: sweep_rows.Found,
  cache: pathlib.Path,
) -> list[Planned]:
  """Groups that have jobs of this piece, with what is left to do."""
  mine = set(piece.of(grid.jobs))
  out = []
  for group in grid.groups:
    group = group._replace(jobs=tuple(j for j in group.jobs if j in mine))
    if not group.jobs:
      continue
    prepared, error = None, ''
    try:
      prepared = sweep_features.prepare(group, grid)
    except Exception as failure:
      error = describe(failure)
    key = prepared.key if prepared else ''
    pending = tuple(j for j in group.jobs if not found.is_done(j, key))
    cached = prepared is not None and feature_cache.has(cache, key)
    out.append(Planned(group, prepared, error, cached, pending))
  return out


def describe(failure: BaseException) -> str:
  """One line of what went wrong."""
  kind = type(failure).__name__
  text = ' '.join(str(failure).split())
  return text if kind == 'ValueError' and text else f'{kind}: {text}'


def run(
  planned: Iterable[Planned],
  grid: sweep_grid.Grid,
  cache: pathlib.Path,
  *,
  keep: Callable[[sweep_rows.Result], None],
) -> None:
  """Runs all pending jobs; every one ends in a call of `keep`."""
  planned = list(planned)
  total = sum(len(part.pending) for part in planned)
  with progress.bar(total=total, what='sweep', unit='job') as bar:
    for part in planned:
      for result in _results(part, grid, cache):
        if result.row is None:
          log.warning('%s failed: %s', result.job, result.error)
        keep(result)
        bar.update()


def _results(
  part: Planned, grid: sweep_grid.Grid, cache: pathlib.Path
) -> Iterator[sweep_rows.Result]:
  if not part.pending:
    return
  entry, source, error = None, '', part.error
  if part.prepared:
    try:
      entry, source = feature_cache.get(cache, part.key, part.prepared.make)
    except Exception as failure:
      error = describe(failure)
  for _, group in itertools.groupby(part.pending, _at_once):
    jobs, start = list(group), time.perf_counter()
    rows: list[rows_lib.Row | None] = [None] * len(jobs)
    if entry is not None:
      try:
        rows = _measure(jobs, entry, part.prepared, grid)
      except Exception as failure:
        error = describe(failure)
    seconds = round((time.perf_counter() - start) / len(jobs), 3)
    for job, row in zip(jobs, rows, strict=True):
      why = error if row is None else ''
      yield sweep_rows.Result(job, row, why, part.key, source, seconds)


def _at_once(job: sweep_rows.Job) -> tuple[Any, ...]:
  """Equal for jobs that differ by the seed of the probe alone."""
  labels = job.seed if job.label_fraction < 1 else None
  return job.protocol, job.label_fraction, labels


def _measure(
  jobs: Sequence[sweep_rows.Job],
  entry: feature_cache.Entry,
  prepared: sweep_features.Prepared,
  grid: sweep_grid.Grid,
) -> list[rows_lib.Row]:
  """One row a job, of jobs that are equal to `_at_once`."""
  job, store = jobs[0], prepared.store
  x = {split: f.values for split, f in entry.features.items()}
  y = {split: f.labels for split, f in entry.features.items()}
  classes = len(store.classes) if store.classes else None
  if classes is None:
    classes = classes_of(y)
  if job.label_fraction < 1:
    cut = ['train']
    if protocols.get(job.protocol).refit == 'train_val':
      cut.append('val')  # Else labels would come in by another door.
    for split in cut:
      rows = chosen(y[split], classes, job.label_fraction, job.seed)
      x[split], y[split] = x[split][rows], y[split][rows]
  return runs.evaluate_features(
    x,
    y,
    protocols=[job.protocol],
    name=job.name,
    dataset=job.dataset,
    classes=classes,
    resamples=grid.resamples,
    seeds=[job.seed for job in jobs],
    **entry.about,
  )


def classes_of(labels: dict[str, np.ndarray]) -> int:
  """Classes or bits, of all splits, where the store names none."""
  if labels['train'].ndim == 2:
    return labels['train'].shape[1]
  return 1 + max(int(labels[split].max()) for split in measure.SPLITS)


def chosen(
  labels: np.ndarray, classes: int, fraction: float, seed: int
) -> np.ndarray:
  """Rows of a share of the labels; every class keeps its share of its own."""
  groups = [np.arange(len(labels))]
  if labels.ndim == 1:
    groups = [np.flatnonzero(labels == k) for k in range(classes)]
  return labelled.stratified(groups, fraction=fraction, seed=seed)
