"""Numbers that tell a collapse from health, and the sentence for it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.objectives import collapse

RNG = np.random.default_rng(0)
N, D, K = 512, 16, 10
FEATURES = jnp.asarray(RNG.standard_normal((N, D)), 'float32')
LOGITS = jnp.asarray(RNG.standard_normal((N, K)), 'float32')
TARGETS = jax.nn.softmax(LOGITS / 0.1)
UNIFORM = jnp.full((N, K), 1 / K)


def watch(features=FEATURES, logits=LOGITS, targets=TARGETS, weights=None):
  weights = jnp.ones(N) if weights is None else weights
  step = jax.jit(collapse.monitor)
  return jax.device_get(step(features, logits, targets, weights=weights))


def test_health_has_spread_features_and_spread_decided_targets():
  values = watch()
  assert values['rows'] == N
  np.testing.assert_allclose(values['feature_std'], 1, atol=0.02)
  np.testing.assert_allclose(values['target_spread'], math.log(K), atol=0.05)
  assert values['teacher_entropy'] < 1
  assert collapse.warning(values, K) is None


def test_the_kl_is_zero_where_the_student_says_what_the_teacher_says():
  np.testing.assert_allclose(watch()['kl'], 0, atol=1e-5)
  assert watch(logits=LOGITS[::-1])['kl'] > 1


def test_features_that_are_one_vector_have_no_deviation():
  one = FEATURES.at[:].set(FEATURES[:1]) + 1e-3 * FEATURES
  values = watch(features=one * jnp.arange(1.0, N + 1)[:, None])
  assert values['feature_std'] < 0.01  # Lengths do not count.
  assert 'nearly one vector' in collapse.warning(values, K)


@pytest.mark.parametrize('rows', [N, D - 4])
def test_dimensions_are_those_of_the_covariances_eigenvalues(rows):
  weights = jnp.arange(N) < rows
  found = watch(weights=weights)['dimensions']
  unit = np.asarray(FEATURES[:rows], np.float64)
  unit /= np.linalg.norm(unit, axis=1, keepdims=True)
  values = np.linalg.eigvalsh(np.cov(unit.T))
  wanted = values.sum() ** 2 / np.square(values).sum()
  np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize('directions', [1, 2])
def test_features_of_few_directions_are_told(directions):
  plane = FEATURES.at[:, directions:].mul(0.01) + 1
  values = watch(features=plane)
  assert values['dimensions'] < directions + 0.5
  assert values['feature_std'] > collapse.LEAST_STD
  said = collapse.warning(values, K)
  assert f'more than {directions} directions' in said


def test_one_winning_output_and_uniform_targets_are_told_apart():
  winner = jnp.zeros((N, K)).at[:, 3].set(1)
  values = watch(targets=winner)
  assert values['target_spread'] == values['teacher_entropy'] == 0
  assert 'one output' in collapse.warning(values, K)
  values = watch(targets=UNIFORM)
  np.testing.assert_allclose(values['teacher_entropy'], math.log(K), rtol=1e-6)
  assert 'uniform' in collapse.warning(values, K)


def test_rows_that_do_not_count_change_no_bit():
  weights = jnp.asarray(RNG.random(N) < 0.5)
  spoil = lambda x: jnp.where(weights[:, None], x, jnp.nan)
  clean = watch(weights=weights)
  spoiled = watch(*map(spoil, (FEATURES, LOGITS, TARGETS)), weights=weights)
  assert clean == spoiled
  assert clean['rows'] == weights.sum()


@pytest.mark.parametrize('count', [0, 1])
def test_few_rows_give_finite_numbers_and_no_alarm(count):
  values = watch(weights=jnp.arange(N) < count)
  assert np.isfinite(list(values.values())).all()
  assert collapse.warning(values, K) is None


def test_watching_moves_nothing():
  def loss(features, logits, targets):
    return sum(
      collapse.monitor(features, logits, targets, weights=jnp.ones(N)).values()
    )

  gradients = jax.grad(loss, (0, 1, 2))(FEATURES, LOGITS, TARGETS)
  assert not any(g.any() for g in gradients)
