"""One trunk for four sensors: who influences whom, sizes, precision."""

import dataclasses
import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.models import ringmoe
from rsfm_jax.models import sizes
from rsfm_jax.moe import expert_parallel
from rsfm_jax.sharding import mesh as meshes

# The same products in batches of another size.
REORDERED = 1e-5
# Root mean square over two blocks of bfloat16, which rounds by 2^-9 each time.
BFLOAT16 = 0.05

SPEC = ringmoe.RingMoESpec(
  image_size=16,
  patch_size=2,
  embed_dim=8,
  depths=(2, 1),
  heads=(1, 2),
  window=4,
  mlp_ratio=2.0,
  init_std=None,
)


@functools.cache
def model(**changes):
  """A jitted `apply` and parameters of a size at which all of them matter."""
  made = build.build(dataclasses.replace(SPEC, **changes))
  run = jax.jit(made.apply, static_argnames=('mode', 'engine'))
  rng = np.random.default_rng(0)

  def draw(name, leaf):
    value = 0.3 * rng.standard_normal(leaf.shape)
    # A decision between experts must not hang on a rounding.
    value *= 5 if name.endswith('router') else 1
    return jnp.asarray(value + name.endswith('scale'), leaf.dtype)

  return run, trees.map_named(draw, made.abstract)


def images(size=16, seed=0, **counts):
  rng = np.random.default_rng(seed)
  channels = ringmoe.CHANNELS
  return {
    s: jnp.asarray(rng.standard_normal((n, size, size, channels[s])), 'float32')
    for s, n in counts.items()
  }


# One stage without routed experts: enough, and quickly compiled, for what
# happens before and around the blocks.
DENSE = dict(heads=(1,), specialised=0, collaborative=0)

FOUR = images(opt=2, sar_l1=1, sar_l2=1, ms=2)


def close(a, b):
  np.testing.assert_allclose(a, b, rtol=REORDERED, atol=REORDERED)


def test_shapes_of_everything_that_comes_out():
  run, params = model()
  out = run(params, FOUR)
  assert {s: y.shape for s, y in out.features.items()} == {
    'opt': (2, 4, 4, 16),
    'sar_l1': (1, 4, 4, 16),
    'sar_l2': (1, 4, 4, 16),
    'ms': (2, 4, 4, 16),
  }
  assert {k: v['ms'].shape for k, v in out.intermediates.items()} == {
    'embed': (2, 8, 8, 8),
    'stage_0': (2, 8, 8, 8),
    'stage_1': (2, 4, 4, 16),
  }
  # Power has one channel; SAR-L2 has three equal ones, as officially.
  assert {s: y.shape for s, y in out.reconstruction.items()} == {
    'opt': (2, 16, 16, 3),
    'sar_l1': (1, 16, 16, 1),
    'sar_l2': (1, 16, 16, 3),
    'ms': (2, 16, 16, 4),
  }
  assert out.aux.specialised_load.shape == (3, 4, 4)
  assert out.aux.balance.shape == (3,)


@pytest.mark.parametrize('sensor', ['sar_l1', 'ms'])
def test_in_evaluation_a_sensor_does_not_depend_on_the_others(sensor):
  run, params = model()
  mixed, alone = run(params, FOUR), run(params, {sensor: FOUR[sensor]})
  close(mixed.features[sensor], alone.features[sensor])
  close(mixed.reconstruction[sensor], alone.reconstruction[sensor])
  row = ringmoe.SENSORS.index(sensor)
  np.testing.assert_allclose(
    mixed.aux.specialised_load[:, row],
    alone.aux.specialised_load[:, row],
    rtol=1e-6,
  )


def test_the_order_of_the_sensors_in_the_batch_does_not_matter():
  """Whatever order the dictionary has, it is one and the same program."""
  made = build.build(SPEC)

  def program(order):
    def run(params, *values):
      given = dict(zip(FOUR, values, strict=True))
      out = made.apply(params, {s: given[s] for s in order}, mode='train')
      return [out.features[s] for s in FOUR], out.aux

    return str(jax.make_jaxpr(run)(made.abstract, *FOUR.values()))

  assert program(('ms', 'sar_l2', 'opt', 'sar_l1')) == program(tuple(FOUR))


def test_a_missing_sensor_leaves_zeros_in_its_rows_of_the_metrics():
  run, params = model()
  aux = run(params, {s: FOUR[s] for s in ('opt', 'ms')}, mode='train').aux
  for load in (aux.specialised_load, aux.collaborative_load):
    np.testing.assert_allclose(load.sum(-1), [[1, 0, 0, 1]] * 3, rtol=1e-6)
  assert not aux.entropy[:, 1:3].any() and not aux.dropped[:, 1:3].any()
  np.testing.assert_allclose(aux.share, [[0.5, 0, 0, 0.5]] * 3)
  # Training counts capacities, so some tokens are dropped.
  assert float(aux.dropped.max()) > 0


def test_evaluation_equals_the_dense_oracle():
  run, params = model()
  fast = run(params, FOUR, mode='eval')
  slow = run(params, FOUR, mode='eval', engine='oracle')
  for sensor in FOUR:
    close(fast.features[sensor], slow.features[sensor])
  assert float(fast.aux.dropped.max()) == 0


def test_larger_images_than_the_model_was_made_for():
  """Windows stay; attention that covered the grid now has several."""
  run, params = model(depths=(2,), **DENSE)
  large = images(32, opt=1)['opt']
  out = run(params, {'opt': large}).features['opt']
  assert out.shape == (1, 16, 16, 8)
  # Far from the middle, windows of both blocks see one 16 px quarter only.
  quarter = run(params, {'opt': large[:, :16, :16]}).features['opt']
  close(out[0, :2, :2], quarter[0, :2, :2])


def test_64_pixels_on_the_32_pixel_tiny_model():
  made = build.build(sizes.ringmoe_spec('tiny'))
  shape = {'opt': jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)}
  out = jax.eval_shape(made.apply, made.abstract, shape)
  assert out.features['opt'].shape == (1, 8, 8, 128)


def test_masked_tokens_do_not_see_their_pixels():
  run, params = model(depths=(1,), **DENSE)
  mask = {'opt': jnp.zeros((2, 4, 4), bool).at[:, 1, 2].set(True)}
  other = FOUR['opt'].at[:, 4:8, 8:12].set(99.0)
  a = run(params, {'opt': FOUR['opt']}, masks=mask)
  b = run(params, {'opt': other}, masks=mask)
  np.testing.assert_array_equal(a.features['opt'], b.features['opt'])
  token = a.intermediates['embed']['opt'][:, 2:4, 4:6]
  np.testing.assert_array_equal(
    token, jnp.broadcast_to(params['mask_token'], token.shape)
  )
  # One pixel beyond the unit is seen.
  c = run(params, {'opt': FOUR['opt'].at[:, 3, 8].set(99.0)}, masks=mask)
  assert float(jnp.abs(a.features['opt'] - c.features['opt']).max()) > 1e-3


def test_one_band_is_replicated_for_a_sensor_of_several_channels():
  run, params = model(depths=(1,), **DENSE)
  band = FOUR['sar_l2'][..., :1]
  one = run(params, {'sar_l2': band})
  three = run(params, {'sar_l2': jnp.repeat(band, 3, -1)})
  np.testing.assert_array_equal(
    one.features['sar_l2'], three.features['sar_l2']
  )


def test_bfloat16_stays_close_to_float32_and_routes_in_float32():
  # With every expert chosen there is no decision that a rounding could turn.
  (run, params), (rough, _) = (
    model(dtype=dtype, choices=4, depths=(2,), heads=(1,))
    for dtype in ('float32', 'bfloat16')
  )
  exact, out = run(params, FOUR), rough(params, FOUR)
  for sensor in FOUR:
    assert out.features[sensor].dtype == jnp.bfloat16
    assert out.reconstruction[sensor].dtype == jnp.float32
    error = jnp.square(out.features[sensor] - exact.features[sensor]).mean()
    scale = jnp.square(exact.features[sensor]).mean()
    assert 0 < float(error / scale) ** 0.5 < BFLOAT16
  for aux in (out.aux, exact.aux):
    assert {a.dtype for a in jax.tree.leaves(aux)} == {jnp.dtype('float32')}


def test_the_fused_attention_gives_the_plain_features_and_gradients():
  """An unshifted and a shifted block, interpreted, an image per device."""
  devices = jax.devices()[:2]  # Interpreting costs seconds a device.
  mesh = meshes.make_mesh(data=1, expert=2, devices=devices)
  placement = expert_parallel.Placement(mesh, 'exchange')
  batch = images(opt=mesh.size)

  def outcome(engine):
    changes = dict(depths=(2,), attention_engine=engine, **DENSE)
    _, params = model(**changes)
    made = build.build(dataclasses.replace(SPEC, **changes))

    def loss(params):
      out = made.apply(params, batch, placement=placement)
      y = out.features['opt']
      return jnp.square(y).mean() + jnp.abs(y[..., 0]).mean(), y

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

  fused, plain = outcome('fused'), outcome('plain')
  for a, b in zip(jax.tree.leaves(fused), jax.tree.leaves(plain), strict=True):
    limit = 10 * REORDERED * max(float(jnp.abs(b).max()), 0.1)
    np.testing.assert_allclose(a, b, rtol=0, atol=limit)


def test_every_parameter_of_the_sensors_present_gets_a_gradient():
  _, params = model(depths=(1, 1))
  made = build.build(dataclasses.replace(SPEC, depths=(1, 1)))
  mask = {
    s: jnp.zeros((len(x), 4, 4), bool).at[:, 1].set(True)
    for s, x in FOUR.items()
  }

  def loss(params):
    out = made.apply(params, FOUR, masks=mask, mode='train')
    return sum(jnp.abs(y - 1).mean() for y in out.reconstruction.values())

  gradient = jax.jit(jax.grad(loss))(params)
  norms = {
    jax.tree_util.keystr(path): float(jnp.abs(g).max())
    for path, g in jax.tree_util.tree_leaves_with_path(gradient)
  }
  assert all(np.isfinite(list(norms.values())))
  assert [n for n, v in norms.items() if v == 0] == []


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'image_size': 15}, 'model.image_size=15.*multiple of 4'),
    ({'heads': (1,)}, 'model.heads'),
    ({'channels': (3,)}, 'model.channels'),
    ({'gate': 'probs'}, 'Did you mean "prob"'),
    ({'attention': 'v3'}, 'model.attention'),
    ({'attention_engine': 'fast'}, 'model.attention_engine'),
  ],
)
def test_a_spec_that_cannot_be_names_the_key(change, words):
  with pytest.raises(ValueError, match=words):
    dataclasses.replace(SPEC, **change)


@pytest.mark.parametrize(
  ('batch', 'words'),
  [
    (images(15, opt=1), '15 x 15 pixels.*blocks of 2'),
    (images(18, opt=1), '9 x 9 tokens.*windows of 4'),
    (images(12, opt=1), '6 x 6 tokens.*windows of 4.*model.window'),
    (images(opt=1) | images(32, ms=1), 'one image size'),
    ({'optical': FOUR['opt']}, 'Did you mean "opt"'),
    ({'opt': FOUR['ms']}, 'opt: the image has 4 bands, the model takes 3'),
    ({}, 'sensor'),
  ],
)
def test_a_batch_that_does_not_fit_is_a_clear_error(batch, words):
  made = build.build(SPEC)
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(made.apply, made.abstract, batch)


@pytest.mark.parametrize('units', [3, 5, 16])
def test_a_mask_that_does_not_fit_is_a_clear_error(units):
  made = build.build(SPEC)
  mask = {'opt': jnp.zeros((2, units, units), bool)}
  with pytest.raises(ValueError, match=f'{units} x {units} units.*mask_unit'):
    jax.eval_shape(
      lambda p: made.apply(p, {'opt': FOUR['opt']}, masks=mask), made.abstract
    )


def test_a_sensor_without_a_mask_is_named():
  run, params = model(depths=(1,), **DENSE)
  masks = {'opt': jnp.zeros((2, 2, 2), bool)}
  with pytest.raises(ValueError, match="sensor with a mask='ms'"):
    run(params, {s: FOUR[s] for s in ('opt', 'ms')}, masks=masks)


def test_log_cpb_counts_in_the_windows_of_pre_training():
  def windows(spec):
    made = nnx.eval_shape(lambda: ringmoe.RingMoE(spec, key=jax.random.key(0)))
    stages = (made.stage_0, made.stage_1)
    return tuple(s.blocks.attention.cpb.table_window for s in stages)

  assert windows(SPEC) == (4, 4)
  trained = dataclasses.replace(SPEC, cpb_windows=(3, 2))
  assert windows(trained) == (3, 2)
  assert ringmoe.RingMoESpec.from_json(trained.to_json()) == trained
  with pytest.raises(ValueError, match=r'model.cpb_windows=\(3,\)'):
    dataclasses.replace(SPEC, cpb_windows=(3,))
