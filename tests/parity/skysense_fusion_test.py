"""Fusion against SkySense's encoder and up-head (fixtures 07)."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.models import fusion
from rsfm_jax.nn import linear
from rsfm_jax.nn import patches

# Ten times the deviation of the reference's own float32 run.
LIMIT = 2e-5
SENSORS = ('hr', 's2', 's1')


def weights(w, layers):
  """Our parameters from the official names; Linear is [out, in] there."""

  def layer(i):
    at = lambda name: w[f'layers.{i}.{name}']
    norm = lambda n: {'scale': at(f'{n}.weight'), 'bias': at(f'{n}.bias')}
    q, k, v = jnp.split(at('attn.attn.in_proj_weight').T, 3, axis=1)
    bias = jnp.split(at('attn.attn.in_proj_bias'), 3)
    return {
      'norm_1': norm('ln1'),
      'norm_2': norm('ln2'),
      'attention': {
        'query': {'kernel': q, 'bias': bias[0]},
        'key': {'kernel': k, 'bias': bias[1]},
        'value': {'kernel': v, 'bias': bias[2]},
        'out': {
          'kernel': at('attn.attn.out_proj.weight').T,
          'bias': at('attn.attn.out_proj.bias'),
        },
      },
      'ffn': {
        'w_in': at('ffn.layers.0.0.weight').T,
        'b_in': at('ffn.layers.0.0.bias'),
        'w_out': at('ffn.layers.1.weight').T,
        'b_out': at('ffn.layers.1.bias'),
      },
    }

  # One projection for all sensors there, one for each here.
  project = {'kernel': w['porj_linear.weight'].T, 'bias': w['porj_linear.bias']}
  blocks = [layer(i) for i in range(layers)]
  return {
    'token': w['cls_token'][0],
    'input': dict.fromkeys(SENSORS, project),
    'up': {},
    'blocks': jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks),
  }


def model(config):
  make = lambda: fusion.Fusion(
    config['cin'],
    config['d'],
    config['layers'],
    config['heads'],
    upsample=dict.fromkeys(SENSORS, 1),
    dated=(),
    key=jax.random.key(0),
  )
  return nnx.split(nnx.eval_shape(make))[0]


def test_the_encoder_and_its_gradients(golden, near):
  fixture = golden('07_skysense_fusion_encoder')
  config = fixture.meta['config']
  graphdef = model(config)
  inputs = {}
  for sensor in SENSORS:  # [B * T, C, h, w] -> [B, T, h, w, C].
    x = fixture[f'in/{sensor}'].transpose(0, 2, 3, 1)
    inputs[sensor] = x.reshape(config['B'], -1, *x.shape[1:])
  cotangent = fixture['cot/fused'].transpose(0, 2, 3, 1)

  def loss(w, inputs):
    y = nnx.merge(graphdef, weights(w, config['layers']))(inputs)
    return (y * cotangent).sum(), y

  step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
  (_, y), (dw, dx) = step(fixture.group('w/'), inputs)
  near(y, fixture['out/fused'].transpose(0, 2, 3, 1), LIMIT)
  for sensor in SENSORS:
    expected = fixture[f'grad/in/{sensor}'].transpose(0, 2, 3, 1)
    near(dx[sensor].reshape(expected.shape), expected, LIMIT)
  for name, gradient in fixture.group('grad/w/').items():
    near(dw[name], gradient, LIMIT, name=name)


def test_the_eps_of_the_norms(golden, near):
  fixture = golden('07_skysense_fusion_encoder')
  config, probe = fixture.meta['config'], fixture.meta['eps_probe']
  w = {
    name: value * probe['scale']
    if any(part in name for part in probe['weights'])
    else value
    for name, value in fixture.group('w/').items()
  }
  made = nnx.merge(model(config), weights(w, config['layers']))
  # Every sequence as a sample of one location; tokens are dates of one sensor.
  sequence = fixture['mid/sequence'][:, :, None, None]
  y = jax.jit(lambda x: made({'hr': x}))(sequence)
  near(y[:, 0, 0], fixture['out/eps_probe/cls'], LIMIT)


def test_the_up_head(golden, near):
  fixture = golden('07_skysense_up_head')
  config = fixture.meta['config']
  times, channels = config['r'], config['cout']
  dense = linear.Dense(
    config['cin'], times**2 * channels, key=jax.random.key(0)
  )
  # Ours orders outputs (row, column, channel), a pixel shuffle channels first.
  turn = lambda y: np.moveaxis(y.reshape(channels, times**2, -1), 0, 1)
  kernel = fixture['w/decoder.0.weight'][:, :, 0, 0]
  dense.kernel[...] = jnp.asarray(turn(kernel).reshape(-1, config['cin']).T)
  dense.bias[...] = jnp.asarray(turn(fixture['w/decoder.0.bias']).reshape(-1))
  graphdef, state = nnx.split(dense)
  cotangent = fixture['cot/y'].transpose(0, 2, 3, 1)

  def loss(state, x):
    y = patches.depth_to_space(nnx.merge(graphdef, state)(x), times)
    return (y * cotangent).sum(), y

  step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
  x = fixture['in/x'].transpose(0, 2, 3, 1)
  (_, y), (dw, dx) = step(nnx.to_pure_dict(state), x)
  near(y, fixture['out/y'].transpose(0, 2, 3, 1), 1e-5)
  near(dx, fixture['grad/in/x'].transpose(0, 2, 3, 1), 1e-5)
  expected = turn(fixture['grad/w/decoder.0.weight'][:, :, 0, 0])
  near(dw['kernel'], expected.reshape(-1, config['cin']).T, 1e-5)
  expected = turn(fixture['grad/w/decoder.0.bias']).reshape(-1)
  near(dw['bias'], expected, 1e-5)
