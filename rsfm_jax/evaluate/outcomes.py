"""Predictions beside targets, and every metric of any draw of the samples.

An outcome keeps what a bootstrap resamples: cells of a confusion table, a
table per image, scores, or sums of errors per sample.
"""

import dataclasses
from typing import Protocol

import numpy as np

from rsfm_jax.evaluate import detection
from rsfm_jax.evaluate import metrics

UNLABELLED = 255


class Outcome(Protocol):
  """Predictions of a split.

  `measure` gives {metric: value} of samples, by index and as often as they are
  drawn; all of them once for None. What a draw cannot say is NaN. `table` gives
  their confusion, as `metrics.confusion` does; None of numbers and boxes.
  """

  def __len__(self) -> int: ...

  def measure(self, draw: np.ndarray | None = None) -> dict[str, float]: ...

  def table(self, draw: np.ndarray | None = None) -> np.ndarray | None: ...


def _drawn(values: np.ndarray, draw: np.ndarray | None) -> np.ndarray:
  return values if draw is None else values[draw]


@dataclasses.dataclass(frozen=True)
class Classes:
  """One class per sample: scores f[N, K] against labels int[N]."""

  scores: np.ndarray
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.labels)

  def table(self, draw: np.ndarray | None = None) -> np.ndarray:
    """i64[K, K], rows the truth."""
    found = _drawn(self.scores, draw).argmax(-1)
    labels = _drawn(self.labels, draw)
    return metrics.confusion(found, labels, classes=self.scores.shape[1])

  def measure(self, draw: np.ndarray | None = None) -> dict[str, float]:
    table = self.table(draw)
    return {
      'accuracy': metrics.accuracy(table),
      'macro_f1': metrics.macro_f1(table),
      'balanced_accuracy': metrics.balanced_accuracy(table),
    }


@dataclasses.dataclass(frozen=True)
class Labels:
  """Several labels per sample: scores f[N, L] against bits [N, L]."""

  scores: np.ndarray
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.labels)

  def table(self, draw: np.ndarray | None = None) -> np.ndarray:
    """i64[L, 2, 2], rows the true bit."""
    scores, bits = _drawn(self.scores, draw), _drawn(self.labels, draw)
    found = (scores > 0).astype(int)
    return metrics.confusion(found, bits, classes=bits.shape[1])

  def measure(self, draw: np.ndarray | None = None) -> dict[str, float]:
    scores, bits = _drawn(self.scores, draw), _drawn(self.labels, draw)
    table = self.table(draw)
    precision = lambda average: (
      metrics.mean_average_precision(scores, bits, average=average)
      if bits.any()
      else 0.0
    )
    return {
      'macro_map': precision('macro'),
      'micro_map': precision('micro'),
      'macro_f1': metrics.macro_f1(table),
      'micro_f1': metrics.micro_f1(table),
    }


@dataclasses.dataclass(frozen=True)
class Maps:
  """One class per pixel: a table i64[N, K, K] per image, rows the truth."""

  tables: np.ndarray

  @classmethod
  def of(cls, found: np.ndarray, target: np.ndarray, *, classes: int) -> 'Maps':
    """From classes [N, H, W]; where the target is 255 nothing counts.

    Raises:
      ValueError: another size, or a code that is no class.
    """
    if found.shape != target.shape:
      raise ValueError(
        f'predictions {found.shape} and targets {target.shape} differ in size.'
      )
    out = np.zeros((len(target), classes, classes), np.int64)
    for table, one, truth in zip(out, found, target):
      counts = truth != UNLABELLED
      table[:] = metrics.confusion(
        one[counts].astype(int), truth[counts].astype(int), classes=classes
      )
    return cls(out)

  def __len__(self) -> int:
    return len(self.tables)

  def table(self, draw: np.ndarray | None = None) -> np.ndarray:
    """i64[K, K] of all pixels, rows the truth."""
    return _drawn(self.tables, draw).sum(0)

  def measure(self, draw: np.ndarray | None = None) -> dict[str, float]:
    """mIoU twice, absent classes skipped or 0; f1 and iou of class 1."""
    table = self.table(draw)
    out = {
      'miou': metrics.mean_iou(table),
      'miou_absent_zero': metrics.mean_iou(table, absent='counted'),
      'accuracy': metrics.accuracy(table) if table.any() else 0.0,
      'macro_f1': metrics.macro_f1(table) if table.any() else 0.0,
      'kappa': metrics.kappa(table),
    }
    if len(table) == 2:
      parts = metrics.per_class(table)
      out |= {
        'f1': float(parts.f1[1]),
        'iou': float(parts.iou[1]),
        'precision': float(parts.precision[1]),
        'recall': float(parts.recall[1]),
      }
    return out


@dataclasses.dataclass(frozen=True)
class SemanticChange:
  """Classes of two dates: see `metrics.semantic_change`.

  Attributes:
    changes: i64[N, 2, 2] per image, whether pixels change.
    later: i64[N, K, K], classes at the second date of those that do.
    maps: of both dates.
  """

  changes: np.ndarray
  later: np.ndarray
  maps: Maps

  @classmethod
  def of(
    cls, found: np.ndarray, target: np.ndarray, *, classes: int
  ) -> 'SemanticChange':
    """From classes [N, 2, H, W].

    A pixel changes where its class does. One that is unlabelled at either date
    does not count for changes (the public evaluation, whose labels are whole,
    would take it for a change).

    Raises:
      ValueError: another size, or a code that is no class.
    """
    if found.shape != target.shape:
      raise ValueError(
        f'predictions {found.shape} and targets {target.shape} differ in size.'
      )
    known = (target != UNLABELLED).all(1)
    differ = lambda codes: (codes[:, 0] != codes[:, 1]).astype(np.uint8)
    truth = differ(target)
    changes = Maps.of(
      differ(found), np.where(known, truth, UNLABELLED), classes=2
    )
    counts = known & (truth > 0)
    later = np.where(counts, target[:, 1], UNLABELLED)
    both = lambda codes: codes.reshape(len(codes), -1, codes.shape[-1])
    return cls(
      changes.tables,
      Maps.of(found[:, 1], later, classes=classes).tables,
      Maps.of(both(found), both(target), classes=classes),
    )

  def __len__(self) -> int:
    return len(self.changes)

  def table(self, draw: np.ndarray | None = None) -> np.ndarray:
    """i64[K, K] of the pixels of both dates, rows the truth."""
    return self.maps.table(draw)

  def measure(self, draw: np.ndarray | None = None) -> dict[str, float]:
    """SCS, SC and BC, and the mIoU over both dates."""
    found = metrics.semantic_change(
      _drawn(self.changes, draw).sum(0), _drawn(self.later, draw).sum(0)
    )
    return found._asdict() | {'miou': self.maps.measure(draw)['miou']}


@dataclasses.dataclass(frozen=True)
class Numbers:
  """Numbers: sums of squared and absolute errors and counts, f64[N, 3]."""

  sums: np.ndarray

  @classmethod
  def of(cls, found: np.ndarray, target: np.ndarray) -> 'Numbers':
    """From values [N, ...]; where the target is NaN nothing counts.

    Raises:
      ValueError: another size, or no target at all.
    """
    if found.shape != target.shape:
      raise ValueError(
        f'predictions {found.shape} and targets {target.shape} differ in size.'
      )
    counts = ~np.isnan(target).reshape(len(target), -1)
    if not counts.any():
      raise ValueError('no target is a number: all are NaN.')
    gap = (found.astype(np.float64) - target).reshape(len(target), -1)
    gap = np.where(counts, gap, 0)
    sums = (np.square(gap).sum(1), np.abs(gap).sum(1), counts.sum(1))
    return cls(np.stack(sums, 1).astype(np.float64))

  def __len__(self) -> int:
    return len(self.sums)

  def table(self, draw: np.ndarray | None = None) -> None:
    """Numbers are not confused."""

  def measure(self, draw: np.ndarray | None = None) -> dict[str, float]:
    """In the units of the target."""
    squared, absolute, count = _drawn(self.sums, draw).sum(0)
    count = max(count, 1)
    return {
      'rmse': float(np.sqrt(squared / count)),
      'mae': float(absolute / count),
    }


LOWER_IS_BETTER = ('rmse', 'mae')
_MAPS = ('miou', 'miou_absent_zero', 'accuracy', 'macro_f1', 'kappa')
_TWO = ('f1', 'iou', 'precision', 'recall')
_METRICS = {
  'classes': ('accuracy', 'macro_f1', 'balanced_accuracy'),
  'labels': ('macro_map', 'micro_map', 'macro_f1', 'micro_f1'),
  'scalar': LOWER_IS_BETTER,
  'map': LOWER_IS_BETTER,
  'semantic_change': ('sc', 'bc', 'scs', 'miou'),
  'boxes': detection.METRICS,
  'oriented_boxes': detection.METRICS,
}


def metrics_of(kind: str, *, outputs: int) -> tuple[str, ...]:
  """What the outcome of a task by its kind measures, before there is one."""
  return _METRICS.get(kind, _MAPS + (_TWO if outputs <= 2 else ()))


def of_task(
  kind: str,
  found: np.ndarray,
  target: np.ndarray,
  *,
  outputs: int,
  images: np.ndarray | None = None,
) -> Outcome:
  """The outcome of a task by its kind (`tasks.spec.Kind`).

  Args:
    kind: of the task.
    found: predictions, as `Task.predict` gives them.
    target: what they should be.
    outputs: of the task.
    images: int[N], which image a window of a dense task belongs to: a
      bootstrap draws images.
  """
  if kind == 'classes':
    return Classes(found, target)
  if kind == 'labels':
    return Labels(found, target)
  if kind in ('scalar', 'map'):
    numbers = Numbers.of(found, target)
    return Numbers(_by_image(numbers.sums, images))
  if kind in ('boxes', 'oriented_boxes'):
    return detection.Boxes.of(
      found, target, classes=outputs, oriented=kind == 'oriented_boxes'
    )
  if kind == 'change' and outputs == 1:  # One score: change or none.
    known = target != UNLABELLED
    target = np.where(known, np.minimum(target, 1), target)
  if kind == 'semantic_change':
    both = SemanticChange.of(found, target, classes=outputs)
    return SemanticChange(
      _by_image(both.changes, images),
      _by_image(both.later, images),
      Maps(_by_image(both.maps.tables, images)),
    )
  maps = Maps.of(found, target, classes=max(outputs, 2))
  return Maps(_by_image(maps.tables, images))


def _by_image(counts: np.ndarray, images: np.ndarray | None) -> np.ndarray:
  """Counts [N, ...] of windows added up to those of their images."""
  if images is None:
    return counts
  names, place = np.unique(images, return_inverse=True)
  out = np.zeros((len(names), *counts.shape[1:]), counts.dtype)
  np.add.at(out, place, counts)
  return out
