"""Outcomes: metrics of any draw, and their intervals."""

import numpy as np
import pytest

from rsfm_jax.evaluate import bootstrap
from rsfm_jax.evaluate import outcomes

DRAW = np.array([0, 0, 2])
RNG = np.random.default_rng(0)


def maps(classes=3):
  found = RNG.integers(classes, size=(3, 4, 5))
  target = RNG.integers(classes, size=(3, 4, 5))
  target[:, 0] = 255
  return found, target


def made():
  found, target = maps()
  numbers = RNG.normal(size=(3, 4, 5))
  holes = np.where(target == 255, np.nan, 1.0 * target)
  return {
    'classes': (RNG.normal(size=(3, 3)), np.array([0, 2, 1])),
    'labels': (RNG.normal(size=(3, 3)), RNG.integers(2, size=(3, 3))),
    'segmentation': (found, target),
    'map': (numbers, holes),
    'semantic_change': pairs(),
  }


def pairs(classes=3):
  shape = (3, 2, 4, 5)
  return RNG.integers(classes, size=shape), RNG.integers(classes, size=shape)


@pytest.mark.parametrize(
  'kind', ['classes', 'labels', 'segmentation', 'map', 'semantic_change']
)
def test_a_draw_is_an_outcome_of_the_samples_drawn(kind):
  found, target = made()[kind]
  whole = outcomes.of_task(kind, found, target, outputs=3)
  again = outcomes.of_task(kind, found[DRAW], target[DRAW], outputs=3)
  assert len(whole) == 3
  assert tuple(whole.measure()) == outcomes.metrics_of(kind, outputs=3)
  assert whole.measure(DRAW) == pytest.approx(again.measure())


def test_errors_of_numbers_against_numpy():
  found, target = made()['map']
  measured = outcomes.Numbers.of(found, target).measure()
  gap = (found - target)[~np.isnan(target)]
  assert measured['rmse'] == pytest.approx(np.sqrt((gap**2).mean()))
  assert measured['mae'] == pytest.approx(np.abs(gap).mean())


def test_what_is_unlabelled_does_not_count():
  found, target = maps()
  one = outcomes.Maps.of(found, target, classes=3)
  found[:, 0] = 1 - np.minimum(found[:, 0], 1)
  assert (one.tables == outcomes.Maps.of(found, target, classes=3).tables).all()


def test_one_score_of_change_is_two_classes():
  found = np.array([[[0, 1], [1, 0]]])
  target = np.array([[[0, 4], [255, 2]]])
  measured = outcomes.of_task('change', found, target, outputs=1).measure()
  assert tuple(measured) == outcomes.metrics_of('change', outputs=1)
  assert measured['recall'] == 0.5 and measured['precision'] == 1.0


def test_an_interval_holds_its_value_and_comes_again():
  found, target = made()['segmentation']
  outcome = outcomes.of_task('segmentation', found, target, outputs=3)
  one, two = (bootstrap.of_outcome(outcome, resamples=50) for _ in range(2))
  assert one == two
  assert tuple(one) == outcomes.metrics_of('segmentation', outputs=3)
  assert all(found.low <= found.value <= found.high for found in one.values())


def test_sizes_and_empty_targets_are_errors():
  found, target = maps()
  with pytest.raises(ValueError, match='differ in size'):
    outcomes.Maps.of(found[:, 1:], target, classes=3)
  with pytest.raises(ValueError, match='all are NaN'):
    outcomes.Numbers.of(found, np.full(found.shape, np.nan))
  with pytest.raises(ValueError, match='labels reach'):
    outcomes.Maps.of(found, target + 0 * target + 1, classes=3)


def test_windows_of_one_image_are_one_sample_of_a_bootstrap():
  found, target = maps()
  whole = outcomes.of_task('segmentation', found, target, outputs=3)
  parts = outcomes.of_task(
    'segmentation',
    found.reshape(6, 2, 5),
    target.reshape(6, 2, 5),
    outputs=3,
    images=np.repeat([7, 3, 9], 2),
  )
  assert len(parts) == 3
  assert parts.measure() == whole.measure()
  assert (parts.tables[1] == whole.tables[0]).all()


def slow_scores(found, target, classes):
  """SCS of DynamicEarthNet, pixel by pixel: (sc, bc, scs)."""
  both = either = 0
  hits, wrong, missed = np.zeros((3, classes))
  for one, truth in zip(found, target):
    for i in np.ndindex(truth.shape[1:]):
      before, after = (int(date[i]) for date in truth)
      if 255 in (before, after):
        continue
      guess = int(one[1][i])
      changes, says = before != after, one[0][i] != one[1][i]
      both += changes and says
      either += changes or says
      if changes:
        hits[after] += guess == after
        missed[after] += guess != after
        wrong[guess] += guess != after
  present = hits + missed > 0
  iou = hits[present] / (hits + missed + wrong)[present]
  return iou.mean(), both / either, (iou.mean() + both / either) / 2


def test_semantic_change_against_a_loop_over_pixels():
  found, target = pairs(classes=4)
  # A class that is only predicted takes no part in the mean, though it costs.
  target = np.minimum(target, 2)
  target[0, 1, 0], target[1, 0, :, 2] = 255, 255
  measured = outcomes.of_task('semantic_change', found, target, outputs=4)
  sc, bc, scs = slow_scores(found, target, 4)
  got = measured.measure()
  assert (got['sc'], got['bc'], got['scs']) == pytest.approx((sc, bc, scs))
  perfect = outcomes.of_task('semantic_change', target % 255, target, outputs=4)
  assert perfect.measure() == {'sc': 1, 'bc': 1, 'scs': 1, 'miou': 1}


def test_a_pixel_without_a_label_at_either_date_changes_no_score():
  found, target = pairs()
  target[0, 0, 0] = 255
  one = outcomes.of_task('semantic_change', found, target, outputs=3)
  found[0, 1, 0] = (found[0, 1, 0] + 1) % 3
  again = outcomes.of_task('semantic_change', found, target, outputs=3)
  for name in ('sc', 'bc', 'scs'):
    assert one.measure()[name] == again.measure()[name]


def test_what_never_changes_has_no_semantic_score():
  same = np.zeros((1, 2, 2, 2), int)
  measured = outcomes.of_task('semantic_change', same, same, outputs=3)
  assert measured.measure() == {'sc': 0, 'bc': 0, 'scs': 0, 'miou': 1}


def test_tables_of_confusion_have_the_truth_as_rows():
  scores = np.eye(3)[[0, 2, 2, 1]]
  one = outcomes.Classes(scores, np.array([0, 2, 1, 1]))
  np.testing.assert_array_equal(one.table(), [[1, 0, 0], [0, 1, 1], [0, 0, 1]])
  np.testing.assert_array_equal(one.table(np.array([2, 2]))[1], [0, 0, 2])
  bits = outcomes.Labels(np.array([[1.0], [-1.0]]), np.array([[0], [0]]))
  np.testing.assert_array_equal(bits.table(), [[[1, 1], [0, 0]]])
  found, target = maps()
  pixels = outcomes.Maps.of(found, target, classes=3).table()
  assert pixels.shape == (3, 3) and pixels.sum() == (target != 255).sum()
  assert outcomes.Numbers(np.ones((2, 3))).table() is None
