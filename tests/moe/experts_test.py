"""A router with its experts: engines, gates, precision, options."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.moe import experts
from rsfm_jax.moe import routing as routing_lib

REORDERED = 5e-6
# Two products of bfloat16 numbers with 8 bits each; the routing is the same.
BFLOAT16 = 2e-2
DIM, HIDDEN, EXPERTS, SETS = 6, 8, 4, 3

GROUPS = routing_lib.TokenGroups((4, 4, 12, 12), (2, 2, 0, 0))


def rows(tokens=32, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.standard_normal((tokens, DIM)), 'float32')


def layer(sets=SETS, scale=1.0, count=EXPERTS):
  """(graphdef, params); routers of std `scale`, nothing is zero."""
  make = lambda: experts.RoutedExperts(
    DIM, HIDDEN, count, key=jax.random.key(0), sets=sets
  )
  graphdef, state = nnx.split(nnx.eval_shape(make))
  rng = np.random.default_rng(1)
  draw = lambda w: jnp.asarray(scale * rng.standard_normal(w.shape), 'float32')
  return graphdef, nnx.to_pure_dict(jax.tree.map(draw, state))


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def run(graphdef, params, x, groups, options):
  """(y, done, gradients of a task loss for params and x)."""

  def total(params, x):
    y, done = nnx.merge(graphdef, params)(x, groups, options)
    cotangent = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    return (y * cotangent).sum().astype(jnp.float32), (y, done)

  gradients, (y, done) = jax.grad(total, (0, 1), has_aux=True)(params, x)
  return y, done, gradients


@pytest.mark.parametrize('choices', [1, 2])
@pytest.mark.parametrize('engine', ['dropless', 'capacity'])
def test_engines_of_the_layer_equal_the_oracle(engine, choices):
  graphdef, params = layer()
  options = experts.Options(choices=choices, capacity_factor=4.0)
  y, done, gradients = run(
    graphdef, params, rows(), GROUPS, options._replace(engine=engine)
  )
  expected = run(
    graphdef, params, rows(), GROUPS, options._replace(engine='oracle')
  )
  largest = max(jnp.abs(g).max() for g in jax.tree.leaves(expected[2]))
  for a, b in zip(
    jax.tree.leaves((y, gradients)),
    jax.tree.leaves((expected[0], expected[2])),
    strict=True,
  ):
    np.testing.assert_allclose(
      a, b, rtol=REORDERED, atol=REORDERED * float(largest)
    )
  assert not done.dropped.any()
  np.testing.assert_array_equal(done.balance, expected[1].balance)


@pytest.mark.parametrize(
  'groups',
  [
    routing_lib.TokenGroups((16, 16), (1, 1)),
    routing_lib.TokenGroups((8, 16, 8), (0, 1, 2)),
    routing_lib.TokenGroups((16, 16), (2, 0)),
    routing_lib.TokenGroups((8, 8, 16), (2, 2, 0)),
  ],
)
def test_every_group_is_routed_by_the_router_of_its_set(groups):
  x, router = rows(), layer()[1]['router']
  got = experts.router_logits(x, router, groups)
  expected = np.concatenate(
    [
      np.asarray(x, np.float64)[part] @ np.asarray(router, np.float64)[index]
      for part, index in zip(groups.slices, groups.sets, strict=True)
    ]
  )
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_a_tight_capacity_drops_and_says_so():
  graphdef, params = layer(sets=None)
  groups = routing_lib.TokenGroups((32,), (0,))
  options = experts.Options(engine='capacity', capacity_factor=0.5)
  y, done, _ = run(graphdef, params, rows(), groups, options)
  counts = np.bincount(np.asarray(done.routing.expert)[:, 0], minlength=EXPERTS)
  assert int(done.dropped.sum()) == np.maximum(counts - 4, 0).sum() > 0
  np.testing.assert_array_equal((y == 0).all(-1), done.dropped[:, 0])


@pytest.mark.parametrize('engine', ['dropless', 'capacity', 'oracle'])
def test_the_task_teaches_the_router_only_through_a_probability_gate(engine):
  graphdef, params = layer()
  router = {}
  for gate in ('prob', 'normalised'):
    options = experts.Options(engine=engine, gate=gate)
    gradients = run(graphdef, params, rows(), GROUPS, options)[2]
    router[gate] = gradients[0]['router']
  # Set 1 has no tokens.
  assert (jnp.abs(router['prob']).max((1, 2)) > 1e-2).tolist() == [
    True,
    False,
    True,
  ]
  np.testing.assert_array_equal(router['normalised'], 0)


def test_one_expert_with_a_normalised_gate_is_the_dense_ffn():
  graphdef, params = layer(sets=None, count=1)
  groups = routing_lib.TokenGroups((32,), (0,))
  options = experts.Options(engine='dropless', gate='normalised')
  y, done, _ = run(graphdef, params, rows(), groups, options)
  p = {k: np.asarray(v, np.float64)[0] for k, v in params.items()}
  h = np.asarray(rows(), np.float64) @ p['w_in'] + p['b_in']
  h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
  np.testing.assert_allclose(
    y, h @ p['w_out'] + p['b_out'], rtol=1e-5, atol=1e-5
  )
  assert float(done.balance) == 1.0


def test_bfloat16_stays_close_and_routes_in_float32():
  graphdef, params = layer()
  x = rows().astype(jnp.bfloat16)
  options = experts.Options(engine='dropless')
  y, done, _ = run(graphdef, params, x, GROUPS, options)
  exact, wide, _ = run(graphdef, params, x.astype(jnp.float32), GROUPS, options)
  assert y.dtype == jnp.bfloat16
  assert done.routing.probs.dtype == jnp.float32
  # The same rounded rows give the very same routing.
  np.testing.assert_array_equal(done.routing.probs, wide.routing.probs)
  np.testing.assert_array_equal(done.routing.expert, wide.routing.expert)
  error = jnp.abs(y.astype(jnp.float32) - exact).max() / jnp.abs(exact).max()
  assert 0 < error < BFLOAT16


def test_the_balance_scale_is_the_number_of_experts_unless_given():
  graphdef, params = layer()
  loss = lambda scale: (
    run(graphdef, params, rows(), GROUPS, experts.Options(balance_scale=scale))[
      1
    ].balance
  )
  np.testing.assert_allclose(loss(None), loss(4.0), rtol=1e-6)
  np.testing.assert_allclose(loss(8.0), 4 * loss(None), rtol=1e-6)


def test_equal_logits_give_the_closed_form_of_the_z_loss():
  graphdef, params = layer()
  params['router'] = jnp.zeros_like(params['router'])
  done = run(graphdef, params, rows(), GROUPS, experts.Options())[1]
  np.testing.assert_allclose(done.z, np.log(EXPERTS) ** 2, rtol=1e-6)


def test_more_choices_than_experts_use_all_experts():
  graphdef, params = layer(sets=None, count=2)
  groups = routing_lib.TokenGroups((32,), (0,))
  options = experts.Options(engine='dropless', choices=3)
  done = run(graphdef, params, rows(), groups, options)[1]
  assert done.routing.expert.shape == (32, 2)
  np.testing.assert_allclose(done.routing.gate.sum(-1), 1, rtol=1e-6)
