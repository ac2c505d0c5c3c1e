"""From features to rows, under every preset."""

import numpy as np
import pytest

from rsfm_jax.evaluate import bootstrap
from rsfm_jax.evaluate import protocols
from rsfm_jax.evaluate import run

FAST = ('linear', 'olmoearth_knn20', 'knn20_whitened')


def toy(seed=0, classes=3, width=6, noise=1.0):
  """Clusters; {split: features}, {split: labels}."""
  rng = np.random.default_rng(seed)
  centres = 2 * rng.normal(size=(classes, width))
  features, labels = {}, {}
  for split, size in (('train', 90), ('val', 45), ('test', 60)):
    labels[split] = rng.integers(classes, size=size)
    centre = centres[labels[split]]
    features[split] = centre + noise * rng.normal(size=centre.shape)
  return features, labels


def evaluate(features, labels, names, **kwargs):
  return run.evaluate_features(
    features, labels, protocols=names, name='toy', dataset='clusters',
    resamples=100, **kwargs,
  )  # fmt: skip


@pytest.mark.parametrize('name', protocols.names())
def test_every_preset_solves_clusters(name):
  (row,) = evaluate(*toy(), [name])
  assert row.value > 0.8
  assert row.low <= row.value <= row.high
  assert row.protocol == name and row.metric == 'accuracy'
  assert row.predictions.shape == (60,)
  assert row.metrics['accuracy'] == pytest.approx(row.value, abs=1e-6)
  assert {'kappa', 'top_5', 'calibration_error'} <= set(row.metrics)


def test_every_multilabel_preset_solves_bits():
  features, labels = toy(noise=0.3)
  labels = {s: np.eye(3, dtype=int)[y] for s, y in labels.items()}
  for name in protocols.names():
    if not protocols.get(name).multilabel:
      with pytest.raises(ValueError, match='no multi-label form'):
        evaluate(features, labels, [name])
      continue
    (row,) = evaluate(features, labels, [name])
    assert row.metric == protocols.get(name).multilabel_metric
    assert row.low <= row.value <= row.high
    assert row.metrics[row.metric] == pytest.approx(row.value, abs=1e-6)
    # PANGAEA's rule marks ten labels always: here all three.
    assert row.value > (0.4 if name == 'pangaea_knn200' else 0.9), name


def test_refit_uses_val_and_selection_does_not_see_test():
  features, labels = toy()
  before = evaluate(features, labels, FAST)
  (refit,) = evaluate(features, labels, ['torchgeobench_linear'])
  assert [row.n_train for row in before] == [90, 90, 90]
  assert refit.n_train == 135
  changed = features | {'test': features['test'][:30]}
  part = evaluate(changed, labels | {'test': labels['test'][:30]}, FAST)
  for a, b in zip(before, part):
    np.testing.assert_array_equal(a.predictions[:30], b.predictions)


def test_validation_picks_rate_scaling_and_pooling_for_every_seed():
  features, labels = toy(noise=0.5)
  junk = np.random.default_rng(9)
  # Columns of the mean are noise; those of the deviation tell the classes.
  features = {
    s: np.concatenate([junk.normal(size=x.shape), x], 1)
    for s, x in features.items()
  }
  rows = evaluate(
    features, labels, ['trained_sweep', 'linear'], pools=('mean', 'std'),
    seeds=(4, 7),
  )  # fmt: skip
  assert [row.protocol for row in rows] == ['trained_sweep'] * 2 + ['linear']
  assert [row.chosen.get('seed') for row in rows] == [4, 7, None]
  for row in rows[:2]:
    assert row.value > 0.9 and row.chosen['pooling'] == 'std'
    assert row.chosen['scaling'] in ('none', 'whiten')
    assert row.chosen['learning_rate'] in protocols.get('trained_sweep').grid
  (alone,) = evaluate(
    features, labels, ['trained_sweep'], pools=('mean', 'std'), seeds=(7,)
  )
  np.testing.assert_array_equal(alone.predictions, rows[1].predictions)
  assert alone.chosen == rows[1].chosen
  with pytest.raises(ValueError, match="features.pools='max'"):
    evaluate(features, labels, ['olmoearth_lp_sweep'], pools=('mean', 'std'))
  with pytest.raises(ValueError, match='12 features are not those of'):
    evaluate(features, labels, ['linear'], pools=('mean',) * 5)


def test_better_features_win_a_paired_comparison():
  rows = []
  for noise in (3.0, 0.5):
    features, labels = toy(noise=noise)
    rows += evaluate(features, labels, ['linear'])
  gain = bootstrap.difference(
    rows[1].predictions, rows[0].predictions, labels['test'], classes=3
  )
  assert gain.low > 0


def test_rows_carry_what_was_said():
  (row,) = evaluate(
    *toy(), ['galileo_knn5'], checkpoint='c0ffee', missing_bands='impute',
    normalisation='pretrained',
  )  # fmt: skip
  assert (row.checkpoint, row.missing_bands) == ('c0ffee', 'impute')
  assert row.normalisation == 'pretrained'
  assert row.n_test == 60 and row.seconds > 0


def test_bad_input_is_named():
  features, labels = toy()
  no_val = {s: x for s, x in features.items() if s != 'val'}
  nan = features | {'val': features['val'] * np.nan}
  narrow = features | {'test': features['test'][:, :2]}
  for x, y, message in (
    (no_val, labels, 'needs a split "val"'),
    ({'train': features['train']}, labels, 'split "test" is missing'),
    (nan, labels, 'split val hold NaN'),
    (narrow, labels, 'split test are'),
    (features, labels | {'val': labels['val'][1:]}, 'split val: 45 features'),
  ):
    with pytest.raises(ValueError, match=message):
      evaluate(x, y, ['linear'])
  with pytest.raises(ValueError, match='Did you mean "linear"'):
    evaluate(features, labels, ['linaer'])
  with pytest.raises(ValueError, match='labels reach|predictions reach'):
    evaluate(features, labels, ['linear'], classes=2)
