"""Transformer blocks and position tables against timm and MAE (fixtures 05)."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.convert import rules
from rsfm_jax.convert import sources
from rsfm_jax.core import trees
from rsfm_jax.nn import linear
from rsfm_jax.nn import multihead
from rsfm_jax.nn import patches
from rsfm_jax.nn import positions
from rsfm_jax.nn import transformer

# As the fixtures say for float32; the model's own float32 run is off by 2.4e-5.
BLOCK, MODEL, MODEL_GRADIENT, RESIZE = 2e-5, 2e-4, 5e-5, 1e-5
KEY = jax.random.key(0)


def dense(w):
  """A nested dict of our dense names, by the rules of `rsfm import`."""
  found = rules.translate(w, sources.SOURCES['timm_vit'].rules)
  assert not found.unexplained
  flat = {name: part.array for name, part in found.dense.items()}
  return trees.unflatten(flat)


def weights(w):
  """Our parameters of one block."""
  return dense({f'blocks.0.{name}': x for name, x in w.items()})['block_0']


def block(dim, heads, layer_scale=None):
  def make():
    attend = multihead.MultiHeadAttention(dim, heads, key=KEY)
    ffn = transformer.Ffn(dim, 4 * dim, key=KEY, activation='gelu')
    return transformer.Block(attend, ffn, dim=dim, layer_scale=layer_scale)

  return nnx.split(nnx.eval_shape(make))[0]


@pytest.mark.parametrize(
  'name', ['05_vit_block_plain', '05_vit_block_layerscale']
)
def test_a_block_and_all_its_gradients(golden, near, name):
  fixture = golden(name)
  config = fixture.meta['config']
  graphdef = block(config['dim'], config['heads'], config['ls'])
  run = lambda w, x: nnx.merge(graphdef, weights(w))(x)[0]

  def loss(w, x):
    y = run(w, x)
    return (y * fixture['cot/y']).sum(), y

  step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
  w, x = fixture.group('w/'), fixture['in/x']
  (_, y), (dw, dx) = step(w, x)
  near(y, fixture['out/y'], BLOCK)
  near(dx, fixture['grad/in/x'], BLOCK)
  expected = fixture.group('grad/w/')
  largest = max(abs(g).max() for g in expected.values())
  assert dw.keys() == expected.keys()
  for name, gradient in expected.items():
    near(dw[name], gradient, BLOCK, largest, name)
  # Variances near eps: a wrong one shows.
  probe = fixture.meta['eps_probe']
  small = {
    n: v * (probe['scale'] if any(p in n for p in probe['weights']) else 1)
    for n, v in w.items()
  }
  near(run(small, x * probe['scale']), fixture['out/eps_probe/y'], 1e-4)


def vit(w, image, config):
  """The tiny ViT of the fixture: class token, positions, blocks, head."""
  dim, ours = config['dim'], dense(w)
  x = image.transpose(0, 2, 3, 1)
  kernel = ours['embed']['kernel'].reshape(-1, dim)
  x = patches.space_to_depth(x, config['patch']) @ kernel
  x = linear.add_bias(x, ours['embed']['bias'])
  b, height, width, _ = x.shape
  place = positions.resize(
    ours['positions'], height, width, kind='bicubic_antialias'
  )
  token = (ours['class_token'] + ours['class_position']).reshape(1, 1, dim)
  x = (x + place[None]).reshape(b, -1, dim)
  x = jnp.concatenate([jnp.broadcast_to(token, (b, 1, dim)), x], 1)
  depth = config['depth']
  each = [ours[f'block_{i}'] for i in range(depth)]
  stacked = jax.tree.map(lambda *v: jnp.stack(v), *each)
  blocks = nnx.merge(block(dim, config['heads']), stacked)
  x, _ = transformer.run(blocks, x, depth=depth)
  x = linear.normalise(x, ours['norm']['scale'], ours['norm']['bias'], 1e-6)
  return x, linear.add_bias(x[:, 0] @ w['head.weight'].T, w['head.bias'])


@pytest.mark.parametrize('size', ['native', 'resized'])
def test_a_model_at_its_size_and_at_another(golden, near, size):
  fixture = golden('05_vit_tiny_model')
  config = fixture.meta['config']

  def loss(w, image):
    tokens, logits = vit(w, image, config)
    return (logits * fixture['cot/logits']).sum(), (tokens, logits)

  step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
  found, (dw, dx) = step(fixture.group('w/'), fixture[f'in/{size}/image'])
  tokens, logits = found[1]
  near(tokens, fixture[f'out/{size}/tokens'], MODEL)
  near(logits, fixture[f'out/{size}/logits'], MODEL)
  near(dx, fixture[f'grad/in/{size}/image'], MODEL_GRADIENT)
  for name, gradient in fixture.group(f'grad/w/{size}/').items():
    near(dw[name], gradient, MODEL_GRADIENT, name=name)


@pytest.mark.parametrize(
  ('kind', 'reference'),
  [('bicubic', 'bicubic'), ('bicubic_antialias', 'timm')],
)
@pytest.mark.parametrize('size', [(7, 7), (16, 20), (24, 24), (9, 14)])
def test_tables_of_other_sizes(golden, near, kind, reference, size):
  fixture = golden('05_pos_embed_resize')
  side = fixture.meta['config']['grid']
  table = fixture['in/table'][0, 1:].reshape(side, side, -1)
  out = positions.resize(jnp.asarray(table), *size, kind=kind)
  expected = fixture[f'out/{reference}_{size[0]}x{size[1]}'][0, 1:]
  near(out, expected.reshape(*size, -1), RESIZE)


@pytest.mark.parametrize('grid', [3, 5])
def test_fixed_waves(golden, grid):
  fixture = golden('05_sincos_pos_embed')
  waves = positions.sincos(fixture.meta['config']['dim'], grid, grid)
  expected = fixture[f'out/grid{grid}']
  np.testing.assert_allclose(
    waves.reshape(expected.shape), expected, rtol=1e-6, atol=1e-6
  )
