"""v2_cosine against timm's Swin V2 blocks (fixtures 01)."""

from flax import nnx
import jax
import pytest

from rsfm_jax.convert import rules
from rsfm_jax.convert import sources
from rsfm_jax.core import trees
from rsfm_jax.nn import attention
from rsfm_jax.nn import swin
from rsfm_jax.nn import transformer
from rsfm_jax.nn import windows

# Ten times the deviation of timm's own float32 run (1e-5 on gradients).
OUTPUT, GRADIENT = 3e-5, 1e-4
KEY = jax.random.key(0)
BLOCKS = [
  '01_swinv2_block_unshifted',
  '01_swinv2_block_shifted',
  '01_swinv2_block_pretrained_window',
]


def weights(w):
  """Our parameters of a block, by the rules of `rsfm import`."""
  named = {f'layers.0.blocks.0.{name}': x for name, x in w.items()}
  found = rules.translate(named, sources.SOURCES['timm_swinv2'].rules)
  assert not found.unexplained
  flat = {name: dense.array for name, dense in found.dense.items()}
  return trees.unflatten(flat)['stage_0']['block_0']


def block(config):
  dim, window = config['dim'], config['window'][0]

  def make():
    attend = attention.WindowAttention(
      dim,
      config['heads'],
      window,
      kind='v2_cosine',
      key=KEY,
      cpb_window=config['pw'][0] or None,
    )
    # timm's GELU; RingMoE's, and so ours, has the tanh form.
    ffn = transformer.Ffn(dim, 4 * dim, key=KEY, activation='gelu')
    made = swin.SwinBlock(attend, ffn, dim=dim)
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
