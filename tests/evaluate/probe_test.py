"""The AdamW probe follows Galileo and OlmoEarth step by step."""

import math

import jax
import numpy as np
import pytest
from scipy import special

from rsfm_jax.evaluate import metrics
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
    [golden['in/train']],
    golden[f'in/train_{labels}'],
    classes=len(weight),
    learning_rates=[5e-3],
    init=init,
    recipe=probe.Recipe(
      epochs=10, batch_size=64, order='given', reset_optimizer_every=reset
    ),
  )
  out = f'out/{name}'
  params = jax.tree.map(lambda x: x[0, 0, 0], fitted.params)
  linear, norm = params['linear'], params['norm']
  assert_close(linear['kernel'].T, golden[f'{out}/linear.weight'])
  assert_close(linear['bias'], golden[f'{out}/linear.bias'])
  assert_close(norm['scale'], golden[f'{out}/bn.weight'])
  assert_close(norm['bias'], golden[f'{out}/bn.bias'])
  moved = jax.tree.map(lambda x: x[0, 0, 0], fitted.statistics)
  assert_close(moved['mean'], golden[f'{out}/bn.running_mean'])
  assert_close(moved['variance'], golden[f'{out}/bn.running_var'])
  logits = probe.logits(fitted, [golden['in/test']])[0, 0, 0]
  theirs = golden[f'{out}/test_logits']
  assert_close(logits, theirs)
  if labels == 'labels':
    np.testing.assert_array_equal(logits.argmax(1), theirs.argmax(1))


def oracle(x, y, held, truth, *, classes, rate, recipe, seed):
  """One probe, one step after another, in NumPy and float64; no validation.

  AdamW and BatchNorm as torch has them; returns the logits of `held`.
  """
  start = probe.initial(x.shape[1], classes, seed=seed)
  p = {
    'scale': start['norm']['scale'], 'offset': start['norm']['bias'],
    'kernel': start['linear']['kernel'], 'bias': start['linear']['bias'],
  }  # fmt: skip
  mu, nu = ({k: np.zeros_like(v) for k, v in p.items()} for _ in range(2))
  mean, variance = np.zeros(x.shape[1]), np.ones(x.shape[1])
  rng = np.random.default_rng(seed)
  steps = math.ceil(len(x) / recipe.batch_size)
  warm, total = int(0.1 * recipe.epochs) * steps, recipe.epochs * steps
  best, kept = -1.0, None
  for epoch in range(recipe.epochs):
    order, begin = rng.permutation(len(x)), epoch * steps
    if epoch % (recipe.reset_optimizer_every or recipe.epochs) == 0:
      mu, nu = ({k: np.zeros_like(v) for k, v in p.items()} for _ in range(2))
      count = 0
    for step in range(begin, begin + steps):
      rows = order[(step - begin) * recipe.batch_size :][: recipe.batch_size]
      m, v, n = x[rows].mean(0), x[rows].var(0), len(rows)
      mean = 0.9 * mean + 0.1 * m
      variance = 0.9 * variance + 0.1 * v * n / max(n - 1, 1)
      z = (x[rows] - m) / np.sqrt(v + 1e-5)
      inner = z * p['scale'] + p['offset']
      g = special.softmax(inner @ p['kernel'] + p['bias'], 1)
      g = (g - np.eye(classes)[y[rows]]) / n
      back = g @ p['kernel'].T
      grads = {
        'kernel': inner.T @ g, 'bias': g.sum(0), 'scale': (back * z).sum(0),
        'offset': back.sum(0),
      }  # fmt: skip
      count += 1
      lr = rate * step / max(warm, 1)
      if step >= warm:
        share = (step - warm) / (total - warm)
        low = recipe.min_learning_rate
        lr = low + (rate - low) * (1 + math.cos(math.pi * share)) / 2
      for k in p:
        mu[k] = 0.9 * mu[k] + 0.1 * grads[k]
        nu[k] = 0.999 * nu[k] + 0.001 * grads[k] ** 2
        move = mu[k] / (1 - 0.9**count)
        move = move / (np.sqrt(nu[k] / (1 - 0.999**count)) + 1e-8)
        p[k] = p[k] - lr * (move + recipe.weight_decay * p[k])
    if (epoch + 1) % recipe.evaluate_every == 0:
      z = (held - mean) / np.sqrt(variance + 1e-5)
      found = (z * p['scale'] + p['offset']) @ p['kernel'] + p['bias']
      score = np.mean(found.argmax(1) == truth)
      if score > best:
        best, kept = score, found
  return kept


def test_one_program_equals_probes_trained_one_at_a_time():
  """Views of two widths, two seeds, two rates, resets and validation."""
  x, y = problem()
  held, truth = problem(rows=40, seed=5)
  views, others = [x, x[:, :4] ** 2], [held, held[:, :4] ** 2]
  rates, seeds = [1e-3, 0.1], [3, 8]
  recipe = probe.Recipe(
    epochs=20, batch_size=32, evaluate_every=5, reset_optimizer_every=5
  )
  fitted = probe.fit(
    views, y, classes=3, learning_rates=rates, recipe=recipe, seeds=seeds,
    validation=(others, truth),
  )  # fmt: skip
  assert fitted.validation.shape == (2, 2, 2, 4)
  together = probe.logits(fitted, others)
  for v, z, s in np.ndindex(2, 2, 2):
    alone = oracle(
      views[v], y, others[v], truth, classes=3, rate=rates[s], recipe=recipe,
      seed=seeds[z],
    )  # fmt: skip
    np.testing.assert_allclose(together[v, z, s], alone, atol=2e-3)
    one = probe.only(fitted, view=v, seed=z, rate=s)
    again = probe.logits(one, [others[v]])
    np.testing.assert_allclose(again[0, 0, 0], together[v, z, s], atol=1e-5)


def test_columns_that_fill_up_a_narrow_view_stay_zero():
  x, y = problem()
  recipe = probe.Recipe(epochs=10, batch_size=32)
  fitted = probe.fit(
    [x, x[:, :4]], y, classes=3, learning_rates=[0.1], recipe=recipe
  )
  kernel = fitted.params['linear']['kernel'][1, 0, 0]
  np.testing.assert_array_equal(kernel[4:], 0)
  assert np.abs(kernel[:4]).min() > 0


def test_it_learns_and_repeats_by_seed():
  x, y = problem()
  run = lambda *seeds: probe.logits(
    probe.fit([x], y, classes=3, learning_rates=[0.05], seeds=seeds), [x]
  )[0, :, 0]
  first, second = run(0, 1)
  assert np.mean(first.argmax(1) == y) > 0.9
  np.testing.assert_array_equal(first, run(0, 1)[0])
  assert np.abs(first - second).max() > 1e-6


def test_best_state_on_validation_is_kept():
  x, y = problem()
  held, truth = problem(rows=40, seed=5)
  recipe = probe.Recipe(epochs=20, batch_size=32, evaluate_every=5)
  fitted = probe.fit(
    [x], y, classes=3, learning_rates=[1e-4, 0.1], recipe=recipe,
    validation=([held], truth),
  )  # fmt: skip
  assert fitted.validation.shape == (1, 1, 2, 4)
  kept = probe.logits(fitted, [held]).argmax(-1)
  np.testing.assert_allclose(
    (kept == truth).mean(-1), fitted.validation.max(-1), atol=1e-6
  )


@pytest.mark.parametrize('average', ['micro', 'macro'])
def test_validation_goes_by_the_f1_of_the_recipe(average):
  rng = np.random.default_rng(0)
  x, bits = rng.normal(size=(50, 4)), rng.random((50, 3)) < [0.1, 0.5, 0.9]
  params = probe.initial(4, 3)
  statistics = {'mean': x.mean(0), 'variance': x.var(0)}
  z = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
  found = z @ params['linear']['kernel'] + params['linear']['bias'] > 0
  table = metrics.confusion(found.astype(int), bits.astype(int), classes=3)
  ours = probe._score(params, statistics, x, bits, average=average)
  theirs = metrics.counted(f'{average}_f1')(table)
  assert float(ours) == pytest.approx(theirs, abs=1e-5)


def test_without_validation_the_last_state_is_kept():
  x, y = problem()
  make = lambda every: probe.fit(
    [x], y, classes=3, learning_rates=[0.01],
    recipe=probe.Recipe(epochs=10, batch_size=32, evaluate_every=every),
  )  # fmt: skip
  often, once = make(2), make(None)
  assert often.validation.shape == (1, 1, 1, 0)
  np.testing.assert_allclose(
    often.params['linear']['kernel'], once.params['linear']['kernel'],
    atol=1e-6,
  )  # fmt: skip


def test_bad_input_is_named():
  with pytest.raises(ValueError, match='probe.evaluate_every=7 must divide'):
    probe.Recipe(evaluate_every=7)
  with pytest.raises(ValueError, match='NaN or infinity'):
    probe.fit(
      [np.full((4, 2), np.nan)], np.zeros(4, int), classes=2,
      learning_rates=[0.1],
    )  # fmt: skip
