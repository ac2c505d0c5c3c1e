"""RMoE: specialised + collaborative + shared, sensors side by side."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.moe import experts
from rsfm_jax.moe import rmoe

REORDERED = 5e-6
DIM, HIDDEN, SENSORS = 6, 8, 4
SIDE = 4  # 16 tokens per image.
SEGMENT = rmoe.Segment

EQUAL = tuple(SEGMENT(i, 2) for i in range(4))
UNEQUAL = (SEGMENT(0, 3), SEGMENT(2, 1), SEGMENT(3, 2))


def layer(specialised=4, collaborative=3):
  make = lambda: rmoe.RMoE(
    DIM,
    HIDDEN,
    sensors=SENSORS,
    specialised=specialised,
    collaborative=collaborative,
    key=jax.random.key(0),
  )
  graphdef, state = nnx.split(nnx.eval_shape(make))
  rng = np.random.default_rng(1)
  draw = lambda w: jnp.asarray(rng.standard_normal(w.shape), 'float32')
  return graphdef, nnx.to_pure_dict(jax.tree.map(draw, state))


def images(segments, seed=0):
  rng = np.random.default_rng(seed)
  count = sum(s.images for s in segments)
  shape = (count, SIDE, SIDE, DIM)
  return jnp.asarray(rng.standard_normal(shape), 'float32')


@functools.partial(
  jax.jit, static_argnums=0, static_argnames=('segments', 'options', 'how')
)
def forward(graphdef, params, x, *, segments, options, how=()):
  return nnx.merge(graphdef, params)(
    x, segments=segments, options=options, **dict(how)
  )


@functools.partial(jax.jit, static_argnums=0, static_argnames='how')
def backward(graphdef, params, x, *, how):
  segments, options, groups = how

  def total(params, x):
    y, aux = nnx.merge(graphdef, params)(
      x, segments=segments, options=options, groups=groups, slices=groups
    )
    cotangent = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    return (y * cotangent).sum() + aux.balance + aux.z, y

  return jax.grad(total, (0, 1), has_aux=True)(params, x)


def options(engine, **changes):
  return experts.Options(engine=engine, **changes)


@pytest.mark.parametrize(
  ('segments', 'groups', 'choices'), [(EQUAL, 4, 1), (UNEQUAL, 1, 2)]
)
def test_all_engines_agree_forward_and_backward(segments, groups, choices):
  graphdef, params = layer()
  x = images(segments)
  results = {}
  for engine in ('oracle', 'dropless', 'capacity'):
    made = options(engine, choices=choices, capacity_factor=4.0)
    results[engine] = backward(
      graphdef, params, x, how=(segments, made, groups)
    )
  expected = results.pop('oracle')
  largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected))
  for got in results.values():
    for a, b in zip(
      jax.tree.leaves(got), jax.tree.leaves(expected), strict=True
    ):
      np.testing.assert_allclose(a, b, rtol=REORDERED, atol=REORDERED * largest)


def test_the_output_is_the_plain_sum_of_three_branches():
  graphdef, params = layer()
  x = images(UNEQUAL)
  how = dict(segments=UNEQUAL, options=options('oracle'))
  silent = lambda branch: {
    k: jnp.zeros_like(v) if k in ('w_out', 'b_out') else v
    for k, v in params[branch].items()
  }
  alone = []
  for branch in params:
    others = {b: silent(b) for b in params if b != branch}
    alone.append(forward(graphdef, params | others, x, **how)[0])
  whole = forward(graphdef, params, x, **how)[0]
  np.testing.assert_allclose(whole, sum(alone), rtol=1e-5, atol=1e-5)
  assert all(float(jnp.abs(y).max()) > 0.1 for y in alone)


def test_specialised_experts_see_one_sensor_and_collaborative_all():
  graphdef, params = layer()
  x = images(EQUAL)
  made = options('dropless')
  changed = params | {
    'specialised': {
      k: v.at[1].add(1.0) for k, v in params['specialised'].items()
    }
  }
  y = forward(graphdef, params, x, segments=EQUAL, options=made)[0]
  other = forward(graphdef, changed, x, segments=EQUAL, options=made)[0]
  differs = (y != other).any((1, 2, 3)).tolist()
  assert differs == [False] * 2 + [True] * 2 + [False] * 4
  changed = params | {
    'collaborative': {k: v + 1 for k, v in params['collaborative'].items()}
  }
  other = forward(graphdef, changed, x, segments=EQUAL, options=made)[0]
  assert (y != other).any((1, 2, 3)).all()


def test_a_sensor_alone_equals_itself_in_a_mixed_batch():
  """Dropless: nobody's tokens push out anybody else's."""
  graphdef, params = layer()
  x = images(UNEQUAL)
  made = options('dropless')
  mixed, _ = forward(graphdef, params, x, segments=UNEQUAL, options=made)
  alone, _ = forward(
    graphdef, params, x[4:6], segments=UNEQUAL[2:], options=made
  )
  np.testing.assert_allclose(mixed[4:6], alone, rtol=1e-6, atol=1e-6)


def test_absent_sensors_have_zero_rows():
  graphdef, params = layer()
  aux = forward(
    graphdef,
    params,
    images(UNEQUAL),
    segments=UNEQUAL,
    options=options('capacity', capacity_factor=0.5),
  )[1]
  for name, values in aux._asdict().items():
    if values.ndim:
      assert values.shape[0] == SENSORS, name
      assert not values[1].any(), name
      if name.endswith('_salience'):  # Measured in evaluation alone.
        assert not values.any(), name
        continue
      present = jnp.abs(values).reshape(SENSORS, -1).max(-1) > 0
      assert present.tolist() == [True, False, True, True], name
  np.testing.assert_allclose(aux.share, [3 / 6, 0, 1 / 6, 2 / 6], rtol=1e-6)
  for load in (aux.specialised_load, aux.collaborative_load):
    np.testing.assert_allclose(load.sum(-1), [1, 0, 1, 1], rtol=1e-6)


def test_the_balance_loss_adds_collaborative_and_mean_specialised():
  graphdef, params = layer()
  x = images(EQUAL)
  how = dict(segments=EQUAL, options=options('dropless'))
  whole = forward(graphdef, params, x, **how)[1]
  parts = []
  for kept in ('specialised', 'collaborative'):
    some, _ = layer(**{kept: 0})
    rest = {k: v for k, v in params.items() if k != kept}
    parts.append(forward(some, rest, x, **how)[1])
  np.testing.assert_allclose(
    whole.balance, parts[0].balance + parts[1].balance, rtol=1e-6
  )
  np.testing.assert_allclose(whole.z, parts[0].z + parts[1].z, rtol=1e-6)
  by_sensor = [
    forward(
      layer(collaborative=0)[0],
      {k: v for k, v in params.items() if k != 'collaborative'},
      x[2 * i : 2 * i + 2],
      segments=(SEGMENT(i, 2),),
      options=options('dropless'),
    )[1].balance
    for i in range(4)
  ]
  np.testing.assert_allclose(parts[1].balance, np.mean(by_sensor), rtol=1e-6)


def test_the_scope_decides_whether_sensors_balance_together():
  """Two sensors with an expert each: balanced together, not apart."""
  graphdef, params = layer(specialised=0, collaborative=2)
  params['collaborative']['router'] = jnp.zeros((DIM, 2)).at[0, 0].set(99.0)
  x = images(EQUAL[:2]).at[:2, ..., 0].set(1.0).at[2:, ..., 0].set(-1.0)
  losses = {
    scope: forward(
      graphdef,
      params,
      x,
      segments=EQUAL[:2],
      options=options('dropless'),
      how=(('scope', scope),),
    )[1].balance
    for scope in ('mixed', 'per_sensor')
  }
  np.testing.assert_allclose(losses['mixed'], 1, rtol=1e-5)
  np.testing.assert_allclose(losses['per_sensor'], 2, rtol=1e-5)


def test_groups_must_divide_the_tokens_of_each_sensor():
  graphdef, params = layer()
  with pytest.raises(ValueError, match='model.routing_groups=5'):
    forward(
      graphdef,
      params,
      images(EQUAL),
      segments=EQUAL,
      options=options('capacity'),
      how=(('groups', 5),),
    )


def test_names_and_shapes_of_the_parameters():
  shapes = {k: v.shape for k, v in trees.flatten(layer()[1]).items()}
  assert shapes == {
    'collaborative/b_in': (3, 8),
    'collaborative/b_out': (3, 6),
    'collaborative/router': (6, 3),
    'collaborative/w_in': (3, 6, 8),
    'collaborative/w_out': (3, 8, 6),
    'shared/b_in': (8,),
    'shared/b_out': (6,),
    'shared/w_in': (6, 8),
    'shared/w_out': (8, 6),
    'specialised/b_in': (4, 4, 8),
    'specialised/b_out': (4, 4, 6),
    'specialised/router': (4, 6, 4),
    'specialised/w_in': (4, 4, 6, 8),
    'specialised/w_out': (4, 4, 8, 6),
  }


def test_without_routed_experts_it_is_the_shared_ffn():
  graphdef, params = layer(specialised=0, collaborative=0)
  assert set(params) == {'shared'}
  y, aux = forward(
    graphdef,
    params,
    images(EQUAL),
    segments=EQUAL,
    options=options('dropless'),
  )
  assert y.shape == images(EQUAL).shape
  assert float(aux.balance) == float(aux.z) == 0
  assert aux.specialised_load.shape == (SENSORS, 0)
