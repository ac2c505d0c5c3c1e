"""Decoder, losses, SAR power and masks against RingMoE's code (04)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.models import ringmoe
from rsfm_jax.nn import patches
from rsfm_jax.objectives import masks
from rsfm_jax.objectives import power
from rsfm_jax.objectives import simmim

# As the fixtures say, for references executed in float32.
OUTPUT, POWER, GRADIENT = 1e-5, 1e-6, 5e-5


def channels_last(x):
  return jnp.asarray(x.transpose(0, 2, 3, 1))


def channels_first(x):
  return np.asarray(x).transpose(0, 3, 1, 2)


def test_decoders_and_masked_l1(golden, near):
  fixture = golden('04_simmim_decoder_loss')
  stride = fixture.meta['config']['stride']
  w = fixture.group('w/')
  total = 0.0
  for i in range(len(ringmoe.SENSORS)):
    image = channels_last(fixture[f'in/image_{i}'])
    mask = masks.upsample(jnp.asarray(fixture[f'in/mask_{i}'] > 0), 24)

    def loss(z, weight, bias):
      kernel = weight[:, :, 0, 0].T
      deep = z.transpose(0, 2, 3, 1) @ kernel + bias.reshape(1, 1, 1, -1)
      made = patches.depth_to_space(deep, stride)
      error = simmim.masked_error(image, made, mask)  # noqa: B023
      return error, (deep, made)

    step = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
    (error, (deep, made)), (dz, dweight, dbias) = step(
      fixture[f'in/z_{i}'], w[f'decoder_{i}.weight'], w[f'decoder_{i}.bias']
    )
    near(channels_first(deep), fixture[f'mid/decoder_out_{i}'], OUTPUT)
    near(channels_first(made), fixture[f'out/reconstruction_{i}'], OUTPUT)
    near(error, fixture[f'out/loss_{i}'], OUTPUT)
    near(dz, fixture[f'grad/in/z_{i}'], GRADIENT)
    gradients = fixture.group(f'grad/w/decoder_{i}.')
    for name, got in (('weight', dweight), ('bias', dbias)):
      if name in gradients:
        near(got, gradients[name], GRADIENT, name=name)
    total += error
  near(total, fixture['out/loss'], OUTPUT)


def test_upsampled_masks(golden):
  fixture = golden('04_simmim_decoder_loss')
  got = masks.upsample(jnp.asarray(fixture['in/mask_0'] > 0), 24)
  np.testing.assert_array_equal(got, fixture['mid/mask_pixels_0'][:, 0])


def test_masks_of_given_permutations(golden):
  fixture = golden('04_simmim_mask_policy')
  config = fixture.meta['config']
  side = config['input_size'] // config['mask_patch_size']
  made = masks.from_order(
    jnp.asarray(fixture['in/permutation']), side, config['mask_ratio']
  )
  tokens = config['input_size'] // config['model_patch_size']
  np.testing.assert_array_equal(
    masks.upsample(made, tokens), fixture['out/mask'] > 0
  )
  assert masks.masked_units(36, 0.6) == math.ceil(21.6) == 22


@pytest.fixture(scope='module')
def sar(golden):
  return golden('04_sar_total_power')


def test_total_power_and_its_official_scaling(sar, near):
  raw = power.total_power(channels_last(sar['in/iq']))
  near(channels_first(raw), sar['mid/power_raw'], POWER)
  clipped = power.scale(raw, 'clip_minmax')
  near(channels_first(clipped), sar['out/power'], POWER)
  whole = power.scale(raw, 'minmax')
  near(channels_first(whole), sar['mid/power_no_clip_minmax'], POWER)


def test_power_and_iq_losses(sar, near):
  mask = masks.upsample(jnp.asarray(sar['in/mask'] > 0), 24)
  cases = [
    ('power_mse_loss', 'power_prediction', sar['out/power'], 2),
    ('iq_l1_loss', 'iq_prediction', sar['in/iq'], 1),
  ]
  for name, prediction, target, order in cases:

    def loss(x):
      return simmim.masked_error(
        channels_last(target),  # noqa: B023
        x.transpose(0, 2, 3, 1),
        mask,
        order=order,  # noqa: B023
      )

    value, gradient = jax.jit(jax.value_and_grad(loss))(sar[f'in/{prediction}'])
    near(value, sar[f'out/{name}'], POWER, name=name)
    near(gradient, sar[f'grad/in/{prediction}'], GRADIENT, name=name)
