"""v2_cosine against timm's Swin V2 blocks (fixtures 01)."""

from flax import nnx
import jax
import jax.numpy as jnp
import pytest

from rsfm_jax.nn import attention
from rsfm_jax.nn import linear
from rsfm_jax.nn import swin
from rsfm_jax.nn import windows

# Ten times the deviation of timm's own float32 run (1e-5 on gradients).
OUTPUT, GRADIENT = 3e-5, 1e-4
BLOCKS = [
  '01_swinv2_block_unshifted',
  '01_swinv2_block_shifted',
  '01_swinv2_block_pretrained_window',
]


class ErfMlp(nnx.Module):
  """timm's FFN; RingMoE's, and so ours, has the tanh form of the GELU."""

  def __init__(self, dim, hidden):
    key = jax.random.key(0)
    self.fc1 = linear.Dense(dim, hidden, key=key)
    self.fc2 = linear.Dense(hidden, dim, key=key)

  def __call__(self, x):
    return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False)), {}


def weights(w):
  """Our parameters from timm's names; Linear is [out, in] there."""
  q, k, v = jnp.split(w['attn.qkv.weight'].T, 3, axis=1)
  norm = lambda n: {'scale': w[f'{n}.weight'], 'bias': w[f'{n}.bias']}
  dense = lambda n: {'kernel': w[f'{n}.weight'].T, 'bias': w[f'{n}.bias']}
  return {
    'attention': {
      'query': {'kernel': q, 'bias': w['attn.q_bias']},
      'key': {'kernel': k},
      'value': {'kernel': v, 'bias': w['attn.v_bias']},
      'out': dense('attn.proj'),
      'logit_scale': w['attn.logit_scale'][:, 0, 0],
      'cpb': {
        'hidden': dense('attn.cpb_mlp.0'),
        'out': {'kernel': w['attn.cpb_mlp.2.weight'].T},
      },
    },
    'norm_1': norm('norm1'),
    'norm_2': norm('norm2'),
    'ffn': {'fc1': dense('mlp.fc1'), 'fc2': dense('mlp.fc2')},
  }


def block(config):
  dim, window = config['dim'], config['window'][0]

  def make():
    attend = attention.WindowAttention(
      dim, config['heads'], window, kind='v2_cosine', key=jax.random.key(0)
    )
    attend.cpb.table_window = config['pw'][0] or window
    made = swin.SwinBlock(attend, ErfMlp(dim, 4 * dim), dim=dim)
    made.norm_1.eps = made.norm_2.eps = 1e-5  # timm's; RingMoE has 1e-6.
    return made

  return nnx.split(nnx.eval_shape(make))[0]


@pytest.mark.parametrize('name', BLOCKS)
def test_a_block_and_all_its_gradients(golden, near, name):
  fixture = golden(name)
  graphdef = block(fixture.meta['config'])
  shifted = bool(fixture['mid/shift_used'].any())
  cotangent = fixture['cot/y']

  def loss(w, x):
    y, _ = nnx.merge(graphdef, weights(w))(x, shifted=shifted)
    return (y * cotangent).sum(), y

  step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
  (_, y), (dw, dx) = step(fixture.group('w/'), fixture['in/x'])
  near(y, fixture['out/y'], OUTPUT)
  near(dx, fixture['grad/in/x'], GRADIENT)
  expected = fixture.group('grad/w/')
  largest = max(abs(g).max() for g in expected.values())
  assert dw.keys() == expected.keys()
  for weight, gradient in expected.items():
    near(dw[weight], gradient, GRADIENT, largest, weight)
  # Clamped from above: the last head's temperature does not learn.
  assert float(dw['attn.logit_scale'][-1, 0, 0]) == 0


@pytest.mark.parametrize('name', BLOCKS)
def test_the_pieces_of_the_attention(golden, near, name):
  fixture = golden(name)
  config, w = fixture.meta['config'], fixture.group('w/')
  window = config['window'][0]
  table = windows.log_coordinates(window, config['pw'][0] or window)
  near(
    table.reshape(2 * window - 1, -1, 2),
    fixture['mid/relative_coords_table'],
    1e-6,
  )
  made = nnx.merge(block(config), weights(w)).attention
  near(
    jax.jit(made.cpb, static_argnums=0)(window),
    fixture['mid/rel_pos_bias'],
    OUTPUT,
  )
  if config['shift'][0]:
    mask = windows.shift_mask(
      config['H'], config['W'], window, config['shift'][0]
    )
    near(mask, fixture['mid/attn_mask'], 1e-9)
  # Each window as an image of its own; a shift needs the whole grid.
  if not config['shift'][0]:
    x = fixture['mid/attn_windows_in']
    x = x.reshape(-1, window, window, config['dim'])
    y = jax.jit(lambda x: made(x, shifted=False))(x)
    near(
      y.reshape(fixture['mid/attn_windows_out'].shape),
      fixture['mid/attn_windows_out'],
      OUTPUT,
    )
