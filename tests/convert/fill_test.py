"""Every parameter is filled or told why not; every tensor is accounted for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.convert import fill
from rsfm_jax.core import trees
from rsfm_jax.models import build
from tests.convert import tiny_models
from tests.convert import torch_models

# Sums in another order, and the eps of layer norms for scaled copies.
SAME = dict(rtol=1e-4, atol=1e-4)
# What gates that stray from their mean change in features; 0.027 was measured.
GATED = 0.05


def features(spec, params, size):
  params = jax.tree.map(jnp.asarray, trees.unflatten(params))
  draw = np.random.default_rng(2).standard_normal
  images = {
    s: draw((2, size, size, c), np.float32)
    for s, c in zip(spec.sensors, spec.channels, strict=True)
  }
  run = jax.jit(lambda p, x: build.build(spec).apply(p, x, engine='oracle'))
  return run(params, images).features


def assert_same(found, expected, **limits):
  for sensor, y in expected.items():
    np.testing.assert_allclose(found[sensor], y, **limits)


@pytest.mark.parametrize('gate', ['normalised', 'prob'])
def test_an_upcycled_ringmoe_computes_what_the_dense_one_does(gate):
  """Also with gates of probabilities: the norm after the FFN undoes them."""
  tensors = torch_models.swin_v2()
  dense = tiny_models.ringmoe_spec(specialised=0, collaborative=0)
  routed = tiny_models.ringmoe_spec(gate=gate)
  want = tiny_models.filled(tensors, 'timm_swinv2', dense).params
  have = tiny_models.filled(tensors, 'timm_swinv2', routed).params
  assert have['stage_0/blocks/ffn/specialised/w_in'].shape == (1, 2, 2, 4, 8)
  assert_same(features(routed, have, 8), features(dense, want, 8), **SAME)


@pytest.mark.parametrize('start', ['zeros', 'initialised'])
def test_an_upcycled_mapex_computes_what_the_dense_one_does(start):
  """Where routers are zeros; as initialised, up to the gates of its tokens."""
  dense = tiny_models.mapex_spec(moe_every=0, experts=())
  routed = tiny_models.mapex_spec(shared=1)
  same = ('router_bias', 'opt', 'ms')  # Vectors of the sensors.
  zeros = (*same, 'router') if start == 'zeros' else same
  want, have = (
    tiny_models.filled(torch_models.vit(), 'timm_vit', spec, zeros=zeros)
    for spec in (dense, routed)
  )
  limits = SAME if start == 'zeros' else dict(atol=GATED, rtol=0)
  found = features(routed, have.params, 8)
  expected = features(dense, want.params, 8)
  assert_same(found, expected, **limits)


def test_a_partition_leaves_one_expert_and_so_no_gate():
  spec = tiny_models.mapex_spec(conditioning='partition', experts=(2,))
  made = tiny_models.filled(torch_models.vit(), 'timm_vit', spec)
  w = torch_models.vit()['blocks.1.mlp.fc2.weight'].T
  for expert in made.params['run_0/last/ffn/routed/w_out'][0]:
    np.testing.assert_allclose(expert, w, rtol=1e-6)


def test_an_upcycled_skysense_computes_what_the_dense_one_does():
  """Swin stages from one source, then stage 2 from another onto it."""
  swin = torch_models.swin_v2(depths=(1, 1, 2, 1), heads=(1, 2, 4, 8))
  vit = torch_models.vit(dim=16, grid=2)

  def both(spec):
    first = tiny_models.filled(swin, 'timm_swinv2', spec, zeros='router')
    last = fill.fill(
      vit,
      source='timm_vit',
      spec=spec,
      initial=trees.unflatten(first.params),
    )
    return first, last

  dense = tiny_models.skysense_spec(experts=0)
  routed = tiny_models.skysense_spec(moe_layers=2)
  first, want = both(dense)
  _, have = both(routed)
  # Stage 3 is no source's; give both the same.
  shared = {n: x for n, x in want.params.items() if n.startswith('stage_3')}
  params = have.params | {n: x for n, x in shared.items() if n in have.params}
  ffn = {n: x for n, x in shared.items() if '/ffn/' in n}
  for name, x in ffn.items():
    leaf = name.rsplit('/', 1)[1]
    at = next(n for n in params if n.startswith('stage_3') and n.endswith(leaf))
    scale = 4.0 if leaf in ('w_out', 'b_out') else 1.0
    params[at] = scale * np.broadcast_to(x[:, None], params[at].shape)
  assert_same(
    features(routed, params, 32), features(dense, want.params, 32), **SAME
  )
  reasons = {row.how for row in first.report.with_status('skipped')}
  assert any('pre-norm' in reason for reason in reasons)
  np.testing.assert_array_equal(
    want.params['stage_1/merge/kernel'], first.params['stage_1/merge/kernel']
  )


def test_all_four_stages_of_a_swin_where_the_model_has_them():
  spec = tiny_models.skysense_spec(global_attention=False)
  swin = torch_models.swin_v2(depths=(1, 1, 2, 1), heads=(1, 2, 4, 8))
  report = tiny_models.filled(swin, 'timm_swinv2', spec).report
  report.check()
  assert not report.with_status('skipped')
  assert {row.name.rsplit('/')[-1] for row in report.at_init} == {'router'}


def test_layer_scale_goes_into_what_it_scales():
  tensors = torch_models.vit(scaled=True)
  spec = tiny_models.mapex_spec(moe_every=0, experts=())
  found = tiny_models.filled(tensors, 'dinov2', spec)
  w, scale = tensors['blocks.0.attn.proj.weight'], tensors['blocks.0.ls1.gamma']
  out = found.params['run_0/last/attention/out/kernel'][0]
  np.testing.assert_allclose(out, w.T * scale, rtol=1e-6)
  bias = found.params['run_0/last/ffn/b_out'][1]
  want = tensors['blocks.1.mlp.fc2.bias'] * tensors['blocks.1.ls2.gamma']
  np.testing.assert_allclose(bias, want, rtol=1e-6)
  rows = {row.name: row for row in found.report.tensors}
  assert rows['blocks.0.ls1.gamma'].status == 'adapted'
  assert 'layer scale' in rows['blocks.0.attn.proj.weight'].how


def test_positions_are_resized_as_their_authors_do(monkeypatch):
  spec = tiny_models.skysense_spec(moe_layers=1, image_sizes=(64,))
  made = tiny_models.filled(torch_models.vit(dim=16, grid=2), 'mae', spec)
  assert made.params['stage_2/positions/opt'].shape == (8, 8, 16)
  rows = {row.name: row for row in made.report.parameters}
  assert 'resized to 8 x 8, bicubic' in rows['stage_2/positions/opt'].how
  other = tiny_models.filled(torch_models.vit(dim=16, grid=2), 'timm_vit', spec)
  table = other.params['stage_2/positions/opt']
  assert not np.array_equal(table, made.params['stage_2/positions/opt'])


def test_complex_radar_starts_by_itself():
  spec = tiny_models.ringmoe_spec(sensors=('opt', 'sar_l1'), channels=(3, 8))
  report = tiny_models.filled(
    torch_models.swin_v2(), 'timm_swinv2', spec
  ).report
  rows = {row.name: row for row in report.parameters}
  assert rows['embed/sar_l1/kernel'].how.startswith('real and imaginary')
  assert rows['embed/opt/kernel'].sources == ('patch_embed.proj.weight',)


def test_nothing_is_lost():
  """Parameters have the model's names and shapes, tensors one row each."""
  tensors, spec = torch_models.swin_v2(), tiny_models.ringmoe_spec()
  found = tiny_models.filled(tensors, 'timm_swinv2', spec, noise=0.01)
  abstract = trees.flatten(build.build(spec).abstract)
  assert {n: x.shape for n, x in found.params.items()} == {
    n: x.shape for n, x in abstract.items()
  }
  assert [row.name for row in found.report.tensors] == list(tensors)
  assert [row.name for row in found.report.parameters] == list(abstract)
  found.report.check()


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'depths': (2, 1)}, 'stacks 2 blocks, the source has 1.*model.depths'),
    ({'heads': (2, 2)}, 'config.model.heads'),
    ({'embed_dim': 8}, 'config.model'),
    ({'patch_size': 1, 'image_size': 4}, 'model.patch_size'),
    ({'mlp_ratio': 4}, 'config.model.mlp_ratio'),
    ({'attention': 'v1_bias'}, "'v2_cosine'"),
  ],
)
def test_another_architecture_is_refused_by_its_key(changes, message):
  with pytest.raises(ValueError, match=message):
    tiny_models.filled(
      torch_models.swin_v2(), 'timm_swinv2', tiny_models.ringmoe_spec(**changes)
    )


def test_blocks_that_the_target_lacks_are_not_dropped_in_silence():
  tensors = torch_models.swin_v2(depths=(2, 1))
  report = tiny_models.filled(
    tensors, 'timm_swinv2', tiny_models.ringmoe_spec()
  ).report
  with pytest.raises(ValueError, match=r'unexplained.*layers.0.blocks.1'):
    report.check()


def test_a_family_without_a_place():
  with pytest.raises(ValueError, match='vit model.*RingMoESpec.*timm_swinv2'):
    tiny_models.filled(
      torch_models.vit(), 'timm_vit', tiny_models.ringmoe_spec()
    )


def test_what_one_does_not_want_is_left_out():
  """Such as patches of another size."""
  tensors = torch_models.vit(patch=2)
  spec = tiny_models.mapex_spec()
  with pytest.raises(ValueError, match='config.model.patch_size'):
    tiny_models.filled(tensors, 'timm_vit', spec)
  report = tiny_models.filled(
    tensors, 'timm_vit', spec, skip=r'patch_embed\..*'
  ).report
  report.check()
  assert 'embed/opt/kernel' in {row.name for row in report.at_init}
  skipped = {row.name: row.how for row in report.with_status('skipped')}
  assert skipped['patch_embed.proj.bias'] == 'as --skip asks'


def test_blocks_of_a_unit_are_those_of_the_source():
  """Units of two blocks, stacked: 0 and 2 are plain, 1 and 3 have experts."""
  tensors = torch_models.vit(depth=5)
  spec = tiny_models.mapex_spec(depth=5, experts=(2, 2))
  found = tiny_models.filled(tensors, 'timm_vit', spec).params
  for unit, (plain, last) in enumerate(((0, 1), (2, 3))):
    for name, block in (('plain_0', plain), ('last', last)):
      np.testing.assert_array_equal(
        found[f'run_0/{name}/attention/out/kernel'][unit],
        tensors[f'blocks.{block}.attn.proj.weight'].T,
      )
    np.testing.assert_array_equal(
      found['run_0/last/ffn/routed/w_in'][unit, 1],
      tensors[f'blocks.{last}.mlp.fc1.weight'].T,
    )
  np.testing.assert_array_equal(
    found['run_1/last/ffn/w_in'][0], tensors['blocks.4.mlp.fc1.weight'].T
  )


def test_three_branches_of_a_ringmoe_give_a_third_each():
  tensors = torch_models.swin_v2()
  spec = tiny_models.ringmoe_spec(gate='normalised')
  found = tiny_models.filled(tensors, 'timm_swinv2', spec).params
  third = tensors['layers.0.blocks.0.mlp.fc2.weight'].T / 3
  ffn = 'stage_0/blocks/ffn'
  for got in (
    found[f'{ffn}/shared/w_out'][0],
    found[f'{ffn}/collaborative/w_out'][0, 1],
    found[f'{ffn}/specialised/w_out'][0, 1, 0],
  ):
    np.testing.assert_allclose(got, third, rtol=1e-6)
