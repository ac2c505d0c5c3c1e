"""Expert-parallel RMoE equals the same layer on one device."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.moe import expert_parallel
from rsfm_jax.moe import experts
from rsfm_jax.moe import rmoe
from rsfm_jax.sharding import mesh as meshes

# Sums over devices come in another order; values are of order 1.
REORDERED = 1e-5
DIM, HIDDEN, EXPERTS, SIDE = 8, 8, 8, 2

EQUAL = ((0, 8), (1, 8), (2, 8), (3, 8))
UNEQUAL = ((0, 24), (2, 8), (3, 16))
MESHES = {
  '(8, 1)': dict(data=8),
  '(4, 2)': dict(data=4, expert=2),
  '(2, 4)': dict(data=2, expert=4),
  '(1, 8)': dict(data=1, expert=8),
  'tensor': dict(data=1, expert=2, tensor=4),
  'fsdp': dict(data=1, fsdp=4, expert=2),
}


@functools.cache
def layer():
  """(graphdef, params); nothing is zero."""
  make = lambda: rmoe.RMoE(
    DIM,
    HIDDEN,
    sensors=4,
    specialised=EXPERTS,
    collaborative=EXPERTS,
    key=jax.random.key(0),
  )
  graphdef, state = nnx.split(nnx.eval_shape(make))
  rng = np.random.default_rng(1)
  draw = lambda w: jnp.asarray(rng.standard_normal(w.shape), 'float32')
  return graphdef, nnx.to_pure_dict(jax.tree.map(draw, state))


def run(arrangement, placement, options, scope='mixed'):
  """(y per sensor, aux, gradients of params and x) of one arrangement."""
  graphdef, params = layer()
  rng = np.random.default_rng(0)
  x = [
    jnp.asarray(rng.standard_normal((n, SIDE, SIDE, DIM)), 'float32')
    for _, n in arrangement.counts
  ]

  def total(params, x):
    y, aux = nnx.merge(graphdef, params)(
      arrangement.join(x),
      segments=arrangement.segments,
      options=options,
      groups=arrangement.groups,
      scope=scope,
      placement=placement,
    )
    y = arrangement.split(y)
    cotangent = lambda v: jnp.cos(jnp.arange(v.size, dtype='f4')).reshape(
      v.shape
    )
    return sum((v * cotangent(v)).sum() for v in y) + aux.balance + aux.z, (
      y,
      aux,
    )

  step = jax.jit(jax.grad(total, (0, 1), has_aux=True))
  gradients, (y, aux) = step(params, x)
  return y, aux, gradients


def same(got, expected):
  for a, b in zip(got, expected, strict=True):
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(b))
    for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
      np.testing.assert_allclose(
        u, v, rtol=REORDERED, atol=REORDERED * max(largest, 1)
      )


def place(name, kind):
  return expert_parallel.Placement(meshes.make_mesh(**MESHES[name]), kind)


@pytest.mark.parametrize('counts', [EQUAL, UNEQUAL])
@pytest.mark.parametrize('name', MESHES)
def test_exchange_equals_one_device(name, counts):
  placement = place(name, 'exchange')
  options = experts.Options(capacity_factor=0.75)
  arrangement = expert_parallel.arrange(counts, placement, groups=8)
  expected = run(arrangement, None, options)
  assert expected[1].dropped.max() > 0.05  # Or capacity was not tested.
  same(run(arrangement, placement, options), expected)


@pytest.mark.parametrize('kind', ['exchange', 'sensor'])
def test_travelling_in_chunks_changes_nothing(kind):
  placement = place('(2, 4)', kind)
  options = experts.Options(capacity_factor=0.75)
  arrangement = expert_parallel.arrange(EQUAL, placement)
  expected = run(arrangement, placement, options)
  same(run(arrangement, placement, options._replace(chunks=2)), expected)


@pytest.mark.parametrize('name', ['(4, 2)', '(2, 4)', 'tensor'])
def test_sensor_placement_equals_one_device(name):
  placement = place(name, 'sensor')
  options = experts.Options(capacity_factor=0.75)
  arrangement = expert_parallel.arrange(EQUAL, placement, groups=8)
  expected = run(arrangement, None, options)
  same(run(arrangement, placement, options), expected)


@pytest.mark.parametrize('kind', ['exchange', 'sensor'])
def test_a_large_capacity_equals_the_dense_oracle_of_the_batch(kind):
  """Whatever the order and the groups: nothing is dropped."""
  placement = place('(2, 4)', kind)
  arrangement = expert_parallel.arrange(EQUAL, placement)
  plain = expert_parallel.arrange(EQUAL, None)
  options = experts.Options(choices=2, capacity_factor=8.0)
  got = run(arrangement, placement, options, 'global')
  expected = run(plain, None, options._replace(engine='oracle'), 'global')
  same((got[0],), (expected[0],))
  for name in ('collaborative_load', 'specialised_gate', 'share', 'entropy'):
    same((getattr(got[1], name),), (getattr(expected[1], name),))


@pytest.mark.parametrize(
  ('name', 'kind', 'choices'),
  [
    ('(8, 1)', 'exchange', 1),
    ('(2, 4)', 'exchange', 2),
    ('(1, 8)', 'exchange', 1),
    ('tensor', 'exchange', 2),
    ('(2, 4)', 'sensor', 1),
    ('fsdp', 'sensor', 2),
  ],
)
def test_dropless_rows_travel_and_equal_the_oracle(name, kind, choices):
  placement = place(name, kind)
  arrangement = expert_parallel.arrange(EQUAL, placement, groups=8)
  options = experts.Options(engine='dropless', choices=choices)
  expected = run(arrangement, None, options._replace(engine='oracle'))
  same(run(arrangement, placement, options), expected)


def test_a_small_receiving_buffer_drops_and_says_so():
  """Room for half of what is sent on average: half is dropped or more."""
  placement = place('(1, 8)', 'exchange')
  arrangement = expert_parallel.arrange(EQUAL, placement)
  options = experts.Options(engine='dropless', buffer_factor=0.5)
  y, aux, gradients = run(arrangement, placement, options)
  assert 0.5 <= aux.dropped.mean() < 1
  assert all(np.isfinite(v).all() for v in jax.tree.leaves((y, gradients)))


def test_the_global_scope_balances_over_all_devices():
  """The same loss on every mesh, whatever the groups."""
  options = experts.Options(engine='dropless')
  losses = []
  for name, kind in (('(8, 1)', 'exchange'), ('(2, 4)', 'sensor')):
    placement = place(name, kind)
    arrangement = expert_parallel.arrange(EQUAL, placement)
    losses.append(run(arrangement, placement, options, 'global')[1])
  alone = run(expert_parallel.arrange(EQUAL, None), None, options, 'global')[1]
  for aux in losses:
    np.testing.assert_allclose(
      aux.collaborative_load, alone.collaborative_load, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(aux.balance, alone.balance, rtol=1e-5)
    np.testing.assert_allclose(aux.z, alone.z, rtol=1e-5)


@pytest.mark.parametrize('columns', [1, 2, 4])
def test_join_and_split_are_inverse_and_segments_tell_the_order(columns):
  arrangement = expert_parallel.Arrangement(EQUAL, 8, 2, columns)
  parts = [jnp.full((n, 3), s, 'float32') for s, n in EQUAL]
  joined = arrangement.join(parts)
  told = [s for s, n in arrangement.segments for _ in range(n)]
  np.testing.assert_array_equal(joined[:, 0], told)
  for part, back in zip(parts, arrangement.split(joined), strict=True):
    np.testing.assert_array_equal(part, back)
  numbered = [jnp.arange(n)[:, None] + 100 * s for s, n in EQUAL]
  for part, back in zip(
    numbered, arrangement.split(arrangement.join(numbered)), strict=True
  ):
    np.testing.assert_array_equal(part, back)


def test_specialised_tokens_of_sensor_placement_never_travel():
  """Half as many all-to-alls as with exchange."""
  graphdef, params = layer()
  found = {}
  for kind in ('exchange', 'sensor'):
    placement = place('(2, 4)', kind)
    arrangement = expert_parallel.arrange(EQUAL, placement)
    forward = lambda p, x: nnx.merge(graphdef, p)(
      x,
      segments=arrangement.segments,  # noqa: B023
      options=experts.Options(),
      groups=arrangement.groups,  # noqa: B023
      placement=placement,  # noqa: B023
    )[0]
    x = jnp.zeros((32, SIDE, SIDE, DIM))
    text = jax.jit(forward).lower(params, x).as_text()
    found[kind] = text.count('stablehlo.all_to_all')
  assert found == {'exchange': 4, 'sensor': 2}


@pytest.mark.parametrize(
  ('counts', 'kind', 'groups', 'words'),
  [
    (EQUAL, 'exchange', 3, 'model.routing_groups=3'),
    (((0, 9), (1, 8)), 'exchange', None, '9 images of sensor 0'),
    (UNEQUAL, 'sensor', None, 'mesh.placement=sensor'),
  ],
)
def test_sizes_that_do_not_divide_are_named(counts, kind, groups, words):
  with pytest.raises(ValueError, match=words):
    expert_parallel.arrange(counts, place('(2, 4)', kind), groups=groups)
