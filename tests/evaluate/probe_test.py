"""The AdamW probe follows Galileo and OlmoEarth step by step."""

import numpy as np
import pytest

from rsfm_jax.evaluate import probe

TRAINED = 1e-3  # The fixture's tolerance, relative; the probe is at 1e-5.


@pytest.fixture(scope='module')
def golden(shared):
  path = shared / 'parity' / '11_linear_probes.npz'
  return np.load(path, allow_pickle=False)


def assert_close(ours, theirs):
  assert np.abs(ours - theirs).max() <= TRAINED * np.abs(theirs).max()


def problem(rows=90, width=6, classes=3, seed=0):
  rng = np.random.default_rng(seed)
  x = 3 * rng.normal(size=(rows, width)) + 1
  return x, (x @ rng.normal(size=(width, classes))).argmax(1)


@pytest.mark.parametrize(
  'name, reset',
  [
    ('galileo', None),
    ('galileo_multilabel', None),
    ('olmoearth_continuous', None),
    ('olmoearth_reset', 5),
  ],
)
def test_training_parity(golden, name, reset):
  weight = golden[f'w/{name}/init.linear.weight']
  init = {
    'norm': {'scale': np.ones(16), 'bias': np.zeros(16)},
    'linear': {
      'kernel': weight.T,
      'bias': golden[f'w/{name}/init.linear.bias'],
    },
  }
  labels = 'multilabels' if 'multilabel' in name else 'labels'
  fitted = probe.fit(
    golden['in/train'],
    golden[f'in/train_{labels}'],
    classes=len(weight),
    learning_rates=[5e-3],
    init=init,
    recipe=probe.Recipe(
      epochs=10, batch_size=64, order='given', reset_optimizer_every=reset
    ),
  )
  out = f'out/{name}'
  linear, norm = fitted.params['linear'], fitted.params['norm']
  assert_close(linear['kernel'][0].T, golden[f'{out}/linear.weight'])
  assert_close(linear['bias'][0], golden[f'{out}/linear.bias'])
  assert_close(norm['scale'][0], golden[f'{out}/bn.weight'])
  assert_close(norm['bias'][0], golden[f'{out}/bn.bias'])
  moved = fitted.statistics
  assert_close(moved['mean'][0], golden[f'{out}/bn.running_mean'])
  assert_close(moved['variance'][0], golden[f'{out}/bn.running_var'])
  logits = probe.logits(fitted, golden['in/test'])[0]
  theirs = golden[f'{out}/test_logits']
  assert_close(logits, theirs)
  if labels == 'labels':
    np.testing.assert_array_equal(logits.argmax(1), theirs.argmax(1))


def test_rates_of_a_sweep_do_not_touch_each_other():
  x, y = problem()
  recipe = probe.Recipe(epochs=10, batch_size=32)
  rates = [1e-4, 1e-2, 5e-1]
  together = probe.fit(x, y, classes=3, learning_rates=rates, recipe=recipe)
  alone = probe.fit(x, y, classes=3, learning_rates=[1e-2], recipe=recipe)
  np.testing.assert_allclose(
    probe.logits(together, x)[1], probe.logits(alone, x)[0], atol=1e-4
  )


def test_it_learns_and_repeats_by_seed():
  x, y = problem()
  run = lambda seed: probe.logits(
    probe.fit(x, y, classes=3, learning_rates=[0.05], seed=seed), x
  )[0]
  first = run(0)
  assert np.mean(first.argmax(1) == y) > 0.9
  np.testing.assert_array_equal(first, run(0))
  assert np.abs(first - run(1)).max() > 1e-6


def test_best_state_on_validation_is_kept():
  x, y = problem()
  held, truth = problem(rows=40, seed=5)
  recipe = probe.Recipe(epochs=20, batch_size=32, evaluate_every=5)
  fitted = probe.fit(
    x, y, classes=3, learning_rates=[1e-4, 0.1], recipe=recipe,
    validation=(held, truth),
  )  # fmt: skip
  assert fitted.validation.shape == (4, 2)
  kept = probe.logits(fitted, held).argmax(-1)
  np.testing.assert_allclose(
    (kept == truth).mean(1), fitted.validation.max(0), atol=1e-6
  )


def test_without_validation_the_last_state_is_kept():
  x, y = problem()
  make = lambda every: probe.fit(
    x, y, classes=3, learning_rates=[0.01],
    recipe=probe.Recipe(epochs=10, batch_size=32, evaluate_every=every),
  )  # fmt: skip
  often, once = make(2), make(None)
  assert often.validation.shape == (0, 1)
  np.testing.assert_allclose(
    often.params['linear']['kernel'], once.params['linear']['kernel'],
    atol=1e-6,
  )  # fmt: skip


def test_bad_input_is_named():
  with pytest.raises(ValueError, match='probe.evaluate_every=7 must divide'):
    probe.Recipe(evaluate_every=7)
  with pytest.raises(ValueError, match='NaN or infinity'):
    probe.fit(
      np.full((4, 2), np.nan), np.zeros(4, int), classes=2,
      learning_rates=[0.1],
    )  # fmt: skip
