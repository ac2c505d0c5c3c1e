"""Counted metrics equal scikit-learn's; scores follow their definitions."""

import functools

import numpy as np
import pytest

from rsfm_jax.evaluate import metrics

GOLDEN = 1e-6  # The golden values were rounded to float32.


def load(shared, name):
  return np.load(shared / 'parity' / f'{name}.npz', allow_pickle=False)


def softmax(x):
  x = np.exp(x - x.max(1, keepdims=True))
  return x / x.sum(1, keepdims=True)


def test_classification_parity(shared):
  z = load(shared, '10_metrics_classification')
  logits, labels = z['in/logits'].astype(np.float64), z['in/labels']
  table = metrics.confusion(logits.argmax(1), labels, classes=7)
  assert metrics.accuracy(table) == pytest.approx(z['out/top1'], abs=GOLDEN)
  assert metrics.top_k(logits, labels, k=5) == z['out/top5']
  for ours, theirs in (
    ('macro_f1', 'f1_macro'),
    ('micro_f1', 'f1_micro'),
    ('weighted_f1', 'f1_weighted'),
    ('balanced_accuracy', 'balanced_accuracy'),
  ):
    value = metrics.counted(ours)(table)
    assert value == pytest.approx(z[f'out/{theirs}'], abs=GOLDEN), ours
  error = metrics.calibration_error(softmax(logits), labels)
  assert error == pytest.approx(z['out/ece_15_bins'], abs=GOLDEN)


def test_multilabel_parity(shared):
  z = load(shared, '10_metrics_multilabel')
  scores, targets = z['in/scores'].astype(np.float64), z['in/targets']
  table = metrics.confusion((scores > 0).astype(int), targets, classes=6)
  for ours, theirs in (
    ('macro_f1', 'f1_macro'),
    ('micro_f1', 'f1_micro'),
    ('weighted_f1', 'f1_weighted'),
    ('accuracy', 'elementwise_accuracy'),
  ):
    value = metrics.counted(ours)(table)
    assert value == pytest.approx(z[f'out/{theirs}'], abs=GOLDEN), ours
  each = [
    metrics.average_precision(scores[:, i], targets[:, i]) for i in range(6)
  ]
  np.testing.assert_allclose(each, z['out/ap_per_label'], atol=GOLDEN)
  for average, name in (('micro', 'map_micro'), ('macro', 'map_macro_valid')):
    value = metrics.mean_average_precision(scores, targets, average=average)
    assert value == pytest.approx(z[f'out/{name}'], abs=GOLDEN)


def test_segmentation_parity(shared):
  z = load(shared, '10_metrics_segmentation')
  counts = z['in/y_true'] != 255
  table = metrics.confusion(
    z['in/y_pred'][counts], z['in/y_true'][counts], classes=6
  )
  near = functools.partial(pytest.approx, abs=GOLDEN)
  assert metrics.mean_iou(table) == near(z['out/miou_skip_absent'])
  counted = metrics.mean_iou(table, absent='counted')
  assert counted == near(z['out/miou_absent_zero'])
  assert counted < metrics.mean_iou(table)
  assert metrics.kappa(table) == near(z['out/kappa'])
  iou = metrics.per_class(table).iou
  there = np.isfinite(z['out/iou_per_class'])
  np.testing.assert_allclose(
    iou[there], z['out/iou_per_class'][there], atol=GOLDEN
  )
  with pytest.raises(ValueError, match="absent='dropped'"):
    metrics.mean_iou(table, absent='dropped')


def test_kappa_is_what_goes_beyond_chance():
  sure = metrics.confusion([0, 1, 1], [0, 1, 1], classes=2)
  assert metrics.kappa(sure) == 1.0
  constant = metrics.confusion([0, 0, 0, 0], [0, 1, 0, 1], classes=2)
  assert metrics.kappa(constant) == 0.0
  one = metrics.confusion([0, 0], [0, 0], classes=2)
  assert metrics.kappa(one) == 0.0  # Chance alone is right.


def test_metrics_of_classes_equal_plain_definitions():
  """Class 6 is never predicted and never true: what its absence does."""
  rng = np.random.default_rng(3)
  probabilities = softmax(2 * rng.normal(size=(200, 6)))
  probabilities = np.concatenate([probabilities, np.zeros((200, 1))], 1)
  found = probabilities.argmax(1)
  truth = np.where(rng.random(200) < 0.6, found, rng.integers(6, size=200))
  hit = lambda k: np.sum((found == k) & (truth == k))
  either = lambda k: np.sum((found == k) | (truth == k))
  both = lambda k: np.sum(found == k) + np.sum(truth == k)
  oracle = {
    'accuracy': np.mean(found == truth),
    'micro_f1': np.mean(found == truth),
    'macro_f1': np.mean([2 * hit(k) / both(k) for k in range(6)]),
    'top_5': np.mean(
      [
        t in sorted(range(7), key=lambda k: -p[k])[:5]
        for p, t in zip(probabilities, truth)
      ]
    ),
  }
  chance = sum(np.mean(found == k) * np.mean(truth == k) for k in range(7))
  oracle['kappa'] = (oracle['accuracy'] - chance) / (1 - chance)
  error, confidence = 0.0, probabilities.max(1)
  for i in range(15):
    inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
    if inside.any():
      right = np.mean((found == truth)[inside])
      error += np.mean(inside) * abs(right - confidence[inside].mean())
  oracle['calibration_error'] = error
  answers = metrics.Answers(found, probabilities, truth, 7)
  for name, value in oracle.items():
    assert metrics.measure(name, answers) == pytest.approx(value), name
  table = metrics.confusion(found, truth, classes=7)
  ious = [hit(k) / either(k) for k in range(6)]
  assert metrics.mean_iou(table) == pytest.approx(np.mean(ious))
  counted = metrics.mean_iou(table, absent='counted')
  assert counted == pytest.approx(sum(ious) / 7)


def test_metrics_of_bits_equal_plain_definitions():
  """Label 4 has no positive: macro mAP skips it, macro F1 counts it as 0."""
  rng = np.random.default_rng(4)
  scores = rng.random((60, 5)).round(1)  # With ties.
  truth = (rng.random((60, 5)) < scores).astype(int)
  truth[:, 4] = 0
  found = (scores > 0.5).astype(int)

  def precision(s, t):
    """Over thresholds from high to low: precision x the recall it adds."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(s), reverse=True):
      chosen = s >= threshold
      recall = t[chosen].sum() / t.sum()
      total += (recall - before) * t[chosen].mean()
      before = recall
    return total

  def f1(p, t):
    return 2 * np.sum(p & t) / max(p.sum() + t.sum(), 1)

  oracle = {
    'macro_map': np.mean(
      [precision(scores[:, i], truth[:, i]) for i in range(4)]
    ),
    'micro_map': precision(scores.ravel(), truth.ravel()),
    'macro_f1': np.mean([f1(*x) for x in zip(found.T, truth.T)]),
    'micro_f1': f1(found.ravel(), truth.ravel()),
  }
  answers = metrics.Answers(found, scores, truth, 5)
  for name, value in oracle.items():
    assert metrics.measure(name, answers) == pytest.approx(value), name


def test_one_door_to_all_metrics():
  rng = np.random.default_rng(0)
  scores, labels = rng.random((40, 7)), rng.integers(7, size=40)
  answers = metrics.Answers(scores.argmax(1), scores, labels, 7)
  found = {n: metrics.measure(n, answers) for n in metrics.names_of(labels)}
  assert found['top_5'] == metrics.top_k(scores, labels, k=5)
  assert found['accuracy'] == np.mean(scores.argmax(1) == labels)
  bits = (rng.random((40, 7)) > 0.5).astype(int)
  answers = metrics.Answers((scores > 0.5).astype(int), scores, bits, 7)
  found = {n: metrics.measure(n, answers) for n in metrics.names_of(bits)}
  assert found['micro_map'] == metrics.mean_average_precision(
    scores, bits, average='micro'
  )
  for name in ('kappa', 'top_5'):
    with pytest.raises(ValueError, match=f"metric='{name}'"):
      metrics.measure(name, answers)


def test_labels_without_a_positive_have_no_precision():
  none = np.zeros((4, 2), int)
  for average in ('micro', 'macro'):
    value = metrics.mean_average_precision(
      np.ones((4, 2)), none, average=average
    )
    assert value == 0.0


def test_rows_of_the_table_are_the_truth():
  table = metrics.confusion([1, 1, 0], [0, 1, 0], classes=2)
  np.testing.assert_array_equal(table, [[1, 1], [0, 1]])
  parts = metrics.per_class(table)
  np.testing.assert_allclose(parts.precision, [1.0, 0.5])
  np.testing.assert_allclose(parts.recall, [0.5, 1.0])
  np.testing.assert_array_equal(parts.support, [2, 1])


def test_a_class_that_never_occurs_does_not_lower_macro_f1():
  few = metrics.confusion([0, 1], [0, 1], classes=2)
  many = metrics.confusion([0, 1], [0, 1], classes=9)
  assert metrics.macro_f1(few) == metrics.macro_f1(many) == 1.0


def test_tied_scores_share_one_threshold():
  targets = np.array([1, 0, 0, 1])
  tied = metrics.average_precision(np.zeros(4), targets)
  assert tied == 0.5  # Precision of the only threshold, at any order.


def test_answers_outside_the_classes_are_refused():
  with pytest.raises(ValueError, match='labels reach from 0 to 3'):
    metrics.confusion([0, 1], [0, 3], classes=3)
  with pytest.raises(ValueError, match='one shape'):
    metrics.confusion([0, 1], [0], classes=3)
  with pytest.raises(ValueError, match='Did you mean "macro_f1"'):
    metrics.counted('macrof1')
