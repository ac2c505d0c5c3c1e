"""v1_bias, merging and patch embed against RingMoE's code (fixtures 02)."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.nn import attention
from rsfm_jax.nn import mlp
from rsfm_jax.nn import patches
from rsfm_jax.nn import swin
from rsfm_jax.nn import windows

# As the fixtures say, for references executed in float32.
OUTPUT, GRADIENT = 2e-5, 5e-5
KEY = jax.random.key(0)


class Ffn(nnx.Module):
  """The shared expert alone, with the interface of a routed FFN."""

  def __init__(self, dim, hidden):
    self.mlp = mlp.Mlp(dim, hidden, key=KEY)

  def __call__(self, x):
    return self.mlp(x), {}


def abstract(make):
  return nnx.split(nnx.eval_shape(make))[0]


def attention_weights(w, prefix=''):
  dense = lambda n: {
    'kernel': w[f'{prefix}{n}.weight'].T,
    'bias': w[f'{prefix}{n}.bias'],
  }
  table = f'{prefix}relative_position_bias.relative_position_bias_table'
  return {
    'query': dense('q'),
    'key': dense('k'),
    'value': dense('v'),
    'out': dense('proj'),
    'bias_table': w[table],
  }


def norm(w, name):
  return {'scale': w[f'{name}.gamma'], 'bias': w[f'{name}.beta']}


def check(fixture, near, apply, x_name='x', x=None):
  """Output, eps probe and all gradients of `apply(w, x)`."""
  inputs = fixture[f'in/{x_name}'] if x is None else x

  def loss(w, x):
    y = apply(w, x)
    return (y * fixture['cot/y']).sum(), y

  step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
  w = fixture.group('w/')
  (_, y), (dw, dx) = step(w, inputs)
  near(y, fixture['out/y'], OUTPUT)
  near(dx, fixture[f'grad/in/{x_name}'], GRADIENT, name=x_name)
  expected = fixture.group('grad/w/')
  assert expected.keys() == w.keys()
  largest = max(np.abs(g).max() for g in expected.values())
  for name, gradient in expected.items():
    # The bias of the keys has none: softmax does not see a constant.
    scale = largest if name.endswith('k.bias') else None
    near(dw[name], gradient, GRADIENT, scale, name)
  if probe := fixture.meta.get('eps_probe'):
    small = lambda name, value, which: (
      value * probe['scale'] if any(p in name for p in which) else value
    )
    w = {n: small(n, v, probe['weights']) for n, v in w.items()}
    _, y = loss(w, small(x_name, inputs, probe['inputs']))
    near(y, fixture['out/eps_probe/y'], 1e-3)


@pytest.mark.parametrize('name', ['unshifted', 'shifted'])
def test_a_block_with_a_dense_ffn(golden, near, name):
  fixture = golden(f'02_ringmoe_swin_block_{name}')
  config = fixture.meta['config']
  dim, side = config['dim'], config['H']

  def make():
    attend = attention.WindowAttention(
      dim, config['heads'], config['win'], kind='v1_bias', key=KEY
    )
    return swin.SwinBlock(attend, Ffn(dim, 4 * dim), dim=dim)

  graphdef = abstract(make)

  def apply(w, x):
    params = {
      'attention': attention_weights(w, 'attn.'),
      'norm_1': norm(w, 'norm1'),
      'norm_2': norm(w, 'norm2'),
      'ffn': {
        'mlp': {
          'w_in': w['mlp.mapping.weight'],
          'b_in': w['mlp.mapping.bias'],
          'w_out': w['mlp.projection.weight'],
          'b_out': w['mlp.projection.bias'],
        }
      },
    }
    x = x.reshape(-1, side, side, dim)
    y, _ = nnx.merge(graphdef, params)(x, shifted=config['shift'] > 0)
    return y.reshape(-1, side * side, dim)

  check(fixture, near, apply)
  if name == 'shifted':
    mask = windows.shift_mask(side, side, config['win'], config['shift'])
    np.testing.assert_array_equal(mask, fixture['mid/attn_mask'][0, :, 0])


def test_window_attention(golden, near):
  fixture = golden('02_ringmoe_window_attention_plain')
  config = fixture.meta['config']
  dim, window = config['dim'], config['win']
  graphdef = abstract(
    lambda: attention.WindowAttention(
      dim, config['heads'], window, kind='v1_bias', key=KEY
    )
  )

  def apply(w, x):
    made = nnx.merge(graphdef, attention_weights(w))
    x = x.reshape(-1, window, window, dim)
    return made(x, shifted=False).reshape(-1, window**2, dim)

  check(fixture, near, apply)
  index = windows.relative_index(window, window)
  np.testing.assert_array_equal(index, fixture['mid/relative_position_index'])


def test_window_attention_with_a_shift_mask(golden, near):
  """The fixture has windows; the layer a grid, which it cuts and shifts."""
  fixture = golden('02_ringmoe_window_attention_masked')
  config = fixture.meta['config']
  dim, window, side = config['dim'], config['win'], config['H']
  graphdef = abstract(
    lambda: attention.WindowAttention(
      dim, config['heads'], window, kind='v1_bias', key=KEY
    )
  )
  mask = windows.shift_mask(side, side, window, window // 2)
  np.testing.assert_array_equal(mask, fixture['in/mask'][0, :, 0])

  def apply(w, x):
    made = nnx.merge(graphdef, attention_weights(w))
    grid = windows.merge(x, window, side, side)
    y = made(windows.roll(grid, -(window // 2)), shifted=True)
    return windows.partition(windows.roll(y, window // 2), window)

  check(fixture, near, apply)


def test_patch_merging(golden, near):
  fixture = golden('02_ringmoe_patch_merging')
  config = fixture.meta['config']
  dim, side = config['dim'], config['H']
  graphdef = abstract(lambda: patches.PatchMerging(dim, key=KEY))

  def apply(w, x):
    params = {'kernel': w['reduction.weight'].T, 'norm': norm(w, 'norm')}
    y = nnx.merge(graphdef, params)(x.reshape(-1, side, side, dim))
    return y.reshape(-1, side * side // 4, 2 * dim)

  check(fixture, near, apply)


def test_patch_embed(golden, near):
  fixture = golden('02_ringmoe_patch_embed')
  config = fixture.meta['config']
  graphdef = abstract(
    lambda: patches.PatchEmbed(
      config['cin'], config['dim'], config['patch'], key=KEY
    )
  )

  def apply(w, image):
    params = {
      'kernel': w['projection.weight'].transpose(2, 3, 1, 0),
      'bias': w['projection.bias'],
      'norm': norm(w, 'norm'),
    }
    y = nnx.merge(graphdef, params)(jnp.transpose(image, (0, 2, 3, 1)))
    return y.reshape(len(image), -1, config['dim'])

  check(fixture, near, apply, 'image')
