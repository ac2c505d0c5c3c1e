"""Who goes where: groups, capacities, gates and positions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.moe import routing

EQUAL = routing.TokenGroups((6, 6, 6), (0, 1, 0))
ONE = routing.TokenGroups((64,), (0,))
UNEQUAL = routing.TokenGroups((2, 10, 6), (2, 0, 1))


def logits(tokens, experts, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(2 * rng.standard_normal((tokens, experts)), 'float32')


def test_parts_are_cut_into_equal_slices():
  cut = routing.TokenGroups.cut([(3, 8), (0, 4)], slices=2)
  assert cut == routing.TokenGroups((4, 4, 2, 2), (3, 3, 0, 0))
  assert cut.tokens == 12 and not cut.equal
  assert cut.slices == [slice(0, 4), slice(4, 8), slice(8, 10), slice(10, 12)]


def test_slices_that_do_not_divide_the_tokens_are_an_error():
  with pytest.raises(ValueError, match='model.routing_groups=3.*8 tokens'):
    routing.TokenGroups.cut([(0, 9), (1, 8)], slices=3)


@pytest.mark.parametrize('groups', [EQUAL, UNEQUAL])
def test_mean_and_spread_go_group_by_group(groups):
  values = logits(18, 4)
  expected = [np.asarray(values)[s].mean(0) for s in groups.slices]
  means = groups.mean(values)
  np.testing.assert_allclose(means, np.array(expected), rtol=1e-6, atol=1e-6)
  back = groups.spread(means)
  for part, mean in zip(groups.slices, means, strict=True):
    assert (back[part] == mean[None]).all()


@pytest.mark.parametrize(
  ('tokens', 'slots'),
  [
    # Giant, 1 image per specialised group and 4 per collaborative one.
    *((2304, 692), (576, 173), (144, 44), (36, 11)),
    *((9216, 2765), (2304, 692), (576, 173), (144, 44)),
    (1, 1),
  ],
)
def test_capacity_as_officially_coded(tokens, slots):
  assert routing.capacity(tokens, 4, choices=1, factor=1.2) == slots


def test_capacity_grows_with_choices_and_is_never_zero():
  assert routing.capacity(8, 4, choices=2, factor=1.0) == 4
  assert routing.capacity(8, 4, choices=1, factor=1e-6) == 1
  # 10 * 1.2 / 4 is 3 in exact numbers, a little more in floating point.
  assert routing.capacity(10, 4, choices=1, factor=1.2) == 3
  assert routing.capacity(11, 4, choices=1, factor=1.2) == 4


def slow_positions(expert, groups):
  """First come, first served; first choices before all second ones."""
  out = np.zeros_like(expert)
  for part in groups.slices:
    taken = {}
    for k in range(expert.shape[1]):
      for n in range(part.start, part.stop):
        out[n, k] = taken.get(expert[n, k], 0)
        taken[expert[n, k]] = out[n, k] + 1
  return out


@pytest.mark.parametrize('groups', [EQUAL, UNEQUAL])
@pytest.mark.parametrize('choices', [1, 2, 3])
def test_positions_by_a_slow_loop(groups, choices):
  rng = np.random.default_rng(choices)
  expert = np.array([rng.permutation(4)[:choices] for _ in range(18)], 'int32')
  got, counts = routing.positions(jnp.asarray(expert), groups, experts=4)
  np.testing.assert_array_equal(got, slow_positions(expert, groups))
  for found, part in zip(counts, groups.slices, strict=True):
    expected = np.bincount(expert[part].ravel(), minlength=4)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('choices', [1, 2])
def test_route_takes_the_most_probable_experts(choices):
  values = np.asarray(logits(18, 4), np.float64)
  out = routing.route(jnp.asarray(values, 'float32'), EQUAL, choices=choices)
  probs = np.exp(values) / np.exp(values).sum(-1, keepdims=True)
  order = np.argsort(-probs, -1)[:, :choices]
  np.testing.assert_allclose(out.probs, probs, rtol=1e-6)
  np.testing.assert_array_equal(out.expert, order)
  np.testing.assert_allclose(
    out.gate, np.take_along_axis(probs, order, -1), rtol=1e-6
  )
  np.testing.assert_array_equal(
    out.position, slow_positions(order.astype('int32'), EQUAL)
  )


def test_the_router_is_float32_whatever_comes_in():
  out = routing.route(logits(18, 4).astype(jnp.bfloat16), EQUAL)
  assert out.probs.dtype == out.gate.dtype == jnp.float32


def test_a_normalised_gate_of_one_choice_is_exactly_one():
  values = logits(18, 4)
  gate = lambda v: routing.route(v, EQUAL, gate='normalised').gate
  np.testing.assert_array_equal(gate(values), 1)
  gradient = jax.grad(lambda v: gate(v).sum())(values)
  np.testing.assert_array_equal(gradient, 0)


def test_normalised_gates_of_two_choices_sum_to_one_and_learn():
  gate = lambda v: routing.route(v, EQUAL, choices=2, gate='normalised').gate
  np.testing.assert_allclose(gate(logits(18, 4)).sum(-1), 1, rtol=1e-6)
  gradient = jax.grad(lambda v: gate(v)[:, 0].sum())(logits(18, 4))
  assert jnp.abs(gradient).max() > 1e-2


def test_a_probability_gate_learns():
  gate = lambda v: routing.route(v, EQUAL, gate='prob').gate
  gradient = jax.grad(lambda v: gate(v).sum())(logits(18, 4))
  assert jnp.abs(gradient).max() > 1e-2


@pytest.mark.parametrize('priority', ['batch', 'random'])
def test_priority_orders_the_slots_inside_each_group(priority):
  """Expert and gate stay; each expert's ranks are a permutation of them."""
  values = logits(18, 2)
  plain = routing.route(values, UNEQUAL)
  out = routing.route(values, UNEQUAL, priority=priority)
  np.testing.assert_array_equal(out.expert, plain.expert)
  np.testing.assert_array_equal(out.gate, plain.gate)
  assert (out.position != plain.position).any()
  for part in UNEQUAL.slices:
    for expert in range(2):
      mine = np.flatnonzero(np.asarray(out.expert)[part, 0] == expert)
      ranks = np.asarray(out.position)[part, 0][mine]
      assert sorted(ranks) == list(range(len(mine)))
      if priority == 'batch':
        gates = np.asarray(out.gate)[part, 0][mine]
        assert (np.diff(gates[np.argsort(ranks)]) <= 0).all()


def test_random_priority_is_another_order_for_other_logits():
  orders = [
    routing.route(logits(64, 2, seed), ONE, priority='random').position
    for seed in (0, 1)
  ]
  assert (orders[0] != orders[1]).any()
  with_bits = np.asarray(orders[0])[:, 0]
  late = with_bits[32:].mean() - with_bits[:32].mean()
  assert abs(late) < 8  # First come, first served would give 16.


@pytest.mark.parametrize('priority', ['first_come', 'batch', 'random'])
def test_tokens_that_do_not_count_come_last_in_their_group(priority):
  values = logits(18, 3)
  valid = jnp.arange(18) % 3 != 0
  out = routing.route(values, EQUAL, priority=priority, valid=valid)
  expert, position = np.asarray(out.expert[:, 0]), np.asarray(out.position)
  for part, e in itertools.product(EQUAL.slices, range(3)):
    mine = expert[part] == e
    counts = np.asarray(valid)[part][mine]
    order = np.argsort(position[part][mine, 0])
    assert sorted(position[part][mine, 0]) == list(range(mine.sum()))
    assert (np.diff(counts[order].astype(int)) <= 0).all()
