"""The decoder layer against torch's own (fixtures 08)."""

from flax import nnx
import jax
import jax.numpy as jnp
import pytest

from rsfm_jax.nn import decoder
from rsfm_jax.nn import linear

# Thirty times the deviation of the reference's own float32 run.
LIMIT = 2e-5
LAYERS = [
  '08_transformer_decoder_layer_prenorm',
  '08_transformer_decoder_layer_postnorm',
]


class ReluMlp(nnx.Module):
  """torch's default activation, which no model of ours has."""

  def __init__(self, dim, hidden):
    key = jax.random.key(0)
    self.w_in = nnx.Param(linear.truncated_normal(key, (dim, hidden)))
    self.b_in = nnx.Param(jnp.zeros(hidden))
    self.w_out = nnx.Param(linear.truncated_normal(key, (hidden, dim)))
    self.b_out = nnx.Param(jnp.zeros(dim))

  def __call__(self, x):
    hidden = linear.add_bias(x @ self.w_in[...], self.b_in[...])
    return linear.add_bias(
      jax.nn.relu(hidden) @ self.w_out[...], self.b_out[...]
    )


def weights(w):
  """Our parameters from torch's names; Linear is [out, in] there."""

  def attention(name):
    q, k, v = jnp.split(w[f'{name}.in_proj_weight'].T, 3, axis=1)
    bias = jnp.split(w[f'{name}.in_proj_bias'], 3)
    return {
      'query': {'kernel': q, 'bias': bias[0]},
      'key': {'kernel': k, 'bias': bias[1]},
      'value': {'kernel': v, 'bias': bias[2]},
      'out': {
        'kernel': w[f'{name}.out_proj.weight'].T,
        'bias': w[f'{name}.out_proj.bias'],
      },
    }

  norm = lambda i: {'scale': w[f'norm{i}.weight'], 'bias': w[f'norm{i}.bias']}
  return {
    'self_attention': attention('self_attn'),
    'cross_attention': attention('multihead_attn'),
    'ffn': {
      'w_in': w['linear1.weight'].T,
      'b_in': w['linear1.bias'],
      'w_out': w['linear2.weight'].T,
      'b_out': w['linear2.bias'],
    },
    'norm_1': norm(1),
    'norm_2': norm(2),
    'norm_3': norm(3),
  }


def layer(config):
  def make():
    made = decoder.DecoderLayer(
      config['d'],
      config['heads'],
      hidden=config['ff'],
      norm='pre' if config['norm_first'] else 'post',
      key=jax.random.key(0),
    )
    if config['act'] == 'relu':
      made.ffn = ReluMlp(config['d'], config['ff'])
    return made

  return nnx.split(nnx.eval_shape(make))[0]


def valid_of(fixture):
  if 'in/memory_key_padding_mask' not in fixture.arrays:
    return None
  return ~fixture['in/memory_key_padding_mask']


@pytest.mark.parametrize('name', LAYERS)
def test_a_layer_and_all_its_gradients(golden, near, name):
  fixture = golden(name)
  graphdef, valid = layer(fixture.meta['config']), valid_of(fixture)
  cotangent = fixture['cot/y']

  def loss(w, query, memory):
    y = nnx.merge(graphdef, weights(w))(query, memory, valid)
    return (y * cotangent).sum(), y

  step = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
  (_, y), (dw, *dx) = step(
    fixture.group('w/'), fixture['in/query'], fixture['in/memory']
  )
  near(y, fixture['out/y'], LIMIT)
  near(dx[0], fixture['grad/in/query'], LIMIT)
  near(dx[1], fixture['grad/in/memory'], LIMIT)
  expected = fixture.group('grad/w/')
  assert dw.keys() == expected.keys()
  for weight, gradient in expected.items():
    near(dw[weight], gradient, LIMIT, name=weight)


@pytest.mark.parametrize('name', LAYERS)
def test_the_eps_of_the_norms(golden, near, name):
  fixture = golden(name)
  probe = fixture.meta['eps_probe']
  small = lambda group, parts: {
    name: value * (probe['scale'] if any(p in name for p in parts) else 1)
    for name, value in fixture.group(group).items()
  }
  w, inputs = small('w/', probe['weights']), small('in/', probe['inputs'])
  made = nnx.merge(layer(fixture.meta['config']), weights(w))
  call = jax.jit(lambda x, y: made(x, y, valid_of(fixture)))
  y = call(inputs['query'], inputs['memory'])
  near(y, fixture['out/eps_probe/y'], LIMIT)
