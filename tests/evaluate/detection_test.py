"""Average precision of boxes against a loop that takes one box at a time."""

import numpy as np
import pytest

from rsfm_jax.evaluate import bootstrap
from rsfm_jax.evaluate import detection
from rsfm_jax.evaluate import outcomes
from tests.tasks.detection import polygons

IMAGES, OBJECTS, FOUND, CLASSES = 6, 4, 9, 3


def made(oriented, seed=0):
  """Objects, and detections that are shifted copies of them, or noise."""
  rng = np.random.default_rng(seed)
  target = np.zeros((IMAGES, OBJECTS, 6), np.float32)
  target[..., :2] = rng.uniform(10, 50, (IMAGES, OBJECTS, 2))
  target[..., 2:4] = rng.uniform(8, 16, (IMAGES, OBJECTS, 2))
  if oriented:
    target[..., 4] = rng.uniform(-1, 1, (IMAGES, OBJECTS))
  target[..., 5] = rng.integers(-1, CLASSES - 1, (IMAGES, OBJECTS))
  found = np.zeros((IMAGES, FOUND, 7), np.float32)
  found[..., :5] = target[:, rng.integers(OBJECTS, size=FOUND), :5]
  found[..., :2] += rng.normal(0, 1.5, (IMAGES, FOUND, 2))
  found[..., 5] = rng.permutation(IMAGES * FOUND).reshape(IMAGES, FOUND) / 60
  found[..., 6] = rng.integers(0, CLASSES, (IMAGES, FOUND))
  found[:, -1, 5:] = (0, -1)
  return found, target


def slow(found, target, label, least, images):
  """Recall and precision after every detection of a class, over images."""
  entries = []
  for place, i in enumerate(images):
    for row in found[i]:
      if row[6] == label and row[5] > 0:
        entries.append((-row[5], place, row))
  entries.sort(key=lambda entry: entry[0])
  taken, right, curve = set(), 0, []
  total = sum((target[i][:, 5] == label).sum() for i in images)
  for seen, (_, place, row) in enumerate(entries, 1):
    best, which = 0.0, None
    for k, truth in enumerate(target[images[place]]):
      if truth[5] == label and (o := polygons.iou(row, truth)) > best:
        best, which = o, k
    if best >= least and (place, which) not in taken:
      taken.add((place, which))
      right += 1
    curve.append((right / total, right / seen))
  return curve


def slow_area(curve):
  """Sum over the steps of recall, of the best precision from there on."""
  total, before = 0.0, 0.0
  for i, (recall, _) in enumerate(curve):
    total += (recall - before) * max(p for _, p in curve[i:])
    before = recall
  return total


def slow_points(curve):
  best = lambda at: max((p for r, p in curve if r >= at - 1e-9), default=0)
  return np.mean([best(k / 10) for k in range(11)])


@pytest.mark.parametrize('oriented', [False, True])
@pytest.mark.parametrize('images', [None, [0, 0, 2, 5, 5, 5]])
def test_precision_is_that_of_the_loop(oriented, images):
  found, target = made(oriented)
  kind = 'oriented_boxes' if oriented else 'boxes'
  outcome = outcomes.of_task(kind, found, target, outputs=CLASSES)
  drawn = np.arange(IMAGES) if images is None else np.array(images)
  measured = outcome.measure(None if images is None else drawn)
  every = list(detection.OVERLAPS)
  curves = {
    (k, least): slow(found, target, k, least, drawn)
    for k in (0, 1)
    for least in every
  }
  for k in (0, 1):  # Nothing is of class 2.
    wanted = slow_area(curves[k, 0.5])
    assert measured[f'ap50/{k}'] == pytest.approx(wanted, abs=1e-9)
  mean = lambda score, overlaps: np.mean(
    [score(curves[k, least]) for k in (0, 1) for least in overlaps]
  )
  assert 0 < measured['map'] < measured['map50'] < 1
  assert measured['map50'] == pytest.approx(mean(slow_area, [0.5]))
  assert measured['map50_11points'] == pytest.approx(mean(slow_points, [0.5]))
  assert measured['map'] == pytest.approx(mean(slow_area, every))
  assert 'ap50/2' not in measured


def test_what_is_found_exactly_is_precise():
  _, target = made(True)
  found = np.insert(target, 5, 0.9, 2)
  found[..., 5] *= found[..., 6] >= 0
  measured = detection.Boxes.of(found, target, classes=CLASSES, oriented=True)
  assert measured.measure()['map'] == pytest.approx(1)
  twice = np.concatenate([found, found], 1)
  twice[:, OBJECTS:, 5] *= 0.9  # Found again is wrong, and comes later.
  again = detection.Boxes.of(twice, target, classes=CLASSES, oriented=True)
  assert again.measure()['map'] == pytest.approx(1)
  assert again.hits.sum() == measured.hits.sum() < again.hits.size


def test_nothing_found_is_zero_and_nothing_to_find_an_error():
  found, target = made(False)
  found[..., 5:] = (0, -1)
  none = detection.Boxes.of(found, target, classes=CLASSES, oriented=False)
  assert set(none.measure().values()) == {0.0}
  target[..., 5] = -1
  with pytest.raises(ValueError, match='no image has an object'):
    detection.Boxes.of(found, target, classes=CLASSES, oriented=False)


def test_intervals_hold_their_values():
  outcome = outcomes.of_task('boxes', *made(False), outputs=CLASSES)
  found = bootstrap.of_outcome(outcome, resamples=40)
  assert set(outcomes.metrics_of('boxes', outputs=CLASSES)) <= set(found)
  for name, interval in found.items():
    assert interval.low <= interval.value <= interval.high, name
