import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import pytest

from rsfm_jax.core import trees
from rsfm_jax.sharding import mesh as mesh_lib
from rsfm_jax.sharding import rules
from rsfm_jax.sharding import state as state_lib

RULES = (
  ('.*/w_in', P('expert', 'fsdp', 'tensor')),
  ('.*/kernel', P('fsdp')),
  ('.*', P()),
)


def params():
  return {
    'ffn': {'w_in': jnp.zeros((2, 8, 4))},
    'out': {'kernel': jnp.zeros((8, 4)), 'bias': jnp.zeros((4,))},
  }


def state():
  return {
    'step': jnp.int32(0),
    'params': params(),
    'opt': {'count': jnp.int32(0), 'mu': params(), 'nu': params()},
    'ema': params(),
    'extra': {'teacher': params()},
    'nonfinite': {'total': jnp.int32(0)},
  }


def test_first_match_wins():
  specs = trees.flatten(rules.specs(params(), RULES))
  assert specs == {
    'ffn/w_in': P('expert', 'fsdp', 'tensor'),
    'out/bias': P(),
    'out/kernel': P('fsdp'),
  }


def test_moments_ema_and_teacher_follow_their_parameter():
  specs = trees.flatten(rules.state_specs(state(), RULES))
  for place in ('params', 'opt/mu', 'opt/nu', 'ema', 'extra/teacher'):
    assert specs[f'{place}/ffn/w_in'] == P('expert', 'fsdp', 'tensor'), place
    assert specs[f'{place}/out/kernel'] == P('fsdp'), place
  assert specs['opt/count'] == specs['step'] == P()


def test_empty_extra_keeps_its_place():
  bare = state() | {'extra': {}}
  specs = rules.state_specs(bare, RULES)
  assert specs['extra'] == {}
  assert jax.tree.structure(bare) == jax.tree.structure(
    specs, is_leaf=lambda x: isinstance(x, P)
  )


def test_other_arrays_of_extra_need_their_own_rule():
  with_centres = state() | {'extra': {'centres': jnp.zeros((8, 3))}}
  with pytest.raises(ValueError, match='no rule matches.*extra/centres'):
    rules.state_specs(with_centres, RULES[:-1] + (('out/.*', P()),))
  own = (('extra/centres', P('fsdp')),) + RULES
  specs = trees.flatten(rules.state_specs(with_centres, own))
  assert specs['extra/centres'] == P('fsdp')


def test_unmatched_leaf_unused_rule_and_rank_are_errors():
  with pytest.raises(ValueError, match="mesh.rules: no rule matches.*'out/b"):
    rules.specs(params(), RULES[:-1])
  with pytest.raises(ValueError, match='match no parameter.*router'):
    rules.specs(params(), (('.*/router', P()),) + RULES)
  with pytest.raises(ValueError, match='out/bias has shape .4,.*2 dim'):
    rules.specs(params(), (('.*', P('fsdp', 'tensor')),))


def test_a_dimension_that_does_not_divide_is_named():
  mesh = mesh_lib.make_mesh(data=1, fsdp=8)
  odd = {'out': {'kernel': jnp.zeros((6, 4))}}
  with pytest.raises(ValueError, match='dimension 0 of out/kernel.*8 pieces'):
    rules.shardings(odd, mesh, (('.*', P('fsdp')),))
  with pytest.raises(ValueError, match="cut over .'model'.*mesh has the axes"):
    rules.shardings(odd, mesh, (('.*', P('model')),))


def test_plan_allocates_nothing_and_creates_in_place():
  mesh = mesh_lib.make_mesh(data=2, fsdp=2, expert=2)
  made = []

  def init(scale):
    made.append(1)
    return jax.tree.map(lambda x: x + scale.astype(x.dtype), state())

  plan = state_lib.plan(init, jnp.float32(2.0), mesh=mesh, rules=RULES)
  assert len(made) == 1
  created = plan.create()
  kernel = created['opt']['mu']['out']['kernel']
  assert kernel.sharding.spec == P('fsdp')
  assert kernel.addressable_shards[0].data.shape == (4, 4)
  assert float(kernel.sum()) == 64.0
  same = jax.tree.map(
    lambda a, x: a.sharding.is_equivalent_to(x.sharding, x.ndim),
    plan.abstract,
    created,
  )
  assert all(jax.tree.leaves(same))
