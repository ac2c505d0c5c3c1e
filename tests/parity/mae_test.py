"""MAE's official code (fixture 05) by the MAPEX-style model and objective.

Its class token is a second sensor of one patch here, that is always kept: the
patch embedding's bias carries it, and sensor vectors undo the positions that it
does not have.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.models import build
from rsfm_jax.models import mapex
from rsfm_jax.models import mapex_spec
from rsfm_jax.nn import patches
from rsfm_jax.nn import positions
from rsfm_jax.objectives import mae
from tests.parity import vit_test

FORWARD, GRADIENT = 5e-5, 5e-4


@pytest.fixture(scope='module')
def fixture(golden):
  return golden('05_mae_tiny')


def spec_of(config):
  return mapex_spec.MapexSpec(
    sensors=('cls', 'image'),
    channels=(1, 3),
    image_size=config['img'],
    patch_size=config['patch'],
    embed_dim=config['dim'],
    depth=config['depth'],
    heads=config['heads'],
    moe_every=0,
    experts=(),
    decoder_dim=config['ddim'],
    decoder_depth=config['ddepth'],
    decoder_heads=config['dheads'],
  )


def weights(w, config):
  """Parameters of ours by MAE's names."""
  side, patch = config['img'] // config['patch'], config['patch']

  def blocks(prefix, depth):
    def one(start):
      own = {n: x for n, x in w.items() if n.startswith(start)}
      return vit_test.weights({n[len(start) :]: x for n, x in own.items()})

    each = [one(f'{prefix}.{i}.') for i in range(depth)]
    return jax.tree.map(lambda *v: jnp.stack(v), *each)

  def linear(name):
    return {'kernel': w[f'{name}.weight'].T, 'bias': w[f'{name}.bias']}

  def norm(name):
    return {'scale': w[f'{name}.weight'], 'bias': w[f'{name}.bias']}

  def undone(table, dim):
    """What takes our position of a single patch back, and adds MAE's."""
    ours = positions.resized_sincos(dim, side, 1, 1)[0, 0]
    return table[0, 0] - ours

  dim, ddim = config['dim'], config['ddim']
  pixels = patch * patch
  return {
    'embed': {
      'cls': {
        'kernel': jnp.zeros((patch, patch, 1, dim)),
        'bias': w['cls_token'][0, 0],
      },
      'image': {
        'kernel': w['patch_embed.proj.weight'].transpose(2, 3, 1, 0),
        'bias': w['patch_embed.proj.bias'],
      },
    },
    'sensors': {
      'cls': undone(w['pos_embed'], dim),
      'image': jnp.zeros(dim),
    },
    'run_0': {'last': blocks('blocks', config['depth'])},
    'norm': norm('norm'),
    'decoder': {
      'input': linear('decoder_embed'),
      'mask_token': w['mask_token'][0, 0],
      'sensors': {
        'cls': undone(w['decoder_pos_embed'], ddim),
        'image': jnp.zeros(ddim),
      },
      'blocks': blocks('decoder_blocks', config['ddepth']),
      'norm': norm('decoder_norm'),
      'heads': {
        'cls': {
          'kernel': jnp.zeros((ddim, pixels)),
          'bias': jnp.zeros(pixels),
        },
        'image': linear('decoder_pred'),
      },
    },
  }


def test_prediction_loss_and_gradients(fixture, near):
  config, w = fixture.meta['config'], fixture.group('w/')
  model = build.build(spec_of(config))
  image = fixture['in/image']
  tokens = fixture['in/noise'].shape[1]
  chosen = mae.mask(
    jnp.asarray(fixture['in/noise']),
    jnp.ones((len(image), tokens), bool),
    1 - config['ratio'],
  )
  removed = np.ones((len(image), tokens), bool)
  kept = chosen.kept.shape[1]
  np.put_along_axis(removed, np.asarray(chosen.order[:, :kept]), False, 1)
  np.testing.assert_array_equal(removed, fixture['out/mask'])
  restore = np.argsort(np.asarray(chosen.order), 1)
  np.testing.assert_array_equal(restore, fixture['out/ids_restore'])
  # With the class token first, and kept.
  zero = jnp.zeros((len(image), 1), jnp.int32)
  masking = mapex.Masking(
    jnp.concatenate([zero, chosen.order + 1], 1),
    jnp.concatenate([zero == 0, chosen.kept], 1),
  )

  def loss(w, image, norm):
    pixels = image.transpose(0, 2, 3, 1)
    images = {
      'cls': jnp.zeros((len(image), config['patch'], config['patch'], 1)),
      'image': pixels,
    }
    made = model.apply(weights(w, config), images, masking=masking)
    guess = made.reconstruction['image'].reshape(len(image), tokens, -1)
    target = patches.space_to_depth(pixels, config['patch'])
    target = target.reshape(guess.shape)
    counts = jnp.ones(target.shape, bool)
    if norm:
      target = mae.normalised(target, counts)
    errors = mae.patch_errors(guess, target, counts)
    return (errors * removed).sum() / removed.sum(), (guess, target)

  step = jax.jit(
    jax.value_and_grad(loss, (0, 1), has_aux=True), static_argnums=2
  )
  (value, (guess, _)), (dw, dx) = step(w, image, True)
  near(guess, fixture['out/pred'], FORWARD)
  near(value, fixture['out/loss'], FORWARD)
  near(dx, fixture['grad/in/image'], GRADIENT, name='image')
  for name, gradient in fixture.group('grad/w/').items():
    near(dw[name], gradient, GRADIENT, name=name)
  other, (_, plain) = jax.jit(loss, static_argnums=2)(w, image, False)
  near(other, fixture['out/loss_other_norm_pix'], FORWARD)
  near(plain, fixture['mid/patchify'], FORWARD)
