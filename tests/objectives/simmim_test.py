"""The loss by hand, and what must never change it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.models import ringmoe
from rsfm_jax.objectives import power
from rsfm_jax.objectives import simmim

KEY = jax.random.key(0)
CHANNELS = {'opt': 3, 'sar_l1': 8, 'sar_l2': 1, 'ms': 4}
SPEC = simmim.SimMIMSpec(mask_unit=4)


def batch(seed=0, size=16, count=3):
  rng = np.random.default_rng(seed)
  draw = lambda c: rng.standard_normal((count, size, size, c))
  return {
    s: {
      'image': jnp.asarray(draw(c), 'float32'),
      'band_valid': jnp.ones((count, c), bool),
      'pixel_valid': jnp.ones((count, size, size), bool),
      'valid': jnp.ones(count, bool),
    }
    for s, c in CHANNELS.items()
  }


@functools.cache
def model():
  """(apply, params) of a real encoder, one block, all parts present."""
  made = build.build(
    ringmoe.RingMoESpec(
      image_size=16,
      patch_size=4,
      embed_dim=8,
      depths=(1,),
      heads=(2,),
      window=4,
    )
  )
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype),
    made.abstract,
  )
  return made.apply, params


@functools.cache
def step(**changes):
  """(params, batch) -> ((loss, aux), gradients), compiled."""
  spec = dataclasses.replace(SPEC, **changes)
  objective = simmim.SimMIM(spec, model()[0])
  loss = lambda params, batch: objective.loss(params, {}, batch, KEY)
  return jax.jit(jax.value_and_grad(loss, has_aux=True))


def identical(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


def test_masked_error_by_hand():
  target = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
  prediction = jnp.array([[0.0, 2.0], [5.0, 9.0]]).reshape(1, 2, 2, 1)
  mask = jnp.array([[True, True], [True, False]])[None]
  error = functools.partial(simmim.masked_error, target, prediction, mask)
  np.testing.assert_allclose(error(), (1 + 0 + 2) / 3, rtol=1e-5)
  np.testing.assert_allclose(error(order=2), (1 + 0 + 4) / 3, rtol=1e-5)


def test_masked_error_sums_over_the_batch_not_sample_by_sample():
  """One sample with 1 masked pixel and one with 3: each pixel counts alike."""
  target = jnp.zeros((2, 2, 2, 2))
  prediction = jnp.stack([jnp.full((2, 2, 2), 4.0), jnp.zeros((2, 2, 2))])
  mask = jnp.array([[[1, 0], [0, 0]], [[1, 1], [1, 0]]], bool)
  got = simmim.masked_error(target, prediction, mask)
  np.testing.assert_allclose(got, 4 * 1 / 4, rtol=1e-5)


def test_invalid_bands_count_neither_above_nor_below_the_line():
  target = jnp.zeros((2, 2, 2, 2))
  prediction = jnp.stack([jnp.full((2, 2, 2), 3.0), jnp.full((2, 2, 2), 5.0)])
  bands = jnp.array([[True, True], [True, False]])
  got = simmim.masked_error(
    target, prediction, jnp.ones((2, 2, 2), bool), band_valid=bands
  )
  np.testing.assert_allclose(got, (8 * 3 + 4 * 5) / 12, rtol=1e-5)


@pytest.mark.parametrize('junk', [np.nan, np.inf])
def test_masked_error_ignores_junk_where_nothing_counts(junk):
  """In targets and predictions, forward and backward."""
  rng = np.random.default_rng(0)
  draw = lambda: jnp.asarray(rng.standard_normal((2, 4, 4, 3)), 'float32')
  target, prediction = draw(), draw()
  mask = jnp.asarray(rng.random((2, 4, 4)) > 0.5)
  bands = jnp.array([[True, True, False], [True, True, True]])
  counts = mask[..., None] & bands[:, None, None]
  run = jax.value_and_grad(
    lambda target, prediction: simmim.masked_error(
      target, prediction, mask, band_valid=bands
    ),
    (0, 1),
  )
  dirty = run(*(jnp.where(counts, x, junk) for x in (target, prediction)))
  identical(dirty, run(target, prediction))
  np.testing.assert_array_equal(dirty[1][1] != 0, counts)


def test_the_loss_is_the_weighted_sum_of_its_parts():
  apply, params = model()
  given = batch()
  (total, aux), _ = step(
    aux_weight=0.01, z_weight=0.001, sar_l1_head='power_mse'
  )(params, given)
  losses = aux['losses']
  assert set(losses) == {*CHANNELS, 'balance', 'z'}
  expected = sum(losses[s] for s in CHANNELS)
  expected += 0.01 * losses['balance'] + 0.001 * losses['z']
  np.testing.assert_allclose(total, expected, rtol=1e-6)
  objective = simmim.SimMIM(SPEC, apply)
  masks = objective.masks(given, KEY)
  images = {s: e['image'] for s, e in given.items()}
  out = jax.jit(lambda p: apply(p, images, masks=masks, mode='train'))(params)
  for sensor, order in (('opt', 1), ('ms', 1), ('sar_l2', 1), ('sar_l1', 2)):
    mask = np.kron(masks[sensor], np.ones((1, 4, 4)))[..., None]
    target = np.asarray(images[sensor], np.float64)
    if sensor == 'sar_l1':
      target = np.log((target**2).sum(-1, keepdims=True) / 4 + 0.01)
    error = np.abs(target - np.asarray(out.reconstruction[sensor])) ** order
    channels = out.reconstruction[sensor].shape[-1]
    value = (error * mask).sum() / mask.sum() / channels
    np.testing.assert_allclose(losses[sensor], value, rtol=1e-4)


def test_weights_scale_a_sensors_part():
  objective = lambda **weights: simmim.SimMIM(
    dataclasses.replace(SPEC, weights=weights, aux_weight=0.0), model()[0]
  )
  given = batch()

  @jax.jit
  def run(params):
    plain, aux = objective().loss(params, {}, given, KEY)
    heavy, _ = objective(ms=3.0, opt=0.0).loss(params, {}, given, KEY)
    return plain, heavy, aux['losses']

  plain, heavy, losses = run(model()[1])
  np.testing.assert_allclose(
    heavy - plain, 2 * losses['ms'] - losses['opt'], rtol=1e-4
  )


@pytest.mark.parametrize('junk', [np.nan, np.inf, -1e30])
def test_junk_in_invalid_places_changes_no_bit(junk):
  """Pixels, bands, whole samples; of the loss, metrics and gradients."""
  clean, dirty = batch(), batch()
  rng = np.random.default_rng(3)
  for sensor, entry in clean.items():
    pixels = jnp.asarray(rng.random(entry['pixel_valid'].shape) > 0.2)
    bands = entry['band_valid']
    if sensor in ('sar_l1', 'ms'):
      bands = bands.at[1, -2:].set(False)
    samples = entry['valid'].at[2].set(False)
    valid = pixels[..., None] & (bands & samples[:, None])[:, None, None, :]
    fields = {'pixel_valid': pixels, 'band_valid': bands, 'valid': samples}
    fill = lambda value, image: jnp.where(valid, image, value)  # noqa: B023
    clean[sensor] = fields | {'image': fill(0.5, entry['image'])}
    dirty[sensor] = fields | {'image': fill(junk, entry['image'])}
  run, params = step(), model()[1]
  expected = run(params, clean)
  assert np.isfinite(float(expected[0][0]))
  identical(run(params, dirty), expected)


def test_a_batch_without_a_valid_sample_has_no_loss_and_no_gradient():
  given = batch()
  for entry in given.values():
    entry['valid'] = jnp.zeros(3, bool)
    entry['image'] = jnp.full_like(entry['image'], jnp.nan)
  (total, aux), gradients = step(aux_weight=0.0)(model()[1], given)
  assert float(total) == 0
  assert all(float(aux['losses'][s]) == 0 for s in CHANNELS)
  for gradient in jax.tree.leaves(gradients):
    np.testing.assert_array_equal(gradient, 0)


def test_a_sample_without_any_valid_band_does_not_count():
  """Also where target and image differ in bands: power, one-band SAR."""
  run, params = step(aux_weight=0.0), model()[1]
  off, absent = batch(), batch()
  for sensor in CHANNELS:
    bands = off[sensor]['band_valid'].at[0].set(False)
    off[sensor]['band_valid'] = bands
    absent[sensor]['valid'] = absent[sensor]['valid'].at[0].set(False)
  for sensor in CHANNELS:
    np.testing.assert_array_equal(
      run(params, off)[0][1]['losses'][sensor],
      run(params, absent)[0][1]['losses'][sensor],
    )


def test_only_masked_pixels_count():
  apply, params = model()
  given = batch()
  masks = simmim.SimMIM(SPEC, apply).masks(given, KEY)
  objective = simmim.SimMIM(SPEC, apply)

  @jax.jit
  def loss(target):
    """The loss when the target alone differs from what is encoded."""
    images = {s: e['image'] for s, e in given.items()}
    out = apply(params, images, masks=masks, mode='train')
    return objective._sensor_loss(
      'opt', given['opt'], target, masks['opt'], out.reconstruction['opt']
    )

  image = given['opt']['image']
  pixels = np.kron(masks['opt'], np.ones((1, 4, 4), bool))[..., None]
  assert loss(jnp.where(pixels, image, 99.0)) == loss(image)
  assert loss(jnp.where(pixels, 99.0, image)) > loss(image)


@pytest.mark.parametrize(
  ('field', 'value', 'words'),
  [
    ('sar_l1_head', 'power', 'objective.sar_l1_head'),
    ('power_scaling', 'scenes', 'Did you mean "scene"'),
    ('power_log', 'logs', 'Did you mean "log"'),
    ('mask_ratio', 0.0, 'objective.mask_ratio=0.0'),
    ('mask_ratio', 60, 'objective.mask_ratio=60'),
  ],
)
def test_values_that_cannot_be_name_the_key(field, value, words):
  with pytest.raises(ValueError, match=words):
    dataclasses.replace(SPEC, **{field: value})


def test_masks_of_a_sensor_do_not_move_when_another_joins():
  objective = simmim.SimMIM(SPEC, None)
  given = batch()
  whole = objective.masks(given, KEY)
  some = objective.masks({s: given[s] for s in ('ms', 'opt')}, KEY)
  for sensor in some:
    np.testing.assert_array_equal(whole[sensor], some[sensor])
  texts = {np.asarray(m).tobytes() for m in whole.values()}
  assert len(texts) == 4
  np.testing.assert_array_equal(whole['opt'].sum((1, 2)), 10)


def test_a_mask_unit_that_does_not_divide_the_image_is_an_error():
  objective = simmim.SimMIM(simmim.SimMIMSpec(mask_unit=5), None)
  with pytest.raises(ValueError, match='objective.mask_unit=5.*16 px.*opt'):
    objective.masks(batch(), KEY)


@pytest.mark.parametrize('log', ['log', 'none'])
def test_the_target_of_complex_sar_is_its_power(log):
  spec = dataclasses.replace(SPEC, power_log=log)
  entry = batch()['sar_l1']
  bands = entry['band_valid'].at[:, 2:].set(False)
  target = simmim.SimMIM(spec, None).target('sar_l1', entry['image'], bands)
  expected = np.square(entry['image'][..., :2]).sum(-1, keepdims=True)
  if log == 'log':
    expected = power.compress(expected)
  np.testing.assert_allclose(target, expected, rtol=1e-6)


def test_other_targets_are_the_image_itself():
  objective = simmim.SimMIM(
    dataclasses.replace(SPEC, sar_l1_head='iq_l1'), None
  )
  for sensor, entry in batch().items():
    target = objective.target(sensor, entry['image'], entry['band_valid'])
    np.testing.assert_array_equal(target, entry['image'])


def test_routing_metrics_are_per_layer_and_know_the_share_of_sensors():
  """Also when `encode` is jitted, which sorts the sensors of its output."""
  apply, params = model()
  given = batch()
  del given['sar_l1']
  given['ms'] = {k: v[:1] for k, v in given['ms'].items()}
  encode = jax.jit(apply, static_argnames='mode')
  _, aux = simmim.SimMIM(SPEC, encode).loss(params, {}, given, KEY)
  routing = aux['routing']
  assert routing['specialised_load'].shape == (1, 4, 4)
  assert routing['dropped'].shape == routing['entropy'].shape == (1, 4, 2)
  load = np.asarray(routing['collaborative_load'], np.float64)[0]
  weight = np.array([3, 0, 3, 1])[:, None] / 7
  joint = load * weight
  ratio = np.where(joint > 0, load / (joint.sum(0) + 1e-300), 1)
  np.testing.assert_allclose(
    routing['mutual_information'], [(joint * np.log(ratio)).sum()], rtol=1e-4
  )


def test_every_metric_is_named_once():
  names = set(trees.flatten(jax.eval_shape(step(), model()[1], batch())[0][1]))
  assert names == {
    'losses/balance',
    'losses/ms',
    'losses/opt',
    'losses/sar_l1',
    'losses/sar_l2',
    'losses/z',
    'routing/collaborative_load',
    'routing/dropped',
    'routing/entropy',
    'routing/mutual_information',
    'routing/specialised_load',
  }
