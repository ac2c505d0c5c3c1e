"""Confusion, predictions, learning curves, certificates: as they were given."""

import numpy as np
import pytest

from rsfm_jax.plots import certificate
from rsfm_jax.plots import confusion
from rsfm_jax.plots import display
from rsfm_jax.plots import label_fractions
from rsfm_jax.plots import predictions
from rsfm_jax.sensors import catalogue

OPT = catalogue.get('opt')
TABLE = np.array([[3, 1, 0], [0, 2, 2], [0, 0, 0]])
NAMES = ('sea', 'wood', 'town')


def test_a_row_of_the_map_is_where_a_class_went():
  axes, _ = confusion.figure(TABLE, classes=NAMES, title='mine').axes
  shown = np.asarray(axes.images[0].get_array())
  np.testing.assert_allclose(shown, [[0.75, 0.25, 0], [0, 0.5, 0.5], [0, 0, 0]])
  assert [text.get_text() for text in axes.texts][:3] == ['75', '25', '0']
  assert axes.get_title(loc='left') == 'mine'
  assert axes.get_ylabel() == 'true'


def test_classes_are_told_one_by_one():
  head, sea, wood, town = confusion.per_class(TABLE, classes=NAMES)
  assert head[1:5] == ['precision', 'recall', 'F1', 'IoU']
  assert sea == ['sea', '1.000', '0.750', '0.857', '0.750', '4']
  assert wood[1:3] == ['0.667', '0.500']
  assert town[1:] == ['0.000', '0.000', '0.000', '0.000', '0']
  bits = np.array([[[5, 1], [0, 4]]])
  assert confusion.per_class(bits, classes=['a'])[1][1:3] == ['0.800', '1.000']


@pytest.mark.parametrize('show', [confusion.figure, confusion.per_class])
def test_tables_and_names_must_fit(show):
  with pytest.raises(ValueError, match='does not fit 2 classes'):
    show(TABLE, classes=NAMES[:2])


def codes():
  rng = np.random.default_rng(0)
  images = rng.uniform(0, 255, (2, 4, 4, 3))
  targets = rng.integers(0, 3, (2, 4, 4), np.uint8)
  targets[:, 0] = predictions.UNLABELLED
  return images, targets, (targets + 1) % 3


def sheet(*args):
  made = predictions.figure(*args, sensor=OPT, classes=NAMES)
  (axes,) = made.axes
  return made, np.asarray(axes.images[0].get_array())


def test_image_target_and_prediction_lie_below_each_other():
  images, targets, found = codes()
  made, shown = sheet(images, targets, found)
  assert shown.shape == (3 * 4 + 2 * 3, 2 * 4 + 3, 4)
  colours = np.array(display.class_colours(3)) / 255
  for codes_, top in ((targets, 7), (found, 14)):
    part, seen = shown[top : top + 4, :4], codes_[0] != predictions.UNLABELLED
    np.testing.assert_allclose(part[seen][:, :3], colours[codes_[0][seen]])
    np.testing.assert_array_equal(part[..., 3] > 0, seen)
  (legend,) = made.legends
  assert [text.get_text() for text in legend.get_texts()] == list(NAMES)


def test_changes_show_both_dates():
  images, targets, found = codes()
  pair = np.stack([images, images[::-1]], 1)
  made, shown = sheet(pair, targets, found)
  assert shown.shape[0] == 4 * 4 + 3 * 3
  labels = [text.get_text() for text in made.axes[0].get_yticklabels()]
  assert labels == ['before', 'after', 'target', 'prediction']


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda i, t, f: (i, t[:1], f), 'do not fit images'),
    (lambda i, t, f: (i, t, f[:1]), r'predictions \(1, 4, 4\)'),
    (lambda i, t, f: (i, t, np.full_like(f, 7)), 'code 7 is none of 3'),
  ],
)
def test_predictions_that_do_not_fit_are_named(change, message):
  with pytest.raises(ValueError, match=message):
    sheet(*change(*codes()))


def test_colours_of_classes_differ():
  found = display.class_colours(30)
  assert len(set(found)) == 30 and found[:3] == display.class_colours(3)


def row(name, fraction, value, **fields):
  fields = {'dataset': 'd', 'protocol': 'knn', 'metric': 'accuracy'} | fields
  ends = {'low': value - 0.1, 'high': value + 0.1}
  return (
    {'name': name, 'label_fraction': fraction, 'value': value} | ends | fields
  )


def test_a_learning_curve_has_a_line_per_model_over_fractions():
  rows = [row('b', 1.0, 0.9), row('a', 1.0, 0.8), row('a', 0.1, 0.5)]
  rows += [row('a', 1.0, 0.3, protocol='linear')]  # One fraction: no curve.
  (made,) = label_fractions.figures(rows)
  (axes,) = made.axes
  lines = {line.get_label(): line.get_xydata() for line in axes.lines}
  assert set(lines) == {'a', 'b'}
  np.testing.assert_allclose(lines['a'], [[10, 0.5], [100, 0.8]])
  assert axes.get_title(loc='left') == 'd, knn'
  assert axes.get_xscale() == 'log'


def lost(subset, probe, value, **fields):
  fields = {'protocol': 'knn', 'metric': 'accuracy'} | fields
  named = {'name': f'mine, {probe}', 'subset': subset, 'probe': probe}
  return named | {'value': value, 'low': value, 'high': value} | fields


def test_a_certificate_has_a_line_per_subset_and_a_colour_per_probe():
  rows = [lost('all', 'once', 0.9)]
  rows += [lost('a', way, v) for way, v in (('once', 0.4), ('again', 0.7))]
  rows += [lost('all', 'once', 0.5, protocol='linear')]
  first, second = certificate.panels(rows)
  assert len(first) == 3 and len(second) == 1
  axes = certificate.figure(first).axes[0]
  names = [text.get_text() for text in axes.get_yticklabels()]
  assert names == ['all', 'a']
  points = {line.get_label(): line.get_xdata() for line in axes.lines}
  np.testing.assert_allclose(points['once'], [0.9, 0.4])
  np.testing.assert_allclose(points['again'], [0.7])
  assert axes.get_title(loc='left') == 'mine: knn'


def test_rows_of_no_certificate_are_named():
  with pytest.raises(ValueError, match='at least one row'):
    certificate.figure([])
  with pytest.raises(ValueError, match='lacks'):
    certificate.figure([{'name': 'x'}])
