"""One trunk for every sensor: counts, switches of a call, who sees what."""

import dataclasses
import functools
import json

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.models import sizes
from rsfm_jax.models import skysense_v2
from rsfm_jax.models import skysense_v2_spec as spec_lib
from rsfm_jax.moe import expert_parallel
from rsfm_jax.sharding import mesh as meshes

REORDERED = 2e-4
HR, MS, SAR = spec_lib.SENSORS

SPEC = skysense_v2.SkySenseV2Spec(
  image_sizes=(64, 4, 4),
  patch_size=2,
  embed_dim=8,
  depths=(1, 2, 2, 1),
  heads=(1, 1, 2, 2),
  window=4,
  mlp_ratio=2.0,
  prompts=2,
  experts=3,
  moe_layers=2,
  fusion_dim=8,
  fusion_depth=1,
  fusion_heads=2,
  prototypes_dim=4,
  init_std=None,
)
# Quickly compiled, for what happens around the blocks.
PLAIN = dict(fusion_depth=0, experts=0, depths=(1, 1, 1, 1))


class Frozen(dict):
  """A dictionary that jit can hash."""

  def __hash__(self):
    return hash(tuple(self.items()))


@functools.cache
def model(**changes):
  """A jitted `apply` and parameters of a size at which all of them matter."""
  made = build.build(dataclasses.replace(SPEC, **changes))
  apply = lambda params, images, how=(), **arrays: made.apply(
    params, images, **dict(how), **arrays
  )
  rng = np.random.default_rng(0)

  def draw(name, leaf):
    value = 0.3 * rng.standard_normal(leaf.shape)
    # A decision between experts must not hang on a rounding.
    value *= 20 if name.endswith('router') else 1
    return jnp.asarray(value + name.endswith('scale'), leaf.dtype)

  run = jax.jit(apply, static_argnames='how')
  return run, trees.map_named(draw, made.abstract)


def images(sizes=(64, 4, 4), dates=(1, 2, 2), batch=2, seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), 'float32')
  return {
    s: draw(batch, t, size, size, c)
    for s, t, size, c in zip(
      SPEC.sensors, dates, sizes, SPEC.channels, strict=True
    )
  }


def shapes(tree):
  return {name: tuple(x.shape) for name, x in tree.items()}


def shape_of(batch, **how):
  """Shapes of features for shapes of images; nothing is computed."""
  made = build.build(SPEC)
  given = {s: jax.ShapeDtypeStruct(x, jnp.float32) for s, x in batch.items()}
  run = lambda p, x: made.apply(p, x, fuse=False, **how).features
  return shapes(jax.eval_shape(run, made.abstract, given))


def close(a, b, limit=REORDERED):
  np.testing.assert_allclose(a, b, rtol=limit, atol=limit)


def size_of(params, *words):
  return sum(
    leaf.size
    for name, leaf in trees.flatten(params).items()
    if all(word in f'/{name}' for word in words)
  )


def huge(**changes):
  return build.build(sizes.skysense_v2_spec('huge', **changes)).abstract


def test_exact_counts_at_huge():
  moe, dense = huge(), huge(experts=0)
  layers = {'/stage_2/run_1': 4, '/stage_3/run_0': 2}
  expert = {
    run: sum(
      size_of(moe, f'{run}/ffn/routed/{leaf}')
      for leaf in ('w_in', 'b_in', 'w_out', 'b_out')
    )
    // (8 * count)
    for run, count in layers.items()
  }
  assert list(expert.values()) == [15_866_752, 63_452_928]
  assert size_of(moe, 'router') == 90_112
  assert trees.count(moe) - trees.count(dense) == 1_332_700_160
  tokenizers = [size_of(moe, f'/embed/{s}/') for s in SPEC.sensors]
  assert tokenizers == [17_952, 57_376, 12_320]
  merges = [size_of(moe, f'/stage_{i}/merge/kernel') for i in (1, 2, 3)]
  assert merges == [991_232, 3_964_928, 15_859_712]
  assert size_of(moe, '/prompts/') == 50_688


def test_the_dense_backbone_is_three_parts_in_ten_thousand_below_the_paper():
  """661.40 M in the paper's Table 9; no reading of its text gives that."""
  dense = huge(experts=0)
  outside = ('/embed/', '/fusion/', '/geo/', '/prompts/')
  backbone = trees.count(dense) - sum(size_of(dense, o) for o in outside)
  assert backbone == 661_184_706
  assert abs(backbone / 661.40e6 - 1) < 4e-4
  # Three tables of 32 x 32 and of 16 x 16 places are a guess.
  assert size_of(dense, '/positions/') == 6_488_064


@pytest.mark.parametrize('size', list(sizes.SKYSENSE_V2))
def test_every_size_runs_on_its_own_images(size):
  spec = sizes.skysense_v2_spec(size)
  made = build.build(spec)
  given = {
    s: jax.ShapeDtypeStruct((2, 3, side, side, c), jnp.float32)
    for s, side, c in zip(
      spec.sensors, spec.image_sizes, spec.channels, strict=True
    )
  }
  out = jax.eval_shape(made.apply, made.abstract, given)
  grid = {'tiny': 4}.get(size, 16)
  assert out.fused.shape == (2, grid, grid, spec.fusion_dim)
  assert out.features[MS].shape == (2, 3, 4, 4, 8 * spec.embed_dim)
  assert out.aux[MS].chosen.shape == (spec.moe_layers, spec.experts)


def test_shapes_of_everything_that_comes_out():
  run, params = model()
  out = run(params, images())
  assert shapes(out.features) == {
    HR: (2, 1, 4, 4, 64),
    MS: (2, 2, 2, 2, 64),
    SAR: (2, 2, 2, 2, 64),
  }
  assert out.fused.shape == (2, 4, 4, 8)
  assert {k: v[HR].shape[2:] for k, v in out.intermediates.items()} == {
    'embed': (32, 32, 8),
    'stage_0': (32, 32, 8),
    'stage_1': (16, 16, 16),
    'stage_2': (8, 8, 32),
    'stage_3': (4, 4, 64),
  }
  assert out.aux[SAR].demand.load.shape == (2, 3)
  np.testing.assert_allclose(out.aux[SAR].tokens, [4 * (4 + 2)] * 2)


def test_images_without_dates_are_series_of_one():
  run, params = model()
  given = images(dates=(1, 1, 1))
  flat = run(params, {s: x[:, 0] for s, x in given.items()})
  series = run(params, given)
  for sensor in given:
    close(flat.features[sensor], series.features[sensor][:, 0])
  close(flat.fused, series.fused)


def test_sensors_and_dates_do_not_see_each_other_before_the_fusion():
  run, params = model()
  given = images()
  whole = run(params, given, how=(('fuse', False),))
  assert whole.fused is None
  alone = run(params, {MS: given[MS][:, 1:]}, how=(('fuse', False),))
  close(whole.features[MS][:, 1:], alone.features[MS])


@pytest.mark.parametrize('chosen', [(HR,), (MS, SAR)])
def test_any_subset_of_the_sensors_is_fused(chosen):
  run, params = model()
  given = images()
  out = run(params, {s: given[s] for s in chosen})
  side = 4 if HR in chosen else 2
  assert out.fused.shape == (2, side, side, 8)
  assert np.isfinite(out.fused).all()
  assert set(out.features) == set(out.aux) == set(chosen)


@pytest.mark.parametrize(
  ('reduces', 'side'),
  [((True,) * 3, 4), ((True, True, False), 8), ((False,) * 3, 32)],
)
def test_one_set_of_weights_runs_with_any_reductions(reduces, side):
  assert shape_of({HR: (2, 64, 64, 3)}, reduces={HR: reduces}) == {
    HR: (2, side, side, 64)
  }


def test_a_constant_image_gives_the_same_with_and_without_reductions():
  """But for positions, which know the size of the grid."""
  run, params = model(**PLAIN)
  params = trees.map_named(
    lambda name, w: 0 * w if '/positions/' in name else w, params
  )
  pixel = jax.random.normal(jax.random.key(0), (1, 1, 1, 3))
  image = {HR: jnp.broadcast_to(pixel, (1, 16, 16, 3))}
  features = [
    run(
      params,
      image,
      how=(('reduces', Frozen({HR: (r,) * 3})), ('prompts', 'drop')),
    ).features[HR]
    for r in (True, False)
  ]
  assert features[0].shape[1:3] == (1, 1)
  close(
    jnp.broadcast_to(features[0], features[1].shape), features[1], limit=5e-3
  )


@pytest.mark.parametrize('size', [(32, 32), (128, 64), (16, 48)])
def test_other_sizes_than_the_tables_were_made_for(size):
  h, w = size
  batch = {HR: (2, h, w, 3), MS: (2, 3, h // 8, w // 8, 10)}
  assert shape_of(batch) == {
    HR: (2, h // 16, w // 16, 64),
    MS: (2, 3, h // 16, w // 16, 64),
  }


def test_dropping_prompts_changes_values_and_no_shape():
  run, params = model(**PLAIN)
  keep, drop = (
    run(params, images(), how=(('prompts', p),)) for p in ('keep', 'drop')
  )
  for sensor in SPEC.sensors:
    a, b = keep.features[sensor], drop.features[sensor]
    assert a.shape == b.shape
    assert float(jnp.abs(a - b).max()) > 1e-3


@pytest.mark.parametrize('experts', [1, (1, 1)])
def test_one_expert_is_the_dense_model(experts):
  dense, one = (
    build.build(dataclasses.replace(SPEC, experts=n)) for n in (0, experts)
  )
  assert trees.flatten(one.abstract) == trees.flatten(dense.abstract)
  assert one.spec.routed == {}


def test_layers_may_have_different_numbers_of_experts():
  """Blocks of equal numbers are one stack; one expert is a dense FFN."""
  changes = dict(fusion_depth=0, depths=(1, 1, 3, 1), moe_layers=4)
  run, params = model(experts=(3, 1, 1, 2), **changes)
  spec = dataclasses.replace(SPEC, experts=(3, 1, 1, 2), **changes)
  assert spec.routed == {2: 3, 5: 2}
  assert [r.name for r in spec_lib.runs(spec, 2)] == ['run_0', 'run_1']
  assert params['stage_2']['run_0']['ffn']['routed']['w_in'].shape[:2] == (1, 3)
  assert params['stage_2']['run_1']['ffn']['w_in'].shape[0] == 2
  out = run(params, images())
  for stats in out.aux.values():
    assert stats.chosen.shape == (2, 3)
    assert float(stats.chosen[1, 2]) == 0
    np.testing.assert_allclose(stats.chosen.sum(-1), stats.tokens, rtol=1e-6)
  same = spec_lib.SkySenseV2Spec.from_json(
    json.loads(json.dumps(spec.to_json()))
  )
  assert same == spec


@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_what_stands_at_invalid_dates_changes_no_bit(mode):
  run, params = model()
  given = images()
  valid = {
    MS: jnp.array([[True, False], [False, False]]),
    SAR: jnp.array([[False, True], [True, True]]),
  }
  days = {s: jnp.array([[3, -1], [200, 364]]) for s in (MS, SAR)}

  def outcome(filling):
    filled = given | {
      s: jnp.where(v[..., None, None, None], given[s], filling)
      for s, v in valid.items()
    }
    out = run(
      params,
      filled,
      how=(('mode', mode),),
      date_valid=valid,
      days=days,
      key=jax.random.key(0),
    )
    counted = [out.features[s][v] for s, v in valid.items()]
    return out.fused, counted, out.aux

  clean, dirty = outcome(0.0), outcome(jnp.nan)
  for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
    assert np.isfinite(a).all()
    np.testing.assert_array_equal(a, b)
  # Tokens of the one date that counts, with prompts, in both MoE layers.
  np.testing.assert_allclose(clean[2][MS].tokens, [6, 6])


def test_prototypes_enter_the_fused_features_of_samples_that_have_them():
  run, params = model()
  prototypes = jnp.zeros((2, 3, 4)).at[0].set(1.0)
  plain = run(params, images())
  out = run(params, images(), prototypes=prototypes)
  np.testing.assert_array_equal(out.fused[1], plain.fused[1])
  assert float(jnp.abs(out.fused[0] - plain.fused[0]).max()) > 1e-3


def test_training_is_noisy_by_the_key_and_evaluation_is_not():
  run, params = model(drop_path=0.3, gate_noise=30.0)
  fused = lambda mode, key: (
    run(params, images(), how=(('mode', mode),), key=jax.random.key(key)).fused
  )
  np.testing.assert_array_equal(fused('train', 1), fused('train', 1))
  assert float(jnp.abs(fused('train', 1) - fused('train', 2)).max()) > 1e-3
  np.testing.assert_array_equal(fused('eval', 1), fused('eval', 2))


@pytest.mark.parametrize(
  'changes',
  [
    dict(global_attention=False, prompts=0, moe_placement='spread'),
    dict(depths=(1, 1, 1, 1)),
  ],
)
def test_every_parameter_gets_a_gradient(changes):
  changes |= dict(capacity_factor=3.0, prototypes_dim=4)
  made = build.build(dataclasses.replace(SPEC, **changes))
  _, params = model(**changes)
  # Spread evenly, experts also stand in stages of windows.
  if not made.spec.global_attention:
    assert 'routed' in params['stage_1']['run_1']['ffn']

  def loss(params):
    out = made.apply(
      params,
      images(),
      mode='train',
      key=jax.random.key(0),
      days={s: jnp.array([[0, 100], [200, 364]]) for s in (MS, SAR)},
      prototypes=jnp.cos(jnp.arange(24.0)).reshape(2, 3, 4),
    )
    return jnp.square(out.fused).mean()

  gradient = jax.jit(jax.grad(loss))(params)
  norms = {n: np.abs(g).max() for n, g in trees.flatten(gradient).items()}
  assert np.isfinite(list(norms.values())).all()
  # Keys' biases cancel in the softmax.
  silent = [n for n, v in norms.items() if v == 0]
  assert [n for n in silent if not n.endswith('key/bias')] == []


def test_a_mesh_of_four_devices_gives_the_features_of_one():
  changes = dict(depths=(1, 1, 1, 1), experts=4, routing_groups=4)
  made = build.build(dataclasses.replace(SPEC, **changes))
  _, params = model(**changes)
  given = images(sizes=(16, 4, 4), batch=4)
  given[HR] = given[HR].repeat(4, -3).repeat(4, -2)
  mesh = meshes.make_mesh(data=2, expert=2, devices=jax.devices()[:4])

  def outcome(placement):
    run = lambda params: made.apply(
      params,
      given,
      mode='train',
      key=jax.random.key(0),
      placement=placement,
    )
    out = jax.jit(run)(params)
    return out.features, out.fused, out.aux

  apart = outcome(expert_parallel.Placement(mesh, 'exchange'))
  for a, b in zip(
    jax.tree.leaves(apart), jax.tree.leaves(outcome(None)), strict=True
  ):
    close(a, b, limit=1e-3)


def test_an_unseen_sensor_is_an_entry_of_the_spec():
  spec = dataclasses.replace(
    SPEC,
    sensors=(*SPEC.sensors, 'landsat9'),
    channels=(*SPEC.channels, 7),
    reduces=(*SPEC.reduces, (False, False, True)),
    image_sizes=(*SPEC.image_sizes, 8),
    **PLAIN,
  )
  made = build.build(spec)
  image = jax.ShapeDtypeStruct((1, 8, 8, 7), jnp.float32)
  out = jax.eval_shape(made.apply, made.abstract, {'landsat9': image})
  assert out.features['landsat9'].shape == (1, 2, 2, 64)
  before = trees.flatten(
    build.build(dataclasses.replace(SPEC, **PLAIN)).abstract
  )
  added = set(trees.flatten(made.abstract)) - set(before)
  assert added and all('/landsat9' in name for name in added)


def test_blocks_with_experts_are_the_last_or_spread_to_the_last():
  spec = sizes.skysense_v2_spec('huge')
  assert tuple(spec.routed) == (18, 19, 20, 21, 22, 23)
  spread = dataclasses.replace(spec, moe_placement='spread')
  assert tuple(spread.routed) == (3, 7, 11, 15, 19, 23)
  assert [r.name for r in spec_lib.runs(spec, 0)] == ['blocks']
  assert [r[1:] for r in spec_lib.runs(spec, 2)] == [
    (0, 14, 4, 1),
    (14, 4, 18, 8),
  ]
  assert [r[1:] for r in spec_lib.runs(spread, 1)] == [
    (0, 1, 2, 1),
    (1, 1, 3, 8),
  ]


def test_a_spec_survives_json():
  text = json.dumps(SPEC.to_json())
  assert build.spec_from_json(json.loads(text)) == SPEC
  with pytest.raises(ValueError, match='Did you mean "prompts"'):
    build.spec_from_json(SPEC.to_json() | {'prompt': 4})


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'image_sizes': (60, 4, 4)}, '60 px of opt.*multiple of 16'),
    ({'image_sizes': (64, 4)}, 'model.image_sizes.*one entry per sensor'),
    ({'image_sizes': (48, 4, 4)}, 'does not divide the finest'),
    ({'heads': (1, 1)}, 'model.heads.*4 entries'),
    ({'reduces': ((1, 2),) * 3}, 'model.reduces'),
    ({'moe_layers': 9}, 'model.moe_layers=9.*6 blocks'),
    ({'global_attention': False}, 'model.prompts=2'),
    ({'drop_path': 1.0}, 'model.drop_path=1.0'),
    ({'moe_placement': 'first'}, 'model.moe_placement'),
  ],
)
def test_a_spec_that_cannot_be_names_the_key(change, words):
  with pytest.raises(ValueError, match=words):
    dataclasses.replace(SPEC, **change)


@pytest.mark.parametrize(
  ('batch', 'how', 'words'),
  [
    ({HR: (1, 60, 64, 3)}, {}, 'opt: an image of 60 x 64.*multiple of 16 px'),
    ({HR: (1, 80, 80, 3)}, {}, 'opt, stage 1: .*20 x 20.*windows of 8'),
    ({MS: (1, 3, 4, 10)}, {}, '3 x 4 pixels.*multiple of 2 px'),
    ({MS: (1, 4, 4, 9)}, {}, 'the 10 bands'),
    ({'optical': (1, 64, 64, 3)}, {}, 'Did you mean "opt"'),
    ({}, {}, 'No images'),
    ({HR: (1, 64, 64, 3)}, {'prompts': 'none'}, 'prompts'),
    ({HR: (1, 64, 64, 3)}, {'reduces': {HR: (True,)}}, 'reduces of opt'),
    (
      {MS: (2, 3, 4, 4, 10)},
      {'date_valid': {MS: np.ones((2, 2), bool)}},
      'date_valid is .2, 2.*are .2, 3.',
    ),
  ],
)
def test_a_batch_that_does_not_fit_is_a_clear_error(batch, how, words):
  made = build.build(dataclasses.replace(SPEC, window=8))
  given = {s: jax.ShapeDtypeStruct(x, jnp.float32) for s, x in batch.items()}
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(lambda p, x: made.apply(p, x, **how), made.abstract, given)


def test_log_cpb_counts_in_the_windows_of_pre_training():
  spec = dataclasses.replace(SPEC, cpb_windows=(3, 2, 2, 2))
  made = nnx.eval_shape(
    lambda: skysense_v2.SkySenseV2(spec, key=jax.random.key(0))
  )
  stages = (made.stage_0, made.stage_1)
  found = tuple(s.blocks.attention.cpb.table_window for s in stages)
  assert found == (3, 2)
  with pytest.raises(ValueError, match=r'model.cpb_windows=\(3,\)'):
    dataclasses.replace(SPEC, cpb_windows=(3,))
