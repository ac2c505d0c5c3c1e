"""Classification metrics of frozen features, from counts or from scores.

Everything that a count can give is computed from one table, so that a
bootstrap resamples integers only. Tables: single label int[K, K] with true
classes as rows; multi-label int[L, 2, 2] with the true bit as row. A metric
here equals scikit-learn's function of the same name.
"""

from collections.abc import Callable
import functools
from typing import Literal, NamedTuple, get_args

import numpy as np

from rsfm_jax.core import choices

Absent = Literal['skipped', 'counted']


class PerClass(NamedTuple):
  precision: np.ndarray  # f64[K]
  recall: np.ndarray  # f64[K]
  f1: np.ndarray  # f64[K]
  iou: np.ndarray  # f64[K], intersection over union
  support: np.ndarray  # i64[K], how often the class is true


def _ratio(numerator, denominator) -> np.ndarray:
  """Element-wise ratio, 0 where the denominator is 0."""
  numerator, denominator = np.broadcast_arrays(numerator, denominator)
  out = np.zeros(numerator.shape)
  return np.divide(numerator, denominator, out=out, where=denominator != 0)


def cells(predictions, labels, *, classes: int) -> np.ndarray:
  """The flat index of the table cell that each answer falls in.

  Args:
    predictions: int[N], or bits int[N, L].
    labels: the same shape.
    classes: K or L.

  Returns:
    i64[N] or i64[N, L].

  Raises:
    ValueError: the shapes differ, or a value is no class.
  """
  predictions, labels = np.asarray(predictions), np.asarray(labels)
  if predictions.shape != labels.shape or labels.ndim not in (1, 2):
    raise ValueError(
      f'predictions {predictions.shape} and labels {labels.shape} must have '
      'one shape, [N] or [N, L].'
    )
  values = 2 if labels.ndim == 2 else classes
  for name, array in (('predictions', predictions), ('labels', labels)):
    if array.size and (array.min() < 0 or array.max() >= values):
      raise ValueError(
        f'{name} reach from {array.min()} to {array.max()}; allowed are 0 '
        f'to {values - 1}.'
      )
  cell = labels.astype(np.int64) * values + predictions.astype(np.int64)
  return cell + 4 * np.arange(classes) if labels.ndim == 2 else cell


def count(cell: np.ndarray, *, classes: int) -> np.ndarray:
  """The table of `cells`: i64[K, K], or i64[L, 2, 2] for i64[N, L]."""
  shape = (classes, 2, 2) if cell.ndim == 2 else (classes, classes)
  return np.bincount(cell.ravel(), minlength=np.prod(shape)).reshape(shape)


def confusion(predictions, labels, *, classes: int) -> np.ndarray:
  """The table of predictions int[N] or bits int[N, L]; rows are the truth."""
  return count(cells(predictions, labels, classes=classes), classes=classes)


def per_class(table: np.ndarray) -> PerClass:
  """Precision, recall, F1 and IoU of each class or label; 0 where undefined."""
  if table.ndim == 3:
    hits, predicted, support = (
      table[:, 1, 1],
      table[:, :, 1].sum(1),
      table[:, 1].sum(1),
    )
  else:
    hits, predicted, support = np.diag(table), table.sum(0), table.sum(1)
  return PerClass(
    precision=_ratio(hits, predicted),
    recall=_ratio(hits, support),
    f1=_ratio(2 * hits, predicted + support),
    iou=_ratio(hits, predicted + support - hits),
    support=support,
  )


def accuracy(table: np.ndarray) -> float:
  """Share of right answers (of right bits for multi-label)."""
  return float(np.trace(table, axis1=-2, axis2=-1).sum() / table.sum())


def macro_f1(table: np.ndarray) -> float:
  """Mean F1 over classes that occur in truth or prediction, or all labels."""
  f1 = per_class(table).f1
  if table.ndim == 2:
    f1 = f1[table.sum(0) + table.sum(1) > 0]
  return float(f1.mean())


def micro_f1(table: np.ndarray) -> float:
  """F1 of the pooled decisions; for one label a sample it is the accuracy."""
  if table.ndim == 2:
    return accuracy(table)
  hits, wrong = table[:, 1, 1].sum(), table[:, 0, 1] + table[:, 1, 0]
  return float(_ratio(2 * hits, 2 * hits + wrong.sum()))


def weighted_f1(table: np.ndarray) -> float:
  """Mean F1 weighted by how often each class is true."""
  parts = per_class(table)
  return float(_ratio((parts.f1 * parts.support).sum(), parts.support.sum()))


def balanced_accuracy(table: np.ndarray) -> float:
  """Mean recall over the classes that are ever true."""
  parts = per_class(table)
  return float(parts.recall[parts.support > 0].mean())


def kappa(table: np.ndarray) -> float:
  """Cohen's kappa; of bits the mean over labels. 0 where chance is certain."""
  if table.ndim == 3:
    return float(np.mean([kappa(label) for label in table]))
  total = max(table.sum(), 1)
  agreed = np.trace(table) / total
  chance = (table.sum(1) / total) @ (table.sum(0) / total)
  return float((agreed - chance) / (1 - chance)) if chance < 1 else 0.0


def mean_iou(table: np.ndarray, *, absent: Absent = 'skipped') -> float:
  """Mean intersection over union of classes [K, K].

  A class that is neither in truth nor in prediction is `skipped` (Galileo,
  OlmoEarth) or `counted` as 0 (PANGAEA), which can halve the mean.
  """
  choices.check(absent, get_args(Absent), key='absent')
  iou = per_class(table).iou
  if absent == 'skipped':
    iou = iou[table.sum(0) + table.sum(1) > 0]
  return float(iou.mean()) if len(iou) else 0.0


class SemanticChange(NamedTuple):
  sc: float  # Mean IoU of the classes of the later date, where truth changes.
  bc: float  # IoU of what changes.
  scs: float  # Their mean.


def semantic_change(changes: np.ndarray, later: np.ndarray) -> SemanticChange:
  """DynamicEarthNet's scores (Toker et al., CVPR 2022, arXiv 2203.12560).

  As its public evaluation counts: SC is a mean over the classes that the truth
  has among changed pixels; a class that is only predicted there costs those
  whose place it takes.

  Args:
    changes: i64[2, 2], whether pixels change; rows are the truth.
    later: i64[K, K], classes at the later date of pixels that truly change.
  """
  parts = per_class(later)
  present = parts.iou[parts.support > 0]
  sc = float(present.mean()) if len(present) else 0.0
  bc = float(per_class(changes).iou[1])
  return SemanticChange(sc, bc, (sc + bc) / 2)


COUNTED: dict[str, Callable[[np.ndarray], float]] = {
  'accuracy': accuracy,
  'macro_f1': macro_f1,
  'micro_f1': micro_f1,
  'weighted_f1': weighted_f1,
  'balanced_accuracy': balanced_accuracy,
  'kappa': kappa,
}


def counted(name: str) -> Callable[[np.ndarray], float]:
  """The metric `name` as a function of a table.

  Raises:
    ValueError: there is no such metric.
  """
  return COUNTED[choices.check(name, COUNTED, key='metric')]


def top_k(scores: np.ndarray, labels: np.ndarray, *, k: int) -> float:
  """Share of samples whose class is among the k best of scores [N, K]."""
  best = np.argsort(-scores, axis=1, kind='stable')[:, :k]
  return float((best == labels[:, None]).any(1).mean())


def calibration_error(
  probabilities: np.ndarray, labels: np.ndarray, *, bins: int = 15
) -> float:
  """Expected calibration error over equal-width bins of the confidence.

  Args:
    probabilities: f[N, K].
    labels: int[N].
    bins: their number; a bin owns its upper edge.
  """
  confidence = probabilities.max(1)
  right = probabilities.argmax(1) == labels
  edges = np.linspace(0.0, 1.0, bins + 1)[1:-1]
  place = np.searchsorted(edges, confidence, side='left')
  gap = np.bincount(place, right - confidence, minlength=bins)
  return float(np.abs(gap).sum() / len(labels))


def average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
  """Area under precision over recall at the distinct scores; no interpolation.

  Args:
    scores: f[N]; higher means positive. Equal scores share one threshold.
    targets: bits int[N]; without a positive the result is 0.
  """
  order = np.argsort(-scores, kind='stable')
  scores, hits = scores[order], np.cumsum(targets[order])
  last = np.append(np.diff(scores) != 0, True)
  hits, seen = hits[last], np.flatnonzero(last) + 1
  steps = np.diff(hits, prepend=0)
  return float(_ratio((steps * hits / seen).sum(), hits[-1]))


def mean_average_precision(
  scores: np.ndarray, targets: np.ndarray, *, average: str
) -> float:
  """`micro` pools all decisions of [N, L]; `macro` skips empty labels."""
  choices.check(average, ('micro', 'macro'), key='average')
  if average == 'micro':
    return average_precision(scores.ravel(), targets.ravel())
  held = np.flatnonzero(targets.any(0))
  if not len(held):
    return 0.0
  return float(
    np.mean([average_precision(scores[:, i], targets[:, i]) for i in held])
  )


# Of scores f[N, K] or f[N, L] against classes int[N] or bits [N, L].
SCORED: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
  'top_5': functools.partial(top_k, k=5),
  'calibration_error': calibration_error,
  'micro_map': functools.partial(mean_average_precision, average='micro'),
  'macro_map': functools.partial(mean_average_precision, average='macro'),
}
_OF_CLASSES = (*COUNTED, 'top_5', 'calibration_error')
_OF_BITS = ('micro_f1', 'macro_f1', 'weighted_f1', 'micro_map', 'macro_map')


class Answers(NamedTuple):
  """Predictions beside the truth.

  `scores` are probabilities or shares of votes, or what has their order.
  """

  predictions: np.ndarray  # int[N], or bits [N, L]
  scores: np.ndarray  # f[N, K], or f[N, L]
  labels: np.ndarray  # int[N], or bits [N, L]
  classes: int


def measure(name: str, answers: Answers) -> float:
  """One metric, of counts or of scores.

  Raises:
    ValueError: there is no such metric, or none for such labels.
  """
  names = names_of(answers.labels)
  choices.check(name, names, key='metric')
  if name in SCORED:
    return SCORED[name](answers.scores, answers.labels)
  found, labels, classes = answers.predictions, answers.labels, answers.classes
  return COUNTED[name](confusion(found, labels, classes=classes))


def names_of(labels: np.ndarray) -> tuple[str, ...]:
  """The metrics that are defined for such labels."""
  return _OF_BITS if np.asarray(labels).ndim == 2 else _OF_CLASSES
