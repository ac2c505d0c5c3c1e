"""Layers of parameters, against a list written block by block."""

import jax
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.models import layers
from rsfm_jax.models import mapex_spec
from rsfm_jax.models import ringmoe
from rsfm_jax.models import skysense_v2_spec

SKYSENSE = skysense_v2_spec.SkySenseV2Spec(
  sensors=('opt',),
  channels=(3,),
  reduces=((True,) * 3,),
  image_sizes=(32,),
  patch_size=2,
  embed_dim=8,
  depths=(1, 2, 3, 1),
  heads=(1, 1, 1, 1),
  experts=2,
  moe_layers=2,
  prompts=1,
  fusion_depth=0,
  prototypes_dim=0,
)
RINGMOE = ringmoe.RingMoESpec(
  image_size=16, patch_size=2, embed_dim=8, depths=(2, 2), heads=(1, 2),
  window=4, specialised=1, collaborative=1,
)  # fmt: skip
# Runs: two units of two blocks with experts, one without, one block left over.
MAPEX = mapex_spec.MapexSpec(
  sensors=('a', 'b'), channels=(3, 1), image_size=16, patch_size=4,
  embed_dim=8, depth=7, heads=1, experts=(2, 2, 1), decoder_depth=0,
)  # fmt: skip
SPECS = {'skysense': SKYSENSE, 'ringmoe': RINGMOE, 'mapex': MAPEX}


@pytest.fixture(scope='module', params=SPECS)
def case(request):
  """(spec, abstract parameters with a head, layer of an unstacked block)."""
  spec = SPECS[request.param]
  params = dict(build.build(spec).abstract)
  head = jax.ShapeDtypeStruct((8, 3), np.float32)
  params[build.HEADS] = {'dense': {'kernel': head}}
  return spec, params


def slow(spec, name):
  """The layer of a parameter, or of each of its stacked blocks, by counting."""
  blocks = [(s, b) for s, depth in enumerate(spec.depths) for b in range(depth)]
  number = {place: i + 1 for i, place in enumerate(blocks)}
  top, *rest = name.split('/')
  if top in ('embed', 'mask_token', 'sensors'):
    return 0
  if top.startswith('run_'):  # Of `MAPEX`: block by block.
    return {
      'run_0/plain_0': [1, 3],
      'run_0/last': [2, 4],
      'run_1/plain_0': [5],
      'run_1/last': [6],
      'run_2/last': [7],
    }[f'{top}/{rest[0]}']
  if not top.startswith('stage_'):
    return len(blocks) + 1
  stage = int(top[-1])
  if rest[0] == 'merge':
    return number[stage + (spec is RINGMOE), 0]
  if rest[0] in ('prompts', 'positions'):
    return number[stage, 0]
  if rest[0] == 'blocks':
    return [number[stage, b] for b in range(spec.depths[stage])]
  routed = spec.routed  # Runs: consecutive blocks, dense or with experts.
  kinds = [(number[stage, b] - 1) in routed for b in range(spec.depths[stage])]
  runs, last = [], None
  for b, kind in enumerate(kinds):
    if kind != last:
      runs.append([])
    runs[-1].append(number[stage, b])
    last = kind
  return runs[int(rest[0].removeprefix('run_'))]


def test_every_parameter_has_the_layer_that_counting_gives(case):
  spec, params = case
  found = trees.flatten(layers.of_parameters(spec, params))
  for name in trees.flatten(params):
    assert found[name].tolist() == slow(spec, name), name


def test_rates_decay_towards_the_tokenizer_along_the_stacked_axis(case):
  spec, params = case
  rates = trees.flatten(layers.rates(spec, params, decay=0.5))
  last = layers.count(spec) - 1
  assert last == sum(spec.depths) + 1
  for name, leaf in trees.flatten(params).items():
    want = 0.5 ** (last - np.asarray(slow(spec, name), float))
    np.testing.assert_allclose(np.ravel(rates[name]), np.ravel(want))
    assert np.broadcast_shapes(rates[name].shape, leaf.shape) == leaf.shape
  assert rates[f'{build.HEADS}/dense/kernel'] == 1


@pytest.mark.parametrize('decay', [0.0, -0.5, 1.5])
def test_a_decay_beyond_one_is_refused(decay):
  with pytest.raises(ValueError, match='optim.layer_decay'):
    layers.rates(RINGMOE, {}, decay=decay)
