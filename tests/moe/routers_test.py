"""Routers that see sensors, against a loop over tokens."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.moe import balance
from rsfm_jax.moe import expert_parallel
from rsfm_jax.moe import experts
from rsfm_jax.moe import layer as moe_layer
from rsfm_jax.moe import routers
from rsfm_jax.nn import mlp
from rsfm_jax.sharding import mesh as meshes

REORDERED = 1e-5
DIM, HIDDEN, EXPERTS, SENSORS = 6, 8, 4, 3
ALLOWED = ((True, False, False, True), (False, True, False, True), (True,) * 4)
IMAGES, TOKENS = 4, 6
KINDS = ('none', 'bias', 'router', 'partition')


@functools.cache
def layer(conditioning, shared=False):
  kind = routers.Kind(
    conditioning, SENSORS, ALLOWED if conditioning == 'partition' else ()
  )
  made = moe_layer.MoE(
    DIM,
    HIDDEN,
    EXPERTS,
    key=jax.random.key(0),
    std=0.7,
    router=kind,
    shared=mlp.Mlp(DIM, HIDDEN, key=jax.random.key(9), std=0.7)
    if shared
    else None,
  )
  # Decisions must not hang on a rounding.
  made.routed.router[...] = 100 * made.routed.router[...]
  if conditioning == 'bias':
    made.router_bias[...] = jax.random.normal(
      jax.random.key(3), (SENSORS, EXPERTS)
    )
  return made


def tokens(seed=1):
  return jax.random.normal(jax.random.key(seed), (IMAGES, TOKENS, DIM))


def whose(seed=2):
  shape = (IMAGES, TOKENS)
  return jax.random.randint(jax.random.key(seed), shape, 0, SENSORS)


def options(engine='dropless', **changes):
  return experts.Options(engine=engine, **changes)


@functools.partial(jax.jit, static_argnums=0, static_argnames='options')
def program(graphdef, state, x, *, options, **arrays):
  return nnx.merge(graphdef, state)(x, options=options, **arrays)


def run(made, x, **how):
  """A layer's call as one program."""
  return program(*nnx.split(made), x, **how)


def slow(made, x, sensor, conditioning, choices, activation):
  """Token by token, in numpy: output, gates [N, E], chosen bool [N, E]."""
  w = {n: np.asarray(getattr(made.routed, n)[...]) for n in WEIGHTS}
  out, gates = [], np.zeros((IMAGES * TOKENS, EXPERTS))
  chosen = np.zeros(gates.shape, bool)
  flat = np.asarray(x).reshape(-1, DIM)
  act = mlp.ACTIVATIONS[activation]
  for n, (row, m) in enumerate(zip(flat, np.ravel(sensor), strict=True)):
    router = w['router'][m] if conditioning == 'router' else w['router']
    logits = row @ router
    if conditioning == 'bias':
      logits = logits + np.asarray(made.router_bias[...])[m]
    if conditioning == 'partition':
      logits = np.where(ALLOWED[m], logits, -np.inf)
    probs = np.exp(logits - logits.max())
    probs /= probs.sum()
    y = np.zeros(DIM)
    for e in np.argsort(-probs)[:choices]:
      hidden = np.asarray(act(jnp.asarray(row @ w['w_in'][e] + w['b_in'][e])))
      y += probs[e] * (hidden @ w['w_out'][e] + w['b_out'][e])
      gates[n, e], chosen[n, e] = probs[e], True
    out.append(y)
  return np.stack(out).reshape(x.shape), gates, chosen


WEIGHTS = ('router', 'w_in', 'b_in', 'w_out', 'b_out')


@pytest.mark.parametrize('conditioning', KINDS)
@pytest.mark.parametrize(
  ('engine', 'choices', 'activation'),
  [
    ('dropless', 1, 'gelu'),
    ('capacity', 2, 'gelu_tanh'),
    ('oracle', 1, 'gelu'),
  ],
)
def test_every_conditioning_is_the_loop_over_tokens(
  conditioning, engine, choices, activation
):
  made, x, sensor = layer(conditioning), tokens(), whose()
  how = options(
    engine, choices=choices, capacity_factor=9.0, activation=activation
  )
  y, sums = run(made, x, options=how, sensor=sensor)
  expected, gates, chosen = slow(
    made, x, sensor, conditioning, choices, activation
  )
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=REORDERED)
  for m in range(SENSORS):
    mine = np.ravel(sensor) == m
    np.testing.assert_allclose(sums.chosen[m], chosen[mine].sum(0))
    np.testing.assert_allclose(sums.gate[m], gates[mine].sum(0), rtol=1e-5)
    np.testing.assert_allclose(sums.tokens[m], mine.sum())


def test_a_bias_of_minus_infinity_is_the_hard_partition():
  hard, soft, sensor = layer('partition'), layer('bias'), whose()
  graphdef, state = nnx.split(soft)
  state = jax.tree.map(jnp.copy, state)  # The layer serves other tests.
  masked = jnp.where(jnp.array(ALLOWED), 0.0, -jnp.inf)
  state.router_bias[...] = masked
  both = nnx.merge(graphdef, state)
  for key in (None, jax.random.key(0)):
    told = dict(options=options(gate_noise=1.0), sensor=sensor, key=key)
    (a, sums), (b, same) = both(tokens(), **told), hard(tokens(), **told)
    np.testing.assert_array_equal(a, b)
    for name in ('chosen', 'gate', 'tokens', 'z'):
      np.testing.assert_array_equal(getattr(sums, name), getattr(same, name))
    forbidden = ~np.array(ALLOWED)
    assert (np.asarray(same.chosen)[forbidden] == 0).all()


@pytest.mark.parametrize('conditioning', KINDS)
def test_gradients_are_finite_and_reach_what_a_sensor_uses(conditioning):
  graphdef, state = nnx.split(layer(conditioning))
  sensor = jnp.where(whose() == 2, 0, whose())  # None of the last sensor.

  def loss(state):
    y, sums = nnx.merge(graphdef, state)(
      tokens(),
      options=options(gate_noise=1.0),
      sensor=sensor,
      key=jax.random.key(0),
    )
    return (y * jnp.cos(y)).sum() + balance.demand_loss(sums.demand).sum()

  gradient = jax.jit(jax.grad(loss))(state)
  for leaf in jax.tree.leaves(gradient):
    assert np.isfinite(leaf).all()
  if conditioning == 'bias':
    bias = np.asarray(gradient.router_bias[...])
    assert (bias[:2] != 0).any(1).all() and (bias[2] == 0).all()
  if conditioning == 'router':
    router = np.asarray(gradient.routed.router[...])
    assert (router[:2] != 0).any((1, 2)).all() and (router[2] == 0).all()


def test_a_shared_expert_is_added_as_it_is():
  x, sensor = tokens(), whose()
  plain, _ = run(layer('bias'), x, options=options(), sensor=sensor)
  made = layer('bias', shared=True)
  both, _ = run(made, x, options=options(), sensor=sensor)
  np.testing.assert_allclose(
    both, plain + made.shared(x), rtol=REORDERED, atol=REORDERED
  )


def test_tokens_that_do_not_count_take_no_slot_and_no_part_in_sums():
  made, x, sensor = layer('bias'), tokens(), whose()
  valid = jax.random.uniform(jax.random.key(5), (IMAGES, TOKENS)) < 0.6
  how = dict(options=options('capacity', capacity_factor=1.0), sensor=sensor)
  y, sums = run(made, x, valid=valid, **how)
  dirty = jnp.where(valid[..., None], x, -50.0)
  other, same = run(made, dirty, valid=valid, **how)
  np.testing.assert_array_equal(other[valid], y[valid])
  jax.tree.map(np.testing.assert_array_equal, same, sums)
  for m in range(SENSORS):
    np.testing.assert_allclose(sums.tokens[m], (valid & (sensor == m)).sum())


@pytest.mark.parametrize('conditioning', ['bias', 'router'])
def test_a_mesh_changes_nothing(conditioning):
  graphdef, state = nnx.split(layer(conditioning))
  mesh = meshes.make_mesh(data=2, expert=2, fsdp=1, devices=jax.devices()[:4])
  valid = jax.random.uniform(jax.random.key(5), (IMAGES, TOKENS)) < 0.8

  def outcome(placement):
    def loss(state, x):
      y, sums = nnx.merge(graphdef, state)(
        x,
        options=options('capacity', gate_noise=1.0, capacity_factor=1.5),
        key=jax.random.key(0),
        sensor=whose(),
        valid=valid,
        groups=4,
        placement=placement,
      )
      total = (y * jnp.cos(y)).sum() + balance.demand_loss(sums.demand).sum()
      return total, (y, sums)

    return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(state, tokens())

  apart = outcome(expert_parallel.Placement(mesh, 'exchange'))
  for a, b in zip(
    jax.tree.leaves(apart), jax.tree.leaves(outcome(None)), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
