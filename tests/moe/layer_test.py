"""One set of experts in place of an FFN: noise, sums, images that count."""

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
from rsfm_jax.nn import mlp
from rsfm_jax.sharding import mesh as meshes

REORDERED = 1e-5
DIM, HIDDEN, EXPERTS = 6, 8, 4


@functools.cache
def layer(number=EXPERTS):
  made = moe_layer.MoE(DIM, HIDDEN, number, key=jax.random.key(0), std=0.7)
  # Decisions must not hang on a rounding.
  made.routed.router[...] = 100 * made.routed.router[...]
  return made


@functools.cache
def compiled(number=EXPERTS):
  """`layer(number)` as one program; op by op it would be a hundred."""
  graphdef, state = nnx.split(layer(number))

  @functools.partial(jax.jit, static_argnames=('options', 'places'))
  def run(x, *, options, key=None, valid=None, places=1):
    return nnx.merge(graphdef, state)(
      x, options=options, key=key, valid=valid, places=places
    )

  return run


def images(count=4, tokens=5, seed=1):
  return jax.random.normal(jax.random.key(seed), (count, tokens, DIM))


def options(engine='dropless', **changes):
  return experts.Options(engine=engine, **changes)


def test_one_expert_is_the_dense_ffn():
  made = layer(1)
  dense = mlp.Mlp(DIM, HIDDEN, key=jax.random.key(1))
  for name in ('w_in', 'b_in', 'w_out', 'b_out'):
    getattr(dense, name)[...] = getattr(made.routed, name)[0]
  x = images()
  y, sums = compiled(1)(x, options=options())
  np.testing.assert_allclose(y, dense(x), rtol=REORDERED, atol=REORDERED)
  np.testing.assert_allclose(sums.chosen, [[20]])


@pytest.mark.parametrize('choices', [1, 2])
def test_outputs_are_weighted_by_probabilities_as_they_are(choices):
  made, x = layer(), images()
  y, _ = compiled()(x, options=options(choices=choices))
  weights = made.routed.weights
  flat = x.reshape(-1, DIM)
  probs = jax.nn.softmax(flat @ weights.router[0], -1)
  every = mlp.stacked_ffn(
    jnp.broadcast_to(flat[None], (EXPERTS, *flat.shape)),
    *(w[0] for w in weights[1:]),
  )
  cut = jax.lax.top_k(probs, choices)[0][:, -1:]
  gates = jnp.where(probs >= cut, probs, 0)
  expected = jnp.einsum('ne,end->nd', gates, every)
  np.testing.assert_allclose(
    y.reshape(-1, DIM), expected, rtol=REORDERED, atol=REORDERED
  )


def test_sums_add_up_over_calls():
  made = compiled()
  a, b = images(2, 5, 1), images(3, 5, 2)
  sums = [made(x, options=options())[1] for x in (a, b)]
  together = made(jnp.concatenate([a, b]), options=options())[1]
  total = jax.tree.map(lambda *v: sum(v), *sums)
  for x, y in zip(
    jax.tree.leaves(total), jax.tree.leaves(together), strict=True
  ):
    np.testing.assert_allclose(x, y, rtol=1e-4)
  np.testing.assert_allclose(together.tokens, 25)
  np.testing.assert_allclose(together.demand.importance.sum(), 25, rtol=1e-5)


def test_noise_is_for_training_and_by_the_key():
  made, x = compiled(), images(8)
  run = lambda key, noise=20.0: made(
    x, options=options(gate_noise=noise), key=key
  )
  plain, sums = run(None)
  np.testing.assert_array_equal(run(jax.random.key(1), 0.0)[0], plain)
  first, noisy = run(jax.random.key(1))
  np.testing.assert_array_equal(run(jax.random.key(1))[0], first)
  assert float(jnp.abs(run(jax.random.key(2))[0] - first).max()) > 1e-3
  # The importance is of the probabilities without noise, the load is not.
  np.testing.assert_allclose(
    noisy.demand.importance, sums.demand.importance, rtol=1e-5
  )
  assert float(jnp.abs(noisy.demand.load - sums.demand.load).max()) > 1e-2
  np.testing.assert_allclose(sums.demand.load, sums.chosen)


@pytest.mark.parametrize('choices', [1, 2])
def test_what_tokens_prefer_is_told_without_the_noise(choices):
  made, x = compiled(), images(8)
  run = lambda key: made(
    x, options=options(gate_noise=20.0, choices=choices), key=key
  )[1]
  plain, noisy = run(None), run(jax.random.key(1))
  np.testing.assert_array_equal(plain.preferred, plain.chosen)
  np.testing.assert_array_equal(noisy.preferred, plain.chosen)
  assert (noisy.chosen != plain.chosen).any()


def test_places_of_a_sample_have_sums_of_their_own():
  made, x = compiled(), images(6)
  _, together = made(x, options=options(), places=3)
  assert together.chosen.shape == (3, EXPERTS)
  for place in range(3):
    _, alone = made(x[place::3], options=options())
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a[place], b[0], rtol=1e-5),  # noqa: B023
      together,
      alone,
    )


def test_images_that_do_not_count_take_no_slot_and_no_part_in_sums():
  made = compiled()
  x, valid = images(4), jnp.array([False, True, False, True])
  run = lambda x, valid, factor=1.0: made(
    x, options=options('capacity', capacity_factor=factor), valid=valid
  )
  y, sums = run(x, valid)
  for value in (x.at[0].set(7.0), x.at[2].set(-50.0)):
    other, same = run(value, valid)
    np.testing.assert_array_equal(other[valid], y[valid])
    for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(sums), strict=True):
      np.testing.assert_array_equal(a, b)
  np.testing.assert_allclose(sums.tokens, 10)
  # Half of the batch has all of its slots: as many as alone with twice that.
  alone, few = run(x[valid], None, 2.0)
  np.testing.assert_allclose(y[valid], alone, rtol=REORDERED, atol=REORDERED)
  np.testing.assert_allclose(sums.dropped, few.dropped)


def test_the_losses_push_towards_balance():
  made, x = layer(), images(16)
  graphdef, state = nnx.split(made)

  def loss(state):
    _, sums = nnx.merge(graphdef, state)(
      x, options=options(gate_noise=1.0), key=jax.random.key(0)
    )
    return balance.demand_loss(sums.demand).sum()

  step = jax.jit(jax.value_and_grad(loss))
  before, gradient = step(state)
  moved = jax.tree.map(lambda w, g: w - 0.3 * g, state, gradient)
  assert float(step(moved)[0]) < float(before)


@pytest.mark.parametrize('engine', ['dropless', 'capacity'])
def test_a_mesh_changes_nothing(engine):
  graphdef, state = nnx.split(layer())
  x, valid = images(8), jnp.arange(8) % 4 != 1
  mesh = meshes.make_mesh(data=2, expert=2, fsdp=1, devices=jax.devices()[:4])

  def outcome(placement):
    def loss(state, x):
      y, sums = nnx.merge(graphdef, state)(
        x,
        options=options(engine, gate_noise=1.0, capacity_factor=1.5),
        key=jax.random.key(0),
        valid=valid,
        groups=4,
        placement=placement,
      )
      total = (y * jnp.cos(y)).sum() + balance.demand_loss(sums.demand).sum()
      return total + sums.z.sum(), (y, sums)

    return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(state, x)

  apart = outcome(expert_parallel.Placement(mesh, 'exchange'))
  for a, b in zip(
    jax.tree.leaves(apart), jax.tree.leaves(outcome(None)), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_groups_that_do_not_divide_the_batch_are_named():
  with pytest.raises(ValueError, match='routing_groups=3.*4 images'):
    layer()(images(4), options=options(), groups=3)
