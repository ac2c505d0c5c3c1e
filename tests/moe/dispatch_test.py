"""Both engines against the dense oracle, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.moe import dispatch
from rsfm_jax.moe import experts as experts_lib
from rsfm_jax.moe import routing as routing_lib

# Sums of a few float32 products in another order; values are of order 1.
REORDERED = 5e-6
DIM, HIDDEN, EXPERTS = 5, 7, 4

GROUPS = {
  'one group': routing_lib.TokenGroups((24,), (0,)),
  'four groups of one set': routing_lib.TokenGroups((6,) * 4, (0,) * 4),
  'unequal sets': routing_lib.TokenGroups((4, 12, 8), (0, 1, 2)),
  'four groups per set': routing_lib.TokenGroups(
    (4,) * 4 + (2,) * 4, (1,) * 4 + (0,) * 4
  ),
  'a set is absent': routing_lib.TokenGroups((12, 12), (0, 2)),
  'two groups, one of a shared set': routing_lib.TokenGroups(
    (10, 8, 6), (1, 0, 1)
  ),
}


# Every cut of the batch, one and two choices; not their whole product.
CASES = [
  ('one group', 1),
  ('one group', 2),
  ('four groups of one set', 1),
  ('unequal sets', 1),
  ('unequal sets', 2),
  ('four groups per set', 2),
  ('a set is absent', 1),
  ('two groups, one of a shared set', 2),
]


def problem(seed=0, sets=3):
  """(x [N, D], router [S, D, E], weights, cotangent); nothing is zero."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), 'float32')
  weights = (
    draw(sets, EXPERTS, DIM, HIDDEN),
    draw(sets, EXPERTS, HIDDEN),
    draw(sets, EXPERTS, HIDDEN, DIM),
    draw(sets, EXPERTS, DIM),
  )
  return draw(24, DIM), draw(sets, DIM, EXPERTS), weights, draw(24, DIM)


def capacities_of(groups, choices, factor):
  return [
    routing_lib.capacity(n, EXPERTS, choices=choices, factor=factor)
    for n in groups.sizes
  ]


def run(engine, groups, choices, factor=None, chunks=1):
  """(y, gradients of <cotangent, y> for x, router and every weight)."""
  capacities = factor and capacities_of(groups, choices, factor)
  x, router, weights, cotangent = problem()

  def total(x, router, weights):
    logits = experts_lib.router_logits(x, router, groups)
    routing = routing_lib.route(logits, groups, choices=choices)
    if engine == 'oracle':
      y = dispatch.oracle(x, routing, groups, weights, capacities=capacities)
    elif engine == 'dropless':
      plan = dispatch.dropless(
        routing, groups, experts=EXPERTS, sets=len(weights[0])
      )
      y = plan.compute(x, weights)
    else:
      plan = dispatch.by_capacity(
        routing,
        groups,
        experts=EXPERTS,
        capacities=capacities,
        align=4,
        chunks=chunks,
      )
      y = plan.compute(x, weights)
    return (y * cotangent).sum(), y

  step = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))
  (_, y), gradients = step(x, router, weights)
  return y, gradients


@functools.cache
def oracle(name, choices, factor=None):
  return run('oracle', GROUPS[name], choices, factor)


def same(got, expected):
  largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=REORDERED, atol=REORDERED * largest)


@pytest.mark.parametrize(('name', 'choices'), CASES)
def test_dropless_equals_the_oracle(name, choices):
  same(run('dropless', GROUPS[name], choices), oracle(name, choices))


@pytest.mark.parametrize(('name', 'choices'), CASES[1::2])
def test_a_large_capacity_equals_the_oracle(name, choices):
  same(run('capacity', GROUPS[name], choices, 4.0), oracle(name, choices))


@pytest.mark.parametrize(('name', 'choices'), CASES)
def test_a_tight_capacity_equals_the_oracle_that_drops(name, choices):
  expected = oracle(name, choices, 0.75)
  same(run('capacity', GROUPS[name], choices, 0.75), expected)
  # The test would show nothing if nothing were dropped.
  assert jnp.abs(expected[0] - oracle(name, choices)[0]).max() > 0.1


def test_chunks_change_nothing():
  groups = GROUPS['four groups per set']
  expected = oracle('four groups per set', 2, 0.75)
  same(run('capacity', groups, 2, 0.75, chunks=3), expected)


def routed(expert, groups, gate=None, experts=2):
  """A routing by hand; expert: one row of choices per token."""
  expert = jnp.asarray(expert, jnp.int32)
  gate = jnp.ones(expert.shape) if gate is None else jnp.asarray(gate)
  places = routing_lib.positions(expert, groups, experts=experts)
  return routing_lib.Routing(expert, gate, *places, jnp.zeros((1, experts)))


def test_capacity_by_hand():
  """Five tokens, two experts of two slots: the third of expert 0 is out."""
  groups = routing_lib.TokenGroups((5,), (0,))
  plan = dispatch.by_capacity(
    routed([[0], [0], [1], [0], [1]], groups),
    groups,
    experts=2,
    capacities=[2],
  )
  np.testing.assert_array_equal(plan.slot[:, 0], [0, 1, 2, 4, 3])
  np.testing.assert_array_equal(plan.owner, [0, 1, 2, 4])
  x = jnp.arange(1.0, 6.0).reshape(5, 1)
  buffer = plan.dispatch(x)
  np.testing.assert_array_equal(buffer[..., 0], [[1, 2, 3, 5]])
  back = plan.combine(10 * buffer)
  np.testing.assert_array_equal(back[:, 0], [10, 20, 30, 0, 50])


def test_second_choices_are_dropped_before_first_ones_by_hand():
  """Token 0's second choice comes after token 2's first one."""
  groups = routing_lib.TokenGroups((3,), (0,))
  routing = routed(
    [[1, 0], [0, 1], [0, 1]], groups, [[0.7, 0.3], [0.6, 0.4], [0.8, 0.2]]
  )
  np.testing.assert_array_equal(routing.position, [[0, 2], [0, 1], [1, 2]])
  plan = dispatch.by_capacity(routing, groups, experts=2, capacities=[2])
  np.testing.assert_array_equal(plan.slot, [[2, 4], [0, 3], [1, 4]])
  y = plan.combine(jnp.array([[[1.0], [1.0], [10.0], [10.0]]]))
  # Token 0 keeps expert 1, token 1 both, token 2 expert 0.
  np.testing.assert_allclose(y[:, 0], [7.0, 0.6 + 4.0, 0.8], rtol=1e-6)


def test_groups_do_not_share_capacity_by_hand():
  groups = routing_lib.TokenGroups((3, 2), (0, 0))
  routing = routed([[0], [0], [0], [0], [0]], groups)
  plan = dispatch.by_capacity(routing, groups, experts=2, capacities=[2, 1])
  dropped = plan.slot[:, 0] == 6
  np.testing.assert_array_equal(dropped, [False, False, True, False, True])
  buffer = plan.dispatch(jnp.arange(1.0, 6.0).reshape(5, 1))
  np.testing.assert_array_equal(buffer[..., 0], [[1, 2, 4, 0, 0, 0]])


def test_dropped_tokens_get_exactly_zero_and_no_gradient():
  x, router, weights, _ = problem()
  groups = GROUPS['unequal sets']
  logits = experts_lib.router_logits(x, router, groups)
  routing = routing_lib.route(logits, groups)
  capacities = capacities_of(groups, 1, 0.75)
  plan = dispatch.by_capacity(
    routing, groups, experts=EXPERTS, capacities=capacities
  )
  limit = np.repeat(capacities, groups.sizes)
  dropped = np.asarray(routing.position)[:, 0] >= limit
  assert 0 < dropped.sum() < 12
  total = lambda x: (plan.compute(x, weights).sum(), plan.compute(x, weights))
  dx, y = jax.jit(jax.grad(total, has_aux=True))(x)
  np.testing.assert_array_equal(np.asarray(y)[dropped], 0)
  np.testing.assert_array_equal(np.asarray(dx)[dropped], 0)
  assert (np.abs(np.asarray(y)[~dropped]).max(-1) > 0).all()


def test_rows_of_other_experts_never_leak():
  """An expert without tokens may hold NaN; its weights are never used."""
  x, _, weights, _ = problem(sets=1)
  groups = GROUPS['one group']
  routing = routed(np.arange(24).reshape(24, 1) % 3, groups, experts=EXPERTS)
  poisoned = tuple(w.at[:, 3].set(jnp.nan) for w in weights)
  plan = dispatch.dropless(routing, groups, experts=EXPERTS, sets=1)
  # The dense oracle cannot be poisoned: it computes everything.
  np.testing.assert_allclose(
    jax.jit(plan.compute)(x, poisoned),
    jax.jit(lambda: dispatch.oracle(x, routing, groups, weights))(),
    rtol=REORDERED,
    atol=1e-5,
  )
  gradient = jax.jit(jax.grad(lambda w: plan.compute(x, w).sum()))(weights)
  for g in gradient:
    np.testing.assert_array_equal(g[0, 3], 0)
  # Every row adds 1 to the gradient of its output bias.
  np.testing.assert_allclose(gradient[3][0, :3], 8, rtol=1e-6)


def test_dropless_rows_hold_any_routing():
  """Shapes are static: also when all tokens choose one expert."""
  groups = GROUPS['four groups per set']
  for chosen in range(EXPERTS):
    routing = routed(np.full((24, 1), chosen), groups, experts=EXPERTS)
    plan = dispatch.dropless(routing, groups, experts=EXPERTS, sets=2)
    assert sorted(np.asarray(plan.slot)[:, 0]) == list(range(24))
    assert plan.counts.sum() == 24


def test_dropless_rows_are_sorted_by_set_and_expert():
  """Sets may come back in a batch, and one of them may be absent."""
  groups = routing_lib.TokenGroups((2, 3, 2), (2, 0, 2))
  expert = [[1, 0], [0, 1], [1, 0], [1, 0], [0, 1], [0, 1], [0, 1]]
  plan = dispatch.dropless(routed(expert, groups), groups, experts=2, sets=3)
  np.testing.assert_array_equal(plan.counts, [[3, 3, 0, 0, 4, 4]])
  token = np.asarray(plan.owner) // 2
  choice = np.asarray(plan.owner) % 2
  sets = np.repeat(groups.sets, groups.sizes)
  rank = sets[token] * 2 + np.array(expert)[token, choice]
  np.testing.assert_array_equal(rank, np.sort(rank))


def test_gather_rows_is_plain_indexing_with_the_same_gradient():
  """Rows twice, once and never; one index out of range gives zeros."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((4, 3)), 'float32')
  cotangent = jnp.asarray(rng.standard_normal((5, 3)), 'float32')
  index = jnp.array([2, 0, 2, 4, 3])
  inverse = jnp.array([[1, 5], [5, 5], [0, 2], [4, 5]])

  def plain(x):
    return jnp.concatenate([x, jnp.zeros((1, 3))])[index]

  fast = lambda x: dispatch.gather_rows(x, index, inverse)
  np.testing.assert_array_equal(fast(x), plain(x))
  got, expected = (jax.vjp(f, x)[1](cotangent)[0] for f in (fast, plain))
  np.testing.assert_allclose(got, expected, rtol=1e-6)
  assert (expected[1] == 0).all()
