"""Closed forms of the losses and metrics of a routing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.moe import balance
from rsfm_jax.moe import routing as routing_lib

ONE = routing_lib.TokenGroups((8,), (0,))
TWO = routing_lib.TokenGroups((4, 4), (0, 1))


def made(expert, probs):
  expert = jnp.asarray(expert, jnp.int32).reshape(len(expert), -1)
  return routing_lib.Routing(
    expert, jnp.ones(expert.shape), jnp.zeros_like(expert), None, probs
  )


def balanced():
  return made(np.arange(8) % 4, jnp.full((8, 4), 0.25))


def collapsed():
  return made(np.zeros(8), jax.nn.one_hot(jnp.zeros(8, jnp.int32), 4))


@pytest.mark.parametrize(('scale', 'value'), [(4, 1.0), (8, 4.0)])
def test_at_balance_the_loss_is_one_or_four_as_officially_scaled(scale, value):
  loss = balance.balance_loss(balanced(), ONE, scale=scale)
  np.testing.assert_allclose(loss, value, rtol=1e-6)


def test_at_collapse_the_loss_is_the_number_of_experts():
  loss = balance.balance_loss(collapsed(), ONE, scale=4)
  np.testing.assert_allclose(loss, 4, rtol=1e-6)


def test_groups_are_balanced_one_by_one():
  """Each half prefers one expert: balanced together, not apart."""
  expert = np.array([0] * 4 + [1] * 4)
  halves = made(expert, jax.nn.one_hot(expert, 2))
  together = balance.balance_loss(halves, ONE, scale=2)
  apart = balance.balance_loss(halves, TWO, scale=2)
  np.testing.assert_allclose([together, apart], [1, 2], rtol=1e-6)


def test_only_first_choices_count():
  probs = jnp.tile(jnp.array([[0.7, 0.3]]), (8, 1))
  first, second = made([[0, 1]] * 8, probs), made([[0, 0]] * 8, probs)
  loss = lambda r: float(balance.balance_loss(r, ONE, scale=2))
  assert loss(first) == loss(second)


def test_the_gradient_pushes_probability_away_from_the_busy_expert():
  logits = jnp.zeros((8, 4)).at[:, 0].set(0.1)

  def loss(logits):
    routing = routing_lib.route(logits, ONE)
    return balance.balance_loss(routing, ONE, scale=4)

  gradient = jax.jit(jax.grad(loss))(logits)
  assert (gradient[:, 0] > 0).all() and (gradient[:, 1:] < 0).all()


@pytest.mark.parametrize('experts', [2, 4, 16])
def test_z_loss_of_equal_logits(experts):
  loss = balance.z_loss(jnp.zeros((8, experts)))
  np.testing.assert_allclose(loss, np.log(experts) ** 2, rtol=1e-6)


def test_usage_counts_by_segment_not_by_group():
  probs = jnp.asarray(np.eye(4)[[0, 0, 1, 1, 2, 2, 2, 2]], jnp.float32)
  routing = made([0, 0, 1, 1, 2, 2, 2, 2], probs)
  dropped = jnp.asarray([0, 1, 0, 0, 1, 1, 0, 0], bool).reshape(8, 1)
  usage = balance.usage(
    routing, dropped, routing_lib.TokenGroups((2, 6), (0, 1))
  )
  np.testing.assert_allclose(usage.load[0], [1, 0, 0, 0])
  np.testing.assert_allclose(usage.load[1], [0, 2 / 6, 4 / 6, 0], rtol=1e-6)
  np.testing.assert_allclose(usage.mass, usage.load, rtol=1e-6)
  np.testing.assert_allclose(usage.dropped, [1 / 2, 2 / 6], rtol=1e-6)
  np.testing.assert_allclose(usage.entropy, [0, 0], atol=1e-7)


def test_usage_averages_choices_and_probabilities():
  routing = made([[0, 1]] * 8, jnp.full((8, 4), 0.25))
  usage = balance.usage(routing, jnp.zeros((8, 2), bool), ONE)
  np.testing.assert_allclose(usage.load[0], [0.5, 0.5, 0, 0])
  np.testing.assert_allclose(usage.mass[0], [0.25] * 4)
  np.testing.assert_allclose(usage.entropy, [np.log(4)], rtol=1e-6)


def test_mutual_information_is_zero_when_sensors_route_alike():
  load = jnp.asarray([[0.7, 0.1, 0.2]] * 4)
  weight = jnp.asarray([0.1, 0.2, 0.3, 0.4])
  value = balance.mutual_information(load, weight)
  np.testing.assert_allclose(value, 0, atol=1e-6)


def test_mutual_information_is_log_m_when_each_sensor_has_its_expert():
  value = balance.mutual_information(jnp.eye(4), jnp.full(4, 0.25))
  np.testing.assert_allclose(value, np.log(4), rtol=1e-6)


def test_mutual_information_per_layer_ignores_absent_sensors():
  load = jnp.stack([jnp.eye(4).at[2:].set(0), jnp.full((4, 4), 0.25)])
  weight = jnp.asarray([0.5, 0.5, 0, 0])
  value = balance.mutual_information(load, weight)
  np.testing.assert_allclose(value, [np.log(2), 0], rtol=1e-6, atol=1e-6)


def test_variation_is_none_at_balance_and_e_minus_one_at_collapse():
  sums = jnp.asarray([[3.0, 3, 3, 3], [12, 0, 0, 0], [0, 0, 0, 0]])
  np.testing.assert_allclose(balance.variation(sums), [0, 3, 0], atol=1e-6)
  gradient = jax.grad(lambda s: balance.variation(s).sum())(sums)
  assert np.isfinite(gradient).all()


def test_demand_sums_what_counts():
  logits = jax.random.normal(jax.random.key(0), (8, 4))
  weight = jnp.asarray([1.0, 0] * 4)
  half = balance.demand(logits, None, choices=1, std=0.0, weight=weight)
  alone = balance.demand(logits[::2], None, choices=1, std=0.0)
  np.testing.assert_allclose(half.importance, alone.importance, rtol=1e-6)
  np.testing.assert_array_equal(half.load, alone.load)
  np.testing.assert_allclose(half.load.sum(), 4)
