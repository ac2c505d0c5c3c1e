"""One step of a run planned from its config, on several meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from rsfm_jax.cli import training
from rsfm_jax.core import rng
from rsfm_jax.core import trees

# Float32 sums over devices come in another order.
REORDERED = 2e-5
MESHES = [
  dict(data=8, expert=1, fsdp=1, tensor=1),
  dict(data=1, expert=4, fsdp=2, tensor=1),
  dict(data=2, expert=2, fsdp=1, tensor=2),
]


# Enough to be placed by sensor or exchanged; half of what four would compile.
TWO = dict(sensors=('opt', 'ms'), channels=(3, 4))


def config(embed_dim=8, engine='capacity', **changes):
  c = base.get_config(
    'tiny',
    image_size=16,
    embed_dim=embed_dim,
    depths=(1, 1),
    heads=(1, 2),
    window=4,
    routing_groups=8,
    # Sensor placement forms other groups: nothing may be dropped.
    engine=engine,
    capacity_factor=4.0,
    balance_scope='global',
    **changes,
  )
  c.objective.mask_unit = 4
  for sensor in c.model.sensors:
    c.data.streams[sensor] = base.stream((sensor,), (), 16)
  c.train.total_steps = 10
  return c


def batch_of(planned):
  draws = np.random.default_rng(0)

  def draw(leaf):
    if leaf.dtype == bool:
      return jnp.ones(leaf.shape, bool)
    return jnp.asarray(draws.standard_normal(leaf.shape), 'float32')

  return jax.tree.map(draw, planned.batch)


def two_steps(c, **plan):
  planned = training.abstract(c, **plan)
  state = planned.plan.create()
  batch = jax.tree.map(
    lambda x, like: jax.device_put(x, like.sharding),
    batch_of(planned),
    planned.batch,
  )
  for _ in range(2):
    state, metrics = planned.step_fn(state, batch, rng.key_for(0))
  return trees.flatten(jax.device_get(metrics['losses']))


@pytest.fixture(scope='module')
def alone():
  one = dict(mesh_sizes=dict(data=1), devices=jax.devices()[:1])
  return two_steps(config(**TWO), **one)


@pytest.mark.parametrize(
  ('engine', 'sizes'),
  [*(('capacity', sizes) for sizes in MESHES), ('dropless', MESHES[2])],
)
def test_a_mesh_gives_the_losses_of_one_device(alone, engine, sizes):
  got = two_steps(config(engine=engine, **TWO), mesh_sizes=sizes)
  assert got.keys() == alone.keys()
  for name, value in alone.items():
    np.testing.assert_allclose(
      got[name], value, rtol=REORDERED, atol=REORDERED, err_msg=name
    )


def test_experts_and_matrices_are_cut_as_the_mesh_says():
  planned = training.abstract(
    config(embed_dim=128), mesh_sizes=dict(data=1, expert=4, fsdp=2)
  )
  specs = {
    name: tuple(leaf.sharding.spec)
    for name, leaf in trees.flatten(planned.state).items()
  }
  ffn = 'stage_0/blocks/ffn'
  for root in ('params', 'opt/mu'):
    assert specs[f'{root}/{ffn}/specialised/w_in'] == (
      None,
      'expert',
      None,
      'fsdp',
      'tensor',
    )
    assert specs[f'{root}/{ffn}/collaborative/w_out'] == (
      None,
      'expert',
      ('tensor', 'fsdp'),
      None,
    )
  # What is no expert is cut over the expert axis too, if it is large.
  assert specs['params/stage_1/blocks/attention/query/kernel'] == (
    None,
    ('fsdp', 'expert'),
    None,
  )
  assert specs['step'] == specs['params/norm/scale'] == ()


@pytest.mark.parametrize(
  ('sizes', 'words'),
  [
    (dict(data=3), 'mesh.data=3'),
    (dict(data=1, expert=8), 'mesh.expert=8 does not divide model.special'),
    (dict(data=1, tensor=8), None),
  ],
)
def test_sizes_are_checked_before_any_compile(sizes, words):
  if words is None:
    training.abstract(config(), mesh_sizes=sizes)
    return
  with pytest.raises(ValueError, match=words):
    training.abstract(config(), mesh_sizes=sizes)


def test_a_batch_that_does_not_divide_is_named():
  c = config()
  c.data.streams.ms.batch_size = 12
  with pytest.raises(ValueError, match='12 images|12 samples'):
    training.abstract(c)
