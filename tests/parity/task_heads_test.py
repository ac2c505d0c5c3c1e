"""Dense heads against mmsegmentation, smp and BIT's code (fixtures 10)."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.nn import resampling
from rsfm_jax.tasks import contract
from rsfm_jax.tasks.heads import bit
from rsfm_jax.tasks.heads import fcn
from rsfm_jax.tasks.heads import unet
from rsfm_jax.tasks.heads import upernet

# As the sheet of fixtures says, of the largest entry.
LIMIT, TRAIN_LIMIT, BIT_LIMIT = 2e-5, 1e-4, 3e-5


def channels_last(x):
  return np.moveaxis(x, 1, -1)


def kernel(w):
  """OIHW -> HWIO."""
  return w.transpose(2, 3, 1, 0)


class Weights:
  """Ours from the fixture's: `place` collects parameters and statistics."""

  def __init__(self, fixture):
    self.w, self.buffers = fixture.group('w/'), fixture.group('buf/')
    self.params, self.statistics = {}, {}

  def conv_norm(self, ours, conv, norm):
    self.params |= {
      f'{ours}/conv/kernel': kernel(self.w[f'{conv}.weight']),
      f'{ours}/norm/scale': self.w[f'{norm}.weight'],
      f'{ours}/norm/bias': self.w[f'{norm}.bias'],
    }
    self.statistics |= {
      f'{ours}/norm/mean': self.buffers[f'{norm}.running_mean'],
      f'{ours}/norm/variance': self.buffers[f'{norm}.running_var'],
    }

  def conv(self, ours, theirs):
    self.params[f'{ours}/kernel'] = kernel(self.w[f'{theirs}.weight'])
    self.params[f'{ours}/bias'] = self.w[f'{theirs}.bias']


def run(make, weights, call):
  """`(params, *maps) -> (outputs, statistics)` of a head."""
  graph, params, statistics = nnx.split(
    nnx.eval_shape(make), nnx.Param, nnx.BatchStat
  )
  wanted = nnx.to_pure_dict(params), nnx.to_pure_dict(statistics)
  given = [
    trees.unflatten({n: jnp.asarray(x) for n, x in w.items()})
    for w in (weights.params, weights.statistics)
  ]
  for want, have in zip(wanted, given):
    shapes = lambda tree: {n: x.shape for n, x in trees.flatten(tree).items()}
    assert shapes(want) == shapes(have)

  def apply(params, *maps):
    head = nnx.merge(graph, params, given[1])
    return call(head, *maps), nnx.to_pure_dict(nnx.state(head, nnx.BatchStat))

  return apply, given[0]


def features(*maps):
  return contract.Features(
    {f'level_{i}': x for i, x in enumerate(maps)}, maps[0].shape[1:3]
  )


def gradients(apply, params, maps, cotangent):
  loss = lambda p, *m: (apply(p, *m)[0] * cotangent).sum()
  found = jax.jit(jax.grad(loss, tuple(range(len(maps) + 1))))(params, *maps)
  return trees.flatten(found[0]), found[1:]


@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_upernet_with_its_gradients_and_statistics(golden, near, mode):
  fixture = golden('10_upernet_head')
  weights = Weights(fixture)
  for i, n in enumerate((1, 2, 3, 6)):
    theirs = f'psp_modules.{i}.1'
    weights.conv_norm(f'pool/squeeze/{n}', f'{theirs}.conv', f'{theirs}.bn')
  for i in range(3):
    for ours, name in (('lateral', 'lateral_convs'), ('smooth', 'fpn_convs')):
      theirs = f'{name}.{i}'
      weights.conv_norm(f'{ours}/{i}', f'{theirs}.conv', f'{theirs}.bn')
  weights.conv_norm('bottleneck', 'bottleneck.conv', 'bottleneck.bn')
  weights.conv_norm('joined', 'fpn_bottleneck.conv', 'fpn_bottleneck.bn')
  weights.conv('scores', 'conv_seg')
  config = fixture.meta['config']
  names = [f'level_{i}' for i in range(4)]
  make = lambda: upernet.UperNet(
    config['chans'], config['classes'], levels=names, channels=config['ch'],
    dropout=0.0, key=jax.random.key(0),
  )  # fmt: skip
  apply, params = run(
    make, weights, lambda head, *m: head(features(*m), mode=mode)
  )
  maps = [channels_last(fixture[f'in/feature_{i}']) for i in range(4)]
  limit = LIMIT if mode == 'eval' else TRAIN_LIMIT
  logits, moved = jax.jit(apply)(params, *maps)
  near(logits, channels_last(fixture[f'out/{mode}/logits']), limit)
  by_params, by_maps = gradients(
    apply, params, maps, channels_last(fixture['cot/logits'])
  )
  for i, found in enumerate(by_maps):
    golden_map = channels_last(fixture[f'grad/in/{mode}/feature_{i}'])
    near(found, golden_map, limit, name=f'feature_{i}')
  near(
    by_params['joined/conv/kernel'],
    kernel(fixture[f'grad/w/{mode}/fpn_bottleneck.conv.weight']),
    limit,
  )
  if mode == 'train':
    moved = trees.flatten(moved)
    out = fixture.group('out/train/buffer/')
    near(
      moved['bottleneck/norm/variance'], out['bottleneck.bn.running_var'], limit
    )
    near(
      moved['lateral/1/norm/mean'],
      out['lateral_convs.1.bn.running_mean'],
      limit,
    )


def test_pyramid_pooling_of_an_uneven_map(golden, near):
  fixture = golden('10_ppm')
  weights = Weights(fixture)
  bins = fixture.meta['config']['scales']
  for i, n in enumerate(bins):
    weights.conv_norm(f'squeeze/{n}', f'{i}.1.conv', f'{i}.1.bn')
  make = lambda: upernet.PyramidPool(12, 6, bins, key=jax.random.key(0))
  apply, params = run(make, weights, lambda m, x: m(x, mode='eval'))
  x = channels_last(fixture['in/x'])
  near(apply(params, x)[0], channels_last(fixture['out/concat']), LIMIT)
  for n in bins:
    near(
      resampling.adaptive_pool(x, n, n),
      channels_last(fixture[f'mid/adaptive_pool_{n}']),
      LIMIT,
    )


def test_fcn_head(golden, near):
  fixture = golden('10_fcn_head_and_losses')
  weights = Weights(fixture)
  for i in range(2):
    weights.conv_norm(f'convs/{i}', f'convs.{i}.conv', f'convs.{i}.bn')
  weights.conv_norm('joined', 'conv_cat.conv', 'conv_cat.bn')
  weights.conv('scores', 'conv_seg')
  make = lambda: fcn.Fcn(
    10, 5, level='level_0', channels=8, dropout=0.0, key=jax.random.key(0)
  )
  apply, params = run(
    make, weights, lambda head, x: head(features(x), mode='eval')
  )
  logits, _ = apply(params, channels_last(fixture['in/x']))
  near(logits, channels_last(fixture['out/logits']), LIMIT)
  height, width = fixture['in/labels'].shape[1:]
  near(
    resampling.bilinear(logits, height, width),
    channels_last(fixture['out/upsampled']),
    LIMIT,
  )


def test_unet_decoder(golden, near):
  fixture = golden('10_unet_decoder')
  weights = Weights(fixture)
  for i in range(4):
    for n in (1, 2):
      theirs = f'blocks.{i}.conv{n}'
      weights.conv_norm(f'blocks/{i}/conv_{n}', f'{theirs}.0', f'{theirs}.1')
  config = fixture.meta['config']
  # The fixture ends before the scores.
  weights.params |= {
    'scores/kernel': np.zeros((3, 3, config['dec'][-1], 1)),
    'scores/bias': np.zeros(1),
  }
  make = lambda: unet.Unet(
    config['enc'][1:], 1, levels=list('abcd'), channels=config['dec'],
    key=jax.random.key(0),
  )  # fmt: skip
  apply, params = run(
    make, weights, lambda head, *maps: head.decode(maps, mode='eval')
  )
  maps = [channels_last(fixture[f'in/feature_{i}']) for i in range(1, 5)]
  near(apply(params, *maps)[0], channels_last(fixture['out/y']), LIMIT)
  by_params, by_maps = gradients(
    apply, params, maps, channels_last(fixture['cot/y'])
  )
  near(by_maps[3], channels_last(fixture['grad/in/feature_4']), LIMIT)
  near(
    by_params['blocks/0/conv_1/conv/kernel'],
    kernel(fixture['grad/w/blocks.0.conv1.0.weight']),
    LIMIT,
  )


def bit_layer(weights, ours, theirs, *, cross):
  w, out = weights.w, weights.params
  if cross:
    parts = [w[f'{theirs}.0.fn.fn.to_{n}.weight'].T for n in 'qkv']
  else:
    parts = np.split(w[f'{theirs}.0.fn.fn.to_qkv.weight'].T, 3, 1)
  for name, part in zip(('query', 'key', 'value'), parts):
    out[f'{ours}/attention/{name}/kernel'] = part
  out[f'{ours}/attention/out/kernel'] = w[f'{theirs}.0.fn.fn.to_out.0.weight'].T
  out[f'{ours}/attention/out/bias'] = w[f'{theirs}.0.fn.fn.to_out.0.bias']
  for i, (a, b) in enumerate((('w_in', 'b_in'), ('w_out', 'b_out'))):
    out[f'{ours}/ffn/{a}'] = w[f'{theirs}.1.fn.fn.net.{3 * i}.weight'].T
    out[f'{ours}/ffn/{b}'] = w[f'{theirs}.1.fn.fn.net.{3 * i}.bias']
  for i in range(2):
    for a, b in (('scale', 'weight'), ('bias', 'bias')):
      out[f'{ours}/norm_{i + 1}/{a}'] = w[f'{theirs}.{i}.fn.norm.{b}']


def test_bit_with_its_gradients(golden, near):
  fixture = golden('10_bit_change_head')
  config, weights = fixture.meta['config'], Weights(fixture)
  w = weights.w
  bit_layer(weights, 'encoder/0', 'transformer.layers.0', cross=False)
  for i in range(config['dec']):
    theirs = f'transformer_decoder.layers.{i}'
    bit_layer(weights, f'decoder/{i}', theirs, cross=True)
  weights.conv_norm('joined', 'classifier.0', 'classifier.1')
  weights.conv('scores', 'classifier.3')
  weights.params |= {
    'positions': w['pos_embedding'][0],
    'select/kernel': w['conv_a.weight'][:, :, 0, 0].T,
    'squeeze/kernel': np.zeros((3, 3, 32, 32)),
    'squeeze/bias': np.zeros(32),
  }
  make = lambda: bit.Bit(
    32, 2, level='final', tokens=config['tok'], encoder=config['enc'],
    decoder=config['dec'], head_dim=config['dim_head'], key=jax.random.key(0),
  )  # fmt: skip
  apply, params = run(
    make, weights, lambda head, a, b: head.compare(a, b, mode='eval')
  )
  maps = [channels_last(fixture[f'in/feature_{i}']) for i in (1, 2)]
  near(apply(params, *maps)[0], channels_last(fixture['out/logits']), BIT_LIMIT)
  by_params, by_maps = gradients(
    apply, params, maps, channels_last(fixture['cot/logits'])
  )
  for i, found in enumerate(by_maps, 1):
    golden_map = channels_last(fixture[f'grad/in/feature_{i}'])
    near(found, golden_map, BIT_LIMIT)
  near(
    by_params['positions'],
    fixture['grad/w/pos_embedding'][0],
    BIT_LIMIT,
  )
  near(
    by_params['decoder/0/norm_1/scale'],
    fixture['grad/w/transformer_decoder.layers.0.0.fn.norm.weight'],
    BIT_LIMIT,
  )


@pytest.mark.parametrize('size', [(12, 10), (9, 13), (3, 4), (6, 5), (1, 1)])
def test_resampling(golden, near, size):
  fixture = golden('10_resize')
  x = channels_last(fixture['in/x'])
  name = '{}x{}'.format(*size)
  for ours, theirs in (
    (resampling.bilinear(x, *size), 'bilinear'),
    (resampling.bilinear(x, *size, align='corners'), 'bilinear_ac'),
    (resampling.nearest(jnp.asarray(x), *size), 'nearest'),
    (resampling.adaptive_pool(x, *size), 'area'),
  ):
    near(
      ours, channels_last(fixture[f'out/{theirs}_{name}']), 1e-6, name=theirs
    )
