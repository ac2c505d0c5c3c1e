import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rsfm_jax.core import trees
from rsfm_jax.train import optim

# float32 against a float64 reference, six steps; as the fixtures state it.
RTOL = 1e-5
# The RingMoE reference rounds 1 - b2 to float32, which moves an update (1e-2
# here) by 6e-6 of itself; it matters for parameters that come near zero.
ATOL = 2e-7
RULES = (('norm', False), ('.*', True))


def spec(**kwargs):
  defaults = {'learning_rate': 1e-3, 'total_steps': 10, 'decay_rules': RULES}
  return optim.OptimSpec(**(defaults | kwargs))


def params():
  return {'norm': jnp.ones((5,)), 'w': jnp.arange(12.0).reshape(3, 4)}


def fixture(shared, name):
  path = shared / 'parity' / f'{name}.npz'
  if not path.exists():
    pytest.skip(f'{path} is absent')
  with np.load(path, allow_pickle=False) as arrays:
    arrays = dict(arrays)
  return arrays, json.loads(str(arrays['meta_json']))['config']


def run_fixture(tx, arrays, steps):
  """Trains on recorded gradients; yields the parameters after each step."""

  def group(prefix):
    return {
      name.removeprefix(prefix): jnp.asarray(x)
      for name, x in arrays.items()
      if name.startswith(prefix)
    }

  values = group('in/param0/')
  state = tx.init(values)
  update = jax.jit(tx.update)
  for t in range(steps):
    values, state = update(group(f'in/grad/{t}/'), state, values, t)
    yield t, values, group(f'out/param/{t}/')


def test_ringmoe_release_schedule_and_updates(shared):
  arrays, c = fixture(shared, '12_ringmoe_optimizer')
  ringmoe = optim.OptimSpec(
    learning_rate=c['base'],
    min_learning_rate=c['lrmin'],
    warmup_learning_rate=c['wlr'],
    warmup_steps=c['warm'],
    total_steps=c['total'],
    weight_decay=c['wd'],
    clip_norm=c['clip'],
    bias_correction=False,
    cosine='from_zero',
    decay_rules=(('norm.gamma', False), ('.*', True)),
  )
  rates = jax.vmap(optim.schedule(ringmoe))(jnp.arange(c['total']))
  np.testing.assert_allclose(rates, arrays['out/lr'], rtol=RTOL)
  names = ('w2d.weight', 'norm.gamma', 'table')
  tx = optim.make(ringmoe, dict.fromkeys(names, jnp.zeros(())))
  for t, got, want in run_fixture(tx, arrays, c['steps']):
    for name in names:
      np.testing.assert_allclose(
        got[name], want[name], rtol=RTOL, atol=ATOL, err_msg=f'{name} {t}'
      )


def test_torch_adamw_with_clipping(shared):
  arrays, c = fixture(shared, '12_torch_adamw_clip')
  torch = optim.OptimSpec(
    learning_rate=c['lr'],
    min_learning_rate=c['lr'],  # Constant.
    total_steps=c['steps'],
    weight_decay=c['wd'],
    clip_norm=c['clip'],
    decay_rules=RULES,
  )
  names = ('w2d', 'norm', 'table')
  tx = optim.make(torch, dict.fromkeys(names, jnp.zeros(())))
  for t, got, want in run_fixture(tx, arrays, c['steps']):
    for name in names:
      np.testing.assert_allclose(
        got[name], want[name], rtol=RTOL, err_msg=f'{name} {t}'
      )
    norm = optim.global_norm(
      {name: jnp.asarray(arrays[f'in/grad/{t}/{name}']) for name in names}
    )
    np.testing.assert_allclose(norm, arrays[f'mid/global_norm/{t}'], rtol=RTOL)


def test_equals_the_chain_of_optax():
  s = spec(min_learning_rate=1e-3, clip_norm=0.5, weight_decay=0.1)
  tx = optim.make(s, params())
  chain = optax.chain(
    optax.clip_by_global_norm(0.5),
    optax.adamw(1e-3, 0.9, 0.999, 1e-8, weight_decay=0.1, mask=tx.decay),
  )
  ours, theirs = params(), params()
  state, chain_state = tx.init(ours), chain.init(theirs)
  for t in range(4):
    grads = jax.tree.map(lambda p, t=t: jnp.sin(p + t), ours)
    ours, state = tx.update(grads, state, ours, t)
    updates, chain_state = chain.update(grads, chain_state, theirs)
    theirs = optax.apply_updates(theirs, updates)
  for name in ours:
    np.testing.assert_allclose(ours[name], theirs[name], rtol=RTOL)


def large():
  """A matrix large enough to factor, beside two that are not."""
  draw = np.random.default_rng(0).standard_normal
  return params() | {'experts': jnp.asarray(draw((2, 128, 256)), 'float32')}


def test_adafactor_equals_the_chain_of_optax():
  s = spec(
    kind='adafactor', min_learning_rate=1e-3, clip_norm=0.5, weight_decay=0.1
  )
  tx = optim.make(s, large())
  chain = optax.chain(
    optax.clip_by_global_norm(0.5),
    optax.scale_by_factored_rms(),
    optax.clip_by_block_rms(1.0),
    optax.add_decayed_weights(0.1, mask=tx.decay),
    optax.scale(-1e-3),
  )
  ours, theirs = large(), large()
  state, chain_state = tx.init(ours), chain.init(theirs)
  for t in range(3):
    grads = jax.tree.map(lambda p, t=t: jnp.sin(p + t), ours)
    ours, state = jax.jit(tx.update)(grads, state, ours, t)
    updates, chain_state = chain.update(grads, chain_state, theirs)
    theirs = optax.apply_updates(theirs, updates)
  for name in ours:
    np.testing.assert_allclose(
      ours[name], theirs[name], rtol=RTOL, atol=ATOL, err_msg=name
    )


def test_adafactor_keeps_a_row_and_a_column_of_a_matrix():
  tx = optim.make(spec(kind='adafactor'), large())
  state = tx.init(large())
  assert state['row']['experts'].shape == (2, 128)
  assert state['column']['experts'].shape == (2, 256)
  assert state['nu']['experts'].shape == (1,)
  assert state['nu']['w'].shape == (3, 4)
  kept = trees.count(state)
  assert kept < trees.count(large()) / 50


def test_state_names_end_in_parameter_names():
  tx = optim.make(spec(), params())
  assert list(trees.flatten(tx.init(params()))) == [
    'count',
    'mu/norm',
    'mu/w',
    'nu/norm',
    'nu/w',
  ]


def test_cosine_after_warmup_is_continuous_and_ends_at_the_minimum():
  s = spec(
    warmup_steps=4,
    total_steps=10,
    warmup_learning_rate=1e-5,
    min_learning_rate=1e-4,
  )
  rate = optim.schedule(s)
  np.testing.assert_allclose(rate(0), 1e-5, rtol=RTOL)
  np.testing.assert_allclose(rate(4), 1e-3, rtol=RTOL)
  np.testing.assert_allclose(rate(7), (1e-3 + 1e-4) / 2, rtol=RTOL)
  np.testing.assert_allclose(rate(10), 1e-4, rtol=RTOL)
  np.testing.assert_allclose(rate(15), 1e-4, rtol=RTOL)
  jump = optim.schedule(dataclasses.replace(s, cosine='from_zero'))
  assert float(jump(4)) < 0.8e-3


def test_rates_scale_with_the_global_batch():
  s = spec(reference_batch=512, min_learning_rate=1e-4)
  np.testing.assert_allclose(
    optim.schedule(s, global_batch=128)(0), 0.25e-3, rtol=RTOL
  )
  with pytest.raises(ValueError, match='reference_batch=512 needs'):
    optim.schedule(s)


def test_decay_rules_must_cover_every_parameter_and_be_used():
  with pytest.raises(ValueError, match=r"optim\.decay_rules: no rule.*'w'"):
    optim.make(spec(decay_rules=(('norm', False),)), params())
  with pytest.raises(ValueError, match='match no parameter.*mask_token'):
    optim.make(spec(decay_rules=(('mask_token', False),) + RULES), params())


def test_only_ruled_parameters_decay():
  tx = optim.make(spec(weight_decay=0.5), params())
  zeros = jax.tree.map(jnp.zeros_like, params())
  new, _ = tx.update(zeros, tx.init(params()), params(), 0)
  np.testing.assert_array_equal(new['norm'], params()['norm'])
  np.testing.assert_allclose(new['w'], params()['w'] * (1 - 1e-3 * 0.5), RTOL)


@pytest.mark.parametrize(
  'bad, message',
  [
    ({'warmup_steps': 10}, 'optim.warmup_steps=10'),
    ({'cosine': 'after_warmups'}, 'Did you mean "after_warmup"'),
    ({'clip_norm': 0.0}, 'optim.clip_norm=0.0 must be positive'),
  ],
)
def test_bad_specs_name_their_key(bad, message):
  with pytest.raises(ValueError, match=message):
    spec(**bad)


@pytest.mark.parametrize('kind', ['adamw', 'adafactor'])
def test_bfloat16_weights_move_by_what_is_smaller_than_their_spacing(kind):
  """Rounding to nearest would leave them where they are for ever.

  Weights of 1 with a spacing of 2^-7 and steps of 1e-4: 100 steps end at 0.99
  on average, each of 4096 weights on one of the neighbours.
  """
  settings = spec(
    kind=kind,
    weights='bfloat16',
    learning_rate=1e-4,
    min_learning_rate=1e-4,
    total_steps=1000,
    weight_decay=0.0,
    clip_norm=None,
    decay_rules=(('.*', True),),
  )
  full = {'ffn': {'w_in': jnp.ones((64, 64))}, 'norm': {'scale': jnp.ones(4)}}
  values = optim.stored(full, settings)
  assert values['ffn']['w_in'].dtype == jnp.bfloat16
  assert values['norm']['scale'].dtype == jnp.float32  # No matrix.
  tx = optim.make(settings, values)
  state = tx.init(values)
  assert {x.dtype for x in jax.tree.leaves(state)} <= {
    jnp.dtype('float32'),
    jnp.dtype('int32'),
  }
  gradients = jax.tree.map(jnp.ones_like, values)

  @jax.jit
  def run(values, state):
    body = lambda t, both: tx.update(gradients, both[1], both[0], t)
    return jax.lax.fori_loop(0, 100, body, (values, state))

  values, state = run(values, state)
  got = np.asarray(values['ffn']['w_in'], np.float64)
  deviation = 2**-7 * 100**0.5 / 64  # At most, of the mean.
  np.testing.assert_allclose(got.mean(), 0.99, atol=4 * deviation)
  assert len(np.unique(got)) > 1
  np.testing.assert_allclose(values['norm']['scale'], 0.99, atol=1e-5)


def test_rounding_at_random_keeps_what_bfloat16_can_hold():
  exact = jnp.array([0.0, -1.5, 2.0**-130, jnp.inf, -jnp.inf, jnp.nan])
  got = optim._rounded(exact, jnp.bfloat16, 'w_in', jnp.int32(3))
  np.testing.assert_array_equal(got.astype(jnp.float32), exact)


def stacked_params():
  return {
    'blocks': {'kernel': jnp.arange(6.0).reshape(3, 2) + 1},
    'head': {'kernel': jnp.ones(2)},
  }


def test_rates_of_stacked_layers_equal_one_optimiser_per_layer():
  rates = {
    'blocks': {'kernel': np.float32([[0.25], [0.5], [1.0]])},
    'head': {'kernel': np.float32(1)},
  }
  s = spec(decay_rules=(('.*', True),), clip_norm=None)
  params = stacked_params()
  grads = jax.tree.map(lambda p: 0.1 * p - 0.3, params)
  tx = optim.make(s, params, rates=rates)
  new, _ = tx.update(grads, tx.init(params), params, 5)
  for i, share in enumerate((0.25, 0.5, 1.0)):
    one = {'kernel': params['blocks']['kernel'][i]}
    slow = dataclasses.replace(
      s,
      learning_rate=share * s.learning_rate,
      min_learning_rate=share * s.min_learning_rate,
      warmup_learning_rate=share * s.warmup_learning_rate,
    )
    alone = optim.make(slow, one)
    want, _ = alone.update(
      {'kernel': grads['blocks']['kernel'][i]}, alone.init(one), one, 5
    )
    np.testing.assert_allclose(
      new['blocks']['kernel'][i], want['kernel'], rtol=1e-5
    )


def test_a_frozen_parameter_keeps_its_bits_and_has_no_moments():
  rates = {
    'blocks': {'kernel': np.float32(0)},
    'head': {'kernel': np.float32(1)},
  }
  params = stacked_params()
  tx = optim.make(spec(decay_rules=(('.*', True),)), params, rates=rates)
  state = tx.init(params)
  assert state['mu']['blocks']['kernel'].shape == ()
  grads = jax.tree.map(jnp.ones_like, params)
  new, state = tx.update(grads, state, params, 5)
  assert (new['blocks']['kernel'] == params['blocks']['kernel']).all()
  assert (new['head']['kernel'] != params['head']['kernel']).all()
  assert state['nu']['blocks']['kernel'].shape == ()


@pytest.mark.parametrize(
  'options, want',
  [
    ({'shape': 'constant'}, [1, 1, 1, 1, 1]),
    ({'shape': 'linear'}, [1, 0.75, 0.5, 0.25, 0]),
    ({'shape': 'poly', 'power': 2.0}, [1, 0.5625, 0.25, 0.0625, 0]),
    ({'shape': 'multistep', 'milestones': (0.5, 0.75)},
     [1, 1, 0.1, 0.01, 0.01]),
    ({'shape': 'exponential', 'gamma': 0.5, 'gamma_steps': 25},
     [1, 0.5, 0.25, 0.125, 0.0625]),
  ],
)  # fmt: skip
def test_shapes_of_the_schedule(options, want):
  s = spec(
    learning_rate=1.0,
    min_learning_rate=0.0,
    total_steps=110,
    warmup_steps=10,
    **options,
  )
  found = [optim.schedule(s)(10 + 25 * i) for i in range(5)]
  np.testing.assert_allclose(found, want, rtol=RTOL, atol=1e-7)


def test_held_parameters_stand_still_until_their_time():
  tx = optim.make(spec(held='w', held_steps=2), params())
  grads = jax.tree.map(jnp.ones_like, params())
  now, state = params(), tx.init(params())
  for step in range(3):
    before = now
    now, state = tx.update(grads, state, now, step)
    assert (now['norm'] != before['norm']).all()
    still = np.array_equal(now['w'], before['w'])
    assert still == (step < 2)
