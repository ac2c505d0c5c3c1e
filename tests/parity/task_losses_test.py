"""Losses and dense metrics against torch, mmseg and scikit-learn (10)."""

import functools

import jax
import numpy as np
import pytest

from rsfm_jax.evaluate import outcomes
from rsfm_jax.tasks import losses

LIMIT = 2e-5
METRIC_LIMIT = 1e-5


@pytest.fixture(scope='module')
def fixture(golden):
  return golden('10_fcn_head_and_losses')


def bits(labels, classes):
  """mmsegmentation's one-hot of min(label, C - 1)."""
  return np.eye(classes, dtype=np.int32)[np.minimum(labels, classes - 1)]


@pytest.mark.parametrize(
  'name, options',
  [
    ('ce_torch', {}),
    ('ce_mmseg_avg_non_ignore', {}),
    ('ce_mmseg_default', {'over': 'all'}),
    ('ce_torch_label_smoothing_0.1', {'smoothing': 0.1}),
    ('ce_torch_class_weight', {'weights': None}),
  ],
)
def test_cross_entropy_with_its_gradient(fixture, near, name, options):
  if 'weights' in options:
    options = {'weights': fixture.meta['class_weight']}
  logits = np.moveaxis(fixture['out/upsampled'], 1, -1)
  loss = functools.partial(
    losses.cross_entropy, labels=fixture['in/labels'], **options
  )
  value, gradient = jax.value_and_grad(loss)(logits)
  near(value, fixture[f'out/{name}'], LIMIT)
  near(
    gradient,
    np.moveaxis(fixture[f'grad/in/{name}/upsampled'], 1, -1),
    LIMIT,
  )


def test_soft_margin_is_binary_and_multilabel_cross_entropy(fixture, near):
  logits = np.moveaxis(fixture['out/upsampled'], 1, -1)
  labels, classes = fixture['in/labels'], logits.shape[-1]
  found = losses.soft_margin(logits, bits(labels, classes))
  near(found, fixture['out/bce_sum_over_classes_mean'], LIMIT)
  share = bits(labels, classes).mean((1, 2))
  near(
    losses.soft_margin(logits.mean((1, 2)), (share > 0.18).astype(int)),
    fixture['out/multilabel_soft_margin'],
    LIMIT,
  )


def test_metrics_of_maps(golden, near):
  fixture = golden('10_metrics_segmentation')
  outcome = outcomes.Maps.of(
    fixture['in/y_pred'], fixture['in/y_true'], classes=6
  )
  assert (outcome.tables.sum(0) == fixture['out/confusion']).all()
  found = outcome.measure()
  for ours, theirs in (
    ('miou', 'miou_skip_absent'),
    ('miou_absent_zero', 'miou_absent_zero'),
    ('accuracy', 'overall_accuracy'),
    ('macro_f1', 'f1_macro_skip_absent'),
    ('kappa', 'kappa'),
  ):
    near(found[ours], fixture[f'out/{theirs}'], METRIC_LIMIT, name=ours)


def test_metrics_of_changes(golden, near):
  fixture = golden('10_metrics_change')
  found = outcomes.Maps.of(
    fixture['in/change_pred'].astype(int),
    fixture['in/change_true'].astype(int),
    classes=2,
  ).measure()
  for ours, theirs in (
    ('f1', 'f1'),
    ('iou', 'iou'),
    ('precision', 'precision'),
    ('recall', 'recall'),
    ('kappa', 'kappa'),
    ('accuracy', 'oa'),
    ('miou', 'miou_2class'),
  ):
    near(found[ours], fixture[f'out/{theirs}'], METRIC_LIMIT, name=ours)


def test_metrics_of_several_labels(golden, near):
  fixture = golden('10_metrics_multilabel')
  found = outcomes.Labels(fixture['in/scores'], fixture['in/targets']).measure()
  for ours, theirs in (
    ('macro_map', 'map_macro_valid'),
    ('micro_map', 'map_micro'),
    ('micro_f1', 'f1_micro'),
    ('macro_f1', 'f1_macro'),
  ):
    near(found[ours], fixture[f'out/{theirs}'], METRIC_LIMIT, name=ours)
