"""A run that begins with given parameters, wherever its arrays live."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from rsfm_jax.train import warm_start


@pytest.fixture
def state():
  """Two parameters and a head, cut over eight devices, with an average."""
  mesh = jax.make_mesh(
    (8,), ('fsdp',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  cut, whole = NamedSharding(mesh, P('fsdp')), NamedSharding(mesh, P())
  put = jax.device_put
  params = {
    'trunk': {
      'kernel': put(jnp.zeros((8, 2), jnp.bfloat16), cut),
      'bias': put(jnp.zeros(2), whole),
    },
    'objective': {'head': put(jnp.zeros(3), whole)},
  }
  ema = jax.tree.map(lambda x: x.astype(jnp.float32), params)
  return {'params': params, 'ema': ema, 'step': jnp.int32(0)}


KERNEL = np.arange(16, dtype=np.float32).reshape(8, 2) / 3


def begin(state, **params):
  return warm_start.begin(
    state, {'trunk': params}, origin='FOLDER', heads='objective'
  )


def test_values_come_in_and_places_and_types_stay(state):
  begun = begin(state, kernel=KERNEL)
  new, old = begun.state['params']['trunk'], state['params']['trunk']
  assert new['kernel'].sharding == old['kernel'].sharding
  assert new['kernel'].dtype == jnp.bfloat16
  np.testing.assert_array_equal(new['kernel'], KERNEL.astype(jnp.bfloat16))
  assert begun.at_init == ('trunk/bias',)
  np.testing.assert_array_equal(new['bias'], 0)


def test_the_teacher_begins_with_the_same(state):
  ema = begin(state, kernel=KERNEL).state['ema']['trunk']['kernel']
  assert ema.dtype == jnp.float32
  np.testing.assert_array_equal(ema, KERNEL)


def test_the_rest_of_the_state_is_left_alone(state):
  begun = begin(state, kernel=KERNEL)
  assert begun.state['step'] is state['step']
  head = begun.state['params']['objective']['head']
  assert head is state['params']['objective']['head']


def test_the_first_misfit_is_named(state):
  with pytest.raises(ValueError, match=r'FOLDER: trunk/kernel is \(8, 3\)'):
    begin(state, kernel=np.zeros((8, 3)))
  with pytest.raises(ValueError, match='FOLDER has trunk/gain'):
    begin(state, gain=np.zeros(2))


def test_heads_cannot_be_replaced(state):
  with pytest.raises(ValueError, match='objective/head'):
    warm_start.begin(
      state, {'objective': {'head': np.zeros(3)}}, origin='F', heads='objective'
    )
