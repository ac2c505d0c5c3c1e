import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.sharding import mesh as mesh_lib
from rsfm_jax.sharding import state as state_lib
from rsfm_jax.train import step as step_lib

# Sums of float32 in another order: a few units in the last place.
REORDERED = 2e-6

KEY = jax.random.key(0)


def run(step, state, batches, steps):
  losses = []
  for _ in range(steps):
    state, metrics = step(state, next(batches), KEY)
    losses.append(float(metrics['loss']))
  return state, losses


def close(a, b, rtol=REORDERED):
  for name, x in trees.flatten(a).items():
    np.testing.assert_allclose(
      x, trees.flatten(b)[name], rtol=rtol, atol=rtol, err_msg=name
    )


def test_metrics_and_counters_of_a_step(toy):
  state, metrics = toy.jitted()(toy.init_state(), next(toy.batches()), KEY)
  assert set(trees.flatten(metrics)) == {
    'loss',
    'grad_norm',
    'lr',
    'nonfinite/total',
    'nonfinite/in_a_row',
    'error/ms',
    'error/opt',
  }
  assert int(state['step']) == 1
  assert float(metrics['lr']) == 0.0
  assert float(metrics['grad_norm']) > 0


def test_metrics_are_whole_on_every_device(toy):
  """So that each process can read them; left alone, XLA cuts them up."""
  mesh = mesh_lib.make_mesh()

  def loss(params, extra, batch, key):
    value, _ = toy.loss(params, extra, batch, key)
    return value, {'per_sample': jnp.mean(batch['opt']['image'], axis=1)}

  tx = step_lib.optim.make(toy.SPEC, toy.init_params())
  step = step_lib.make_train_step(loss, tx, ema_decay=0.9)
  state = jax.device_put(toy.init_state(), mesh_lib.replicated(mesh))
  batch = jax.device_put(next(toy.batches()), mesh_lib.batch_sharding(mesh))
  jitted = step_lib.jit_step(
    step, state_shardings=jax.tree.map(lambda x: x.sharding, state)
  )
  _, metrics = jitted(state, batch, KEY)
  assert metrics['per_sample'].shape == (16,)
  for x in jax.tree.leaves(metrics):
    assert x.sharding.is_fully_replicated


def test_training_lowers_the_loss(toy):
  _, losses = run(toy.jitted(), toy.init_state(), toy.batches(), 12)
  assert losses[-1] < 0.95 * losses[1]


def test_the_key_is_folded_with_the_step(toy):
  step, batch = toy.jitted(), next(toy.batches())
  a, b = toy.init_state(), toy.init_state()
  b['step'] = jnp.int32(1)
  assert float(step(a, batch, KEY)[1]['loss']) != float(
    step(b, batch, KEY)[1]['loss']
  )


def test_the_state_is_donated(toy):
  state = toy.init_state()
  toy.jitted()(state, next(toy.batches()), KEY)
  assert all(x.is_deleted() for x in jax.tree.leaves(state['params']))
  assert all(x.is_deleted() for x in jax.tree.leaves(state['ema']))


def test_accumulation_equals_one_large_batch(toy):
  def silent(params, extra, batch, key):
    return toy.loss(params, extra, batch, jax.random.key(1))

  def train(accumulate):
    tx = toy.optim.make(toy.SPEC, toy.init_params())
    step = step_lib.make_train_step(
      silent, tx, accumulate=accumulate, ema_decay=0.9
    )
    return run(jax.jit(step), toy.init_state(), toy.batches(), 4)

  whole, losses = train(1)
  parts, others = train(4)
  np.testing.assert_allclose(losses, others, rtol=REORDERED)
  close(whole['opt']['mu'], parts['opt']['mu'])


def test_microbatches_keep_each_sensors_own_size():
  batch = {
    'ms': {'image': jnp.arange(8)},
    'opt': {'image': jnp.zeros((16, 2))},
  }
  cut = step_lib.microbatches(batch, 4)
  assert cut['opt']['image'].shape == (4, 4, 2)
  np.testing.assert_array_equal(cut['ms']['image'][1], [1, 5])
  with pytest.raises(ValueError, match='accumulate=3.*ms/image'):
    step_lib.microbatches(batch, 3)


def test_microbatches_do_not_move_samples_between_devices():
  mesh = mesh_lib.make_mesh()
  sharding = mesh_lib.batch_sharding(mesh)
  batch = {'opt': {'image': jnp.zeros((32, 4))}}
  compiled = (
    jax.jit(
      lambda b: jax.lax.map(
        lambda m: m['opt']['image'] * 2.0, step_lib.microbatches(b, 4)
      ),
      in_shardings=sharding,
    )
    .lower(batch)
    .compile()
  )
  text = compiled.as_text()
  for collective in ('all-to-all', 'all-gather', 'collective-permute'):
    assert collective not in text


def test_a_bad_batch_changes_nothing_but_counters(toy, equal):
  step, batches = toy.jitted(), toy.batches(poison=(1, 2))
  after, _ = step(toy.init_state(), next(batches), KEY)
  state = jax.device_get(jax.tree.map(jnp.copy, after))
  for row in (1, 2):
    after, metrics = step(after, next(batches), KEY)
    assert not np.isfinite(float(metrics['loss']))
    assert int(after['nonfinite']['in_a_row']) == row
  for name in ('params', 'opt', 'ema', 'extra'):
    equal(state[name], after[name])
  assert int(after['step']) == 3
  after, _ = step(after, next(batches), KEY)
  assert int(after['nonfinite']['in_a_row']) == 0
  assert int(after['nonfinite']['total']) == 2
  assert bool(jnp.isfinite(after['params']['head']['kernel']).all())


def test_a_finite_loss_with_a_bad_gradient_is_skipped_too(toy, equal):
  def loss(params, extra, batch, key):
    del extra, batch, key
    # The value is 0, the derivative of sqrt at 0 is infinite.
    return jnp.sqrt(jnp.sum(params['trunk']['bias'])), {}

  tx = toy.optim.make(toy.SPEC, toy.init_params())
  state = step_lib.init_state(toy.init_params(), {}, tx)
  new, metrics = jax.jit(step_lib.make_train_step(loss, tx))(state, {}, KEY)
  assert float(metrics['loss']) == 0.0
  assert int(new['nonfinite']['total']) == 1
  equal(state['params'], new['params'])


def test_ema_and_after_update(toy):
  def after_update(params, extra, aux, step):
    del aux
    return {'sum': extra['sum'] + params['head']['kernel'].sum() * 0 + step}

  step = jax.jit(toy.make_step(after_update=after_update))
  state = toy.init_state() | {'extra': {'sum': jnp.float32(0)}}
  state['step'] = jnp.int32(2)  # Past the first warm-up step, whose rate is 0.
  new, _ = step(state, next(toy.batches()), KEY)
  assert float(new['extra']['sum']) == 2.0
  want = jax.tree.map(
    lambda e, p: 0.9 * e + 0.1 * p, state['ema'], new['params']
  )
  close(new['ema'], want)


def test_an_ema_without_decay_and_taken_names_are_errors(toy):
  tx = toy.optim.make(toy.SPEC, toy.init_params())
  bare = step_lib.make_train_step(toy.loss, tx)
  with pytest.raises(ValueError, match='train.ema_decay is None'):
    jax.eval_shape(bare, toy.init_state(), next(toy.batches()), KEY)
  named = step_lib.make_train_step(
    lambda p, *_: (p['head']['kernel'].sum(), {'lr': 0.0}), tx
  )
  with pytest.raises(ValueError, match="must not name its aux .'lr'"):
    jax.eval_shape(named, toy.init_state(ema=False), {}, KEY)


def test_private_aux_reaches_after_update_only(toy):
  def loss(params, extra, batch, key):
    del extra, batch, key
    return params['head']['kernel'].sum(), {'_centre': jnp.ones(3)}

  tx = toy.optim.make(toy.SPEC, toy.init_params())
  step = step_lib.make_train_step(
    loss, tx, after_update=lambda p, e, aux, s: {'centre': aux['_centre']}
  )
  state = step_lib.init_state(toy.init_params(), {'centre': jnp.zeros(3)}, tx)
  new, metrics = jax.jit(step)(state, {}, KEY)
  assert '_centre' not in metrics
  np.testing.assert_array_equal(new['extra']['centre'], 1.0)


RULES = (('trunk/kernel', P('fsdp')), ('head/kernel', P('fsdp')), ('.*', P()))


def test_same_losses_on_1_4_and_8_devices(toy):
  def train(devices, **axes):
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:devices], **axes)
    plan = state_lib.plan(toy.init_state, mesh=mesh, rules=RULES)
    step = step_lib.jit_step(
      toy.make_step(accumulate=2), state_shardings=plan.shardings
    )
    put = mesh_lib.batch_sharding(mesh)
    batches = (jax.device_put(b, put) for b in toy.batches(sizes=(16, 32)))
    state, losses = run(step, plan.create(), batches, 3)
    kernel = state['params']['trunk']['kernel']
    assert kernel.sharding == plan.shardings['params']['trunk']['kernel']
    return losses

  alone = train(1)
  np.testing.assert_allclose(train(4, fsdp=2), alone, rtol=REORDERED)
  np.testing.assert_allclose(train(8, fsdp=4), alone, rtol=REORDERED)
