"""The sweep reaches scikit-learn's optimum, whatever shares its program."""

import numpy as np
import pytest

from rsfm_jax.evaluate import logistic
from rsfm_jax.evaluate import metrics

C = (0.01, 1.0, 100.0)
# Tolerance on probabilities from the fixture; the solver is at 2e-5.
GOLDEN = 1e-4
TIGHT = dict(tolerance=1e-7)


@pytest.fixture(scope='module')
def golden(shared):
  path = shared / 'parity' / '11_linear_probes.npz'
  return np.load(path, allow_pickle=False)


def problem(rows=60, width=5, classes=3, seed=0):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(rows, width))
  y = (x @ rng.normal(size=(width, classes))).argmax(1)
  flip = rng.random(rows) < 0.2
  return x, np.where(flip, rng.integers(classes, size=rows), y)


@pytest.mark.parametrize('precision', logistic.PRECISIONS)
def test_sweep_parity(golden, precision):
  fitted = logistic.fit(
    golden['in/train'],
    golden['in/train_labels'],
    classes=6,
    C=C,
    precision=precision,
    **TIGHT,
  )
  ours = logistic.probabilities(fitted, golden['in/test'])
  for i, c in enumerate(C):
    theirs = golden[f'out/logreg_C{c}/sklearn_proba']
    np.testing.assert_allclose(ours[i], theirs, atol=GOLDEN)
    accuracy = np.mean(ours[i].argmax(1) == golden['in/test_labels'])
    assert accuracy == pytest.approx(golden[f'out/logreg_C{c}/accuracy'])


def test_multilabel_sweep_parity(golden):
  fitted = logistic.fit(
    golden['in/train'],
    golden['in/train_multilabels'],
    classes=12,
    C=C,
    **TIGHT,
  )
  ours = logistic.probabilities(fitted, golden['in/test'], link='sigmoid')
  for i, c in enumerate(C):
    theirs = golden[f'out/logreg_C{c}/multilabel_sklearn_proba']
    np.testing.assert_allclose(ours[i], theirs, atol=GOLDEN)
    value = metrics.mean_average_precision(
      ours[i], golden['in/test_multilabels'], average='micro'
    )
    assert value == pytest.approx(
      golden[f'out/logreg_C{c}/multilabel_micro_map'], abs=1e-4
    )


def test_gradient_vanishes_at_the_result():
  x, y = problem()
  c = 3.0
  fitted = logistic.fit(x, y, classes=3, C=[c], precision='float64', **TIGHT)
  error = logistic.probabilities(fitted, x)[0] - np.eye(3)[y]
  slope = x.T @ error / len(x) + fitted.weights[0] / (c * len(x))
  assert np.abs(slope).max() < 1e-6
  assert np.abs(error.mean(0)).max() < 1e-6


def test_more_features_than_samples():
  x, y = problem(rows=12, width=40)
  fitted = logistic.fit(x, y, classes=3, C=[1.0], precision='float64', **TIGHT)
  error = logistic.probabilities(fitted, x)[0] - np.eye(3)[y]
  slope = x.T @ error / len(x) + fitted.weights[0] / len(x)
  assert np.abs(slope).max() < 1e-6


def test_collinear_shifted_and_tiny_features_change_nothing():
  x, y = problem()
  plain = logistic.fit(x, y, classes=3, C=[1e4], **TIGHT)
  # At a weak penalty only the space that the features span counts.
  twisted = np.concatenate([x, x[:, :2]], axis=1) * 1e-3 + 5.0
  other = logistic.fit(twisted, y, classes=3, C=[1e10], **TIGHT)
  np.testing.assert_allclose(
    logistic.probabilities(plain, x),
    logistic.probabilities(other, twisted),
    atol=2e-3,
  )


def test_problems_of_a_sweep_do_not_touch_each_other():
  x, y = problem()
  together = logistic.fit(x, y, classes=3, C=[1e-3, 1.0, 1e3], **TIGHT)
  alone = logistic.fit(x, y, classes=3, C=[1.0], **TIGHT)
  np.testing.assert_allclose(
    logistic.probabilities(together, x)[1],
    logistic.probabilities(alone, x)[0],
    atol=GOLDEN,
  )


def test_label_fractions_are_one_more_axis_of_the_sweep():
  x, y = problem(rows=80)
  part = np.arange(80) < 30
  fitted = logistic.fit(
    x,
    y,
    classes=3,
    C=[1.0, 1.0],
    sample_weights=np.stack([part, np.ones(80)]),
    **TIGHT,
  )
  fraction = logistic.fit(x[part], y[part], classes=3, C=[1.0], **TIGHT)
  np.testing.assert_allclose(
    logistic.probabilities(fitted, x)[0],
    logistic.probabilities(fraction, x)[0],
    atol=GOLDEN,
  )


@pytest.mark.parametrize('junk', [np.nan, np.inf, 1e30])
def test_rows_without_weight_never_matter(junk):
  x, y = problem()
  clean = logistic.fit(x, y, classes=3, C=[0.1, 10.0])
  padded = logistic.fit(
    np.concatenate([x, np.full((4, 5), junk)]),
    np.concatenate([y, np.zeros(4, int)]),
    classes=3,
    C=[0.1, 10.0],
    sample_weights=np.arange(64) < 60,
  )
  np.testing.assert_array_equal(clean.weights, padded.weights)


def test_separable_data_stops_and_tells_what_is_left():
  x = np.array([[-1.0], [1.0]])
  fitted = logistic.fit(
    x, [0, 1], classes=2, C=[1e12], max_steps=5, tolerance=0
  )
  assert fitted.steps == 5
  assert np.isfinite(fitted.weights).all() and fitted.gradient[0] > 0


def test_bad_input_is_named():
  x, y = problem()
  for kwargs, message in (
    (dict(C=[0.0]), 'C must be'),
    (dict(C=[1.0], sample_weights=np.zeros(60)), 'positive sum'),
    (dict(C=[1.0], precision='bf16'), 'precision='),
  ):
    with pytest.raises(ValueError, match=message):
      logistic.fit(x, y, classes=3, **kwargs)
  with pytest.raises(ValueError, match='NaN or infinity'):
    logistic.fit(x * np.nan, y, classes=3, C=[1.0])
  with pytest.raises(ValueError, match='60 features, 59 targets'):
    logistic.fit(x, y[1:], classes=3, C=[1.0])
