"""Average precision of detected boxes, as PASCAL VOC defines it.

Of the boxes found in all images, by falling score, one is right if the object
of its class that it overlaps most is overlapped enough and was not found
before. Average precision is the area under the best precision at every recall
(VOC from 2010 on) or its mean at eleven recalls (VOC 2007, and DOTA). No object
counts as difficult.
"""

from collections.abc import Iterator
import dataclasses
import functools

import jax
import numpy as np

from rsfm_jax.tasks.detection import boxes as boxes_lib
from rsfm_jax.tasks.detection import rotated

# Overlaps of COCO's mean; the first alone is that of VOC.
OVERLAPS = np.arange(10) * 0.05 + 0.5
METRICS = ('map50', 'map50_11points', 'map')


def area(recall: np.ndarray, precision: np.ndarray) -> float:
  """Under the best precision at that recall or above; f[N], recall rising."""
  if not len(recall):
    return 0.0
  best = np.maximum.accumulate(precision[::-1])[::-1]
  return float((np.diff(recall, prepend=0) * best).sum())


def eleven_points(recall: np.ndarray, precision: np.ndarray) -> float:
  """Mean of the best precision at recalls of 0, 0.1, ..., 1 or above."""
  best = [
    precision[recall >= at - 1e-9].max(initial=0) for at in np.arange(11) / 10
  ]
  return float(np.mean(best))


@dataclasses.dataclass(frozen=True)
class Boxes:
  """What was found in I images of K classes, matched with what is there.

  Attributes:
    image: int[N], of a detection; all are sorted by falling score.
    label: int[N].
    hits: bool[N, T], right at the overlaps of `OVERLAPS`.
    objects: int[I, K], how many there are.
  """

  image: np.ndarray
  label: np.ndarray
  hits: np.ndarray
  objects: np.ndarray

  @classmethod
  def of(
    cls, found: np.ndarray, target: np.ndarray, *, classes: int, oriented: bool
  ) -> 'Boxes':
    """From detections and objects, in the pixels that the model sees.

    Args:
      found: f[I, D, 7], box (cx, cy, w, h, angle), score, class; score 0 is
        none.
      target: f[I, M, 6], box and class; class -1 is none.
      classes: K.
      oriented: else all angles are 0.

    Raises:
      ValueError: there is no object at all.
    """
    if not (target[..., 5] >= 0).any():
      raise ValueError('no image has an object.')
    parts, objects = [], np.zeros((len(target), classes), np.int64)
    overlap = _overlap(rotated.iou if oriented else boxes_lib.iou)
    for number, (one, truth) in enumerate(zip(found, target)):
      there = truth[:, 5] >= 0
      objects[number] = np.bincount(
        truth[there, 5].astype(int), minlength=classes
      )
      # All rows, for one shape; those that are none are left out afterwards.
      iou = np.asarray(overlap(one[:, :5], truth[:, :5]))
      iou = np.where((one[:, 6:7] == truth[:, 5]) & there, iou, -1)
      order = np.argsort(-one[:, 5], kind='stable')
      order = order[one[order, 5] > 0]
      for row, hit in zip(order, _hits(iou[order])):
        parts.append((one[row, 5], number, int(one[row, 6]), hit))
    # Stable: of equal scores the earlier image comes first.
    parts.sort(key=lambda part: -part[0])
    count = len(parts)
    hits = [part[3] for part in parts]
    return cls(
      np.fromiter((part[1] for part in parts), int, count),
      np.fromiter((part[2] for part in parts), int, count),
      np.array(hits, bool).reshape(count, len(OVERLAPS)),
      objects,
    )

  def __len__(self) -> int:
    return len(self.objects)

  def table(self, draw: np.ndarray | None = None) -> None:
    """Boxes are not confused."""

  def measure(self, draw: np.ndarray | None = None) -> dict[str, float]:
    """`METRICS`, means over the classes with an object, and ap50/<class>.

    `map` is the mean over the overlaps 0.5 to 0.95. A class of which images
    that were drawn show no object has the value NaN.
    """
    times = np.ones(len(self), int)
    if draw is not None:
      times = np.bincount(draw, minlength=len(self))
    known = np.flatnonzero(self.objects.any(0))
    curves = [self._curves(k, times) for k in known]
    ap50 = [area(*c[0]) if c else np.nan for c in curves]
    points = [eleven_points(*c[0]) if c else np.nan for c in curves]
    every = [np.mean([area(*x) for x in c]) if c else np.nan for c in curves]
    means = [_mean(values) for values in (ap50, points, every)]
    each = {f'ap50/{k}': value for k, value in zip(known, ap50)}
    return dict(zip(METRICS, means)) | each

  def _curves(
    self, label: int, times: np.ndarray
  ) -> list[tuple[np.ndarray, np.ndarray]]:
    """(recall, precision) at every overlap; none without an object."""
    total = times @ self.objects[:, label]
    if not total:
      return []
    mine = self.label == label
    weight = times[self.image[mine]]
    seen = np.maximum(weight.cumsum(), 1)
    right = (weight[:, None] * self.hits[mine]).cumsum(0)
    return [(column / total, column / seen) for column in right.T]


@functools.cache
def _overlap(iou):
  return jax.jit(lambda one, other: iou(one[:, None], other[None]))


def _hits(iou: np.ndarray) -> Iterator[np.ndarray]:
  """bool[T] of every detection f[N, M] by falling score; -1 never fits."""
  taken = np.zeros((len(OVERLAPS), iou.shape[1]), bool)
  for row in iou:
    best = row.argmax()
    # Less by what float32 rounds.
    hit = (row[best] >= OVERLAPS - 1e-6) & ~taken[:, best]
    taken[hit, best] = True
    yield hit


def _mean(values: list[float]) -> float:
  """Of those that are no NaN."""
  known = [value for value in values if not np.isnan(value)]
  return float(np.mean(known)) if known else 0.0
