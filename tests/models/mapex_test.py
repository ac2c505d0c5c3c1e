"""MAPEX-style: counts, runs of blocks, the union of sensors."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.models import accounting
from rsfm_jax.models import build
from rsfm_jax.models import mapex
from rsfm_jax.models import mapex_spec
from rsfm_jax.models import sizes

REORDERED = 2e-5
# Not in the order of the alphabet, in which a jitted dict comes back.
SPEC = mapex_spec.MapexSpec(
  sensors=('rgb', 'nir', 'sar'),
  channels=(3, 1, 2),
  image_size=8,
  patch_size=4,
  embed_dim=8,
  depth=5,
  heads=2,
  mlp_ratio=2.0,
  experts=(3, 1),
  decoder_dim=8,
  decoder_depth=1,
  decoder_heads=2,
)


@functools.cache
def model(**changes):
  """(apply, params) of a spec with weights that make decisions clear."""
  made = build.build(dataclasses.replace(SPEC, **changes))
  rng = np.random.default_rng(0)

  def draw(name, leaf):
    value = 0.4 * rng.standard_normal(leaf.shape)
    value *= 20 if name.endswith('router') else 1
    return jnp.asarray(value + name.endswith('scale'), leaf.dtype)

  run = jax.jit(made.apply, static_argnames=('mode', 'engine'))
  return run, trees.map_named(draw, made.abstract)


def images(size=8, batch=2, seed=0):
  rng = np.random.default_rng(seed)
  return {
    s: jnp.asarray(rng.standard_normal((batch, size, size, c)), 'float32')
    for s, c in zip(SPEC.sensors, SPEC.channels, strict=True)
  }


def close(a, b, limit=REORDERED):
  np.testing.assert_allclose(a, b, rtol=limit, atol=limit)


def base(keep=6, **changes):
  spec = sizes.mapex_spec('base', experts=(keep,) * 6, **changes)
  return accounting.report(spec)['parameters']


@pytest.mark.parametrize(
  ('keep', 'millions', 'cut'),
  [
    (6, 227.5, None),
    (4, 170.8, 24.9),
    (3, 142.5, 37.4),
    (2, 114.1, 49.8),
    (1, 85.8, 62.3),
  ],
)
def test_the_fact_sheets_table_is_the_trunk_and_the_rest_of_a_vit_b16(
  keep, millions, cut
):
  count = lambda keep: base(keep)['trunk'] + accounting.VIT_B16_REST
  assert round(count(keep) / 1e6, 1) == millions
  if cut is not None:
    assert round(100 * (1 - count(keep) / count(6)), 1) == cut


def test_exact_counts_at_base():
  full = base()
  assert full['trunk'] == 12 * 7_087_872 + 2 * 768 + 30 * 4_722_432
  assert full['routers'] == 6 * (768 * 6 + 6 * 6)
  assert full['tokenizers'] == 12 * 256 * 768 + 6 * 2 * 768
  assert full['encoder'] == sum(
    full[part] for part in ('trunk', 'routers', 'tokenizers')
  )
  # One expert is a plain FFN: no router is left.
  assert base(1)['routers'] == 0
  assert base(conditioning='router')['routers'] == 6 * 6 * 768 * 6
  large = accounting.report(sizes.mapex_spec('large'))['parameters']
  assert round((large['trunk'] - 60 * 8_393_728) / 1e6) == 302  # ViT-L.


@pytest.mark.parametrize('size', list(sizes.MAPEX))
def test_every_size_runs_on_its_own_images(size):
  spec = sizes.mapex_spec(size)
  made = build.build(spec)
  side = spec.image_size
  given = {
    s: jax.ShapeDtypeStruct((2, side, side, c), jnp.float32)
    for s, c in zip(spec.sensors, spec.channels, strict=True)
  }
  out = jax.eval_shape(made.apply, made.abstract, given)
  assert out.features['s1_vv'].shape == (2, *(spec.grid,) * 2, spec.embed_dim)
  assert out.aux['s2_rgb'].chosen.shape == (len(spec.experts), 6)


def test_a_spec_survives_json():
  one = dataclasses.replace(
    SPEC,
    experts=(3, 3),
    conditioning='partition',
    partition=(((0,), (1, 2), (2,)),) * 2,
  )
  text = json.dumps(one.to_json())
  assert build.spec_from_json(json.loads(text)) == one


def test_alike_units_are_one_run_and_counts_may_differ():
  spec = dataclasses.replace(SPEC, depth=11, experts=(3, 3, 1, 2, 2))
  found = [
    (r.name, r.units, r.size, r.first, r.experts) for r in mapex_spec.runs(spec)
  ]
  assert found == [
    ('run_0', 2, 2, 0, 3),
    ('run_1', 1, 2, 4, 1),
    ('run_2', 2, 2, 6, 2),
    ('run_3', 1, 1, 10, 1),
  ]
  assert spec.routed == (1, 3, 7, 9)
  assert spec.depths == (4, 2, 4, 1) and sum(spec.depths) == 11
  dense = dataclasses.replace(SPEC, moe_every=0, experts=())
  assert [r.units for r in mapex_spec.runs(dense)] == [5]
  assert sizes.mapex_spec('base').depths == (4, 2, 4, 2)


def test_experts_are_dealt_out_in_turn():
  spec = dataclasses.replace(SPEC, conditioning='partition', experts=(5, 2))
  assert spec.partition_of(0) == ((0, 3), (1, 4), (2,))
  assert spec.partition_of(1) == ((0,), (1,), (0,))
  assert spec.router(0).allowed[1] == (False, True, False, False, True)


def test_shapes_of_everything_that_comes_out():
  run, params = model()
  out = run(params, images())
  assert {s: x.shape for s, x in out.features.items()} == {
    s: (2, 2, 2, 8) for s in SPEC.sensors
  }
  assert {k: v['sar'].shape for k, v in out.intermediates.items()} == {
    name: (2, 2, 2, 8) for name in ('embed', 'stage_0', 'stage_1', 'stage_2')
  }
  # The last level is the features before the norm.
  last = out.intermediates['stage_2']['sar']
  flat = last - last.mean(-1, keepdims=True)
  flat = flat / jnp.sqrt(last.var(-1, keepdims=True) + 1e-6)
  norm = params['norm']
  close(
    out.features['sar'],
    flat * norm['scale'][None, None, None] + norm['bias'][None, None, None],
    1e-4,
  )
  np.testing.assert_allclose(out.aux['nir'].tokens, [2 * 4])


def test_engines_agree_and_training_without_noise_is_evaluation():
  run, params = model(capacity_factor=9.0)
  out = run(params, images())
  for how in (
    dict(engine='oracle'),
    dict(engine='capacity'),
    dict(mode='train'),
  ):
    close(
      run(params, images(), **how).features['nir'], out.features['nir'], 1e-4
    )


def test_one_expert_is_a_plain_ffn_of_the_same_weights():
  """A router over one expert has the gate 1."""
  run, params = model(experts=(2, 1))
  small, _ = model(experts=(1, 1))
  flat = trees.flatten(params)
  routed = 'run_0/last/ffn/routed'
  cut, rest = {}, {}
  for name, leaf in flat.items():
    if name.startswith(routed) and not name.endswith('router'):
      first = leaf[:, :1]
      cut[name] = jnp.concatenate([first, first], 1)  # Both experts alike.
      rest[f'run_0/last/ffn/{name.rpartition("/")[2]}'] = first[:, 0]
    elif name.endswith(('router', 'router_bias')):
      cut[name] = jnp.zeros_like(leaf)
    else:
      cut[name] = rest[name] = leaf
  # Units of one kind are stacked: two runs become one.
  second = [n for n in rest if n.startswith('run_1/')]
  for name in second:
    first = 'run_0/' + name.removeprefix('run_1/')
    rest[first] = jnp.concatenate([rest[first], rest.pop(name)])
  rest = {n.replace('run_2/', 'run_1/'): v for n, v in rest.items()}
  scaled = {
    n: v * 0.5 if n in ('run_0/last/ffn/w_out', 'run_0/last/ffn/b_out') else v
    for n, v in rest.items()
  }
  for name in ('w_out', 'b_out'):  # Only of the block that had two.
    key = f'run_0/last/ffn/{name}'
    scaled[key] = jnp.concatenate([scaled[key][:1], rest[key][1:]])
  want = run(trees.unflatten(cut), images()).features
  got = small(trees.unflatten(scaled), images()).features
  for sensor in SPEC.sensors:
    close(got[sensor], want[sensor], 1e-4)


def test_any_subset_of_sensors_and_their_order_do_not_matter():
  run, params = model()
  given = images()
  some = {s: given[s] for s in ('sar', 'rgb')}
  out = run(params, some)
  assert list(out.features) and set(out.features) == {'sar', 'rgb'}
  # As if the third were there, with no token that counts.
  valid = {'nir': jnp.zeros((2, 2, 2), bool)}
  every = run(params, given, tokens_valid=valid)
  for sensor in some:
    close(every.features[sensor], out.features[sensor])
  np.testing.assert_allclose(every.aux['nir'].tokens, [0])
  np.testing.assert_allclose(every.aux['sar'].chosen, out.aux['sar'].chosen)


def test_sensors_see_each_other():
  run, params = model()
  given = images()
  changed = given | {'nir': given['nir'] + 1}
  a, b = run(params, given).features, run(params, changed).features
  assert float(jnp.abs(a['sar'] - b['sar']).max()) > 1e-3


def test_what_stands_where_nothing_counts_changes_no_bit():
  run, params = model()
  given = images()
  valid = {'rgb': jnp.ones((2, 2, 2), bool).at[0, 1].set(False)}
  spoilt = given['rgb'].at[0, 4:].set(jnp.nan)
  gradient = jax.jit(
    jax.grad(
      lambda p, x: sum(
        jnp.where(
          valid.get(s, jnp.ones(f.shape[:3], bool))[..., None], f, 0
        ).sum()
        for s, f in run(p, x, tokens_valid=valid).features.items()
      )
    )
  )
  want, got = (
    gradient(params, given | {'rgb': image}) for image in (given['rgb'], spoilt)
  )
  jax.tree.map(np.testing.assert_array_equal, got, want)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(want))


def test_larger_images_stay_within_the_positions_that_were_trained():
  run, params = model()
  out = run(params, images(size=16))
  assert out.features['rgb'].shape == (2, 4, 4, 8)


def masking(batch=2, tokens=12, kept=5, seed=0):
  noise = np.random.default_rng(seed).random((batch, tokens))
  return mapex.Masking(
    jnp.asarray(np.argsort(noise, 1), 'int32'),
    jnp.asarray(np.arange(kept)[None] < np.array([[kept], [kept - 2]])),
  )


def test_removed_tokens_change_no_bit_of_what_is_made():
  run, params = model()
  given, chosen = images(), masking()
  made = run(params, given, masking=chosen).reconstruction
  assert made['rgb'].shape == (2, 2, 2, 48)
  number = np.array([5, 3])
  place = np.argsort(np.asarray(chosen.order), 1)
  hidden = (place >= number[:, None]).reshape(2, 3, 2, 2)
  for i, sensor in enumerate(SPEC.sensors):
    pixels = np.repeat(np.repeat(hidden[:, i], 4, 1), 4, 2)[..., None]
    given[sensor] = jnp.where(pixels, 77.0, given[sensor])
  again = run(params, given, masking=chosen).reconstruction
  jax.tree.map(np.testing.assert_array_equal, again, made)


def test_the_order_of_kept_tokens_does_not_matter():
  run, params = model()
  chosen = masking()
  order = np.array(chosen.order)
  order[:, :3] = order[:, [2, 0, 1]]
  order[:, 5:] = order[:, 5:][:, ::-1]
  a = run(params, images(), masking=chosen).reconstruction
  b = run(
    params, images(), masking=chosen._replace(order=jnp.asarray(order))
  ).reconstruction
  for sensor in SPEC.sensors:
    close(b[sensor], a[sensor], 1e-4)


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (dict(channels=(3, 1)), 'model.channels'),
    (dict(image_size=10), 'model.image_size=10'),
    (dict(experts=(3,)), r'model.experts=\(3,\).*2 blocks'),
    (dict(experts=(3, 0)), 'at least 1'),
    (dict(conditioning='biased'), 'Did you mean "bias"'),
    (dict(partition=(((0,),) * 3,) * 2), "conditioning='partition'"),
    (
      dict(conditioning='partition', partition=(((7,),) * 3,) * 2),
      'experts 0..2',
    ),
    (dict(embed_dim=6), 'multiples of 4'),
    (dict(drop_path=1.0), 'model.drop_path'),
  ],
)
def test_a_spec_that_does_not_fit_is_named_by_its_key(change, words):
  with pytest.raises(ValueError, match=words):
    dataclasses.replace(SPEC, **change)


@pytest.mark.parametrize(
  ('given', 'words'),
  [
    ({}, 'No images'),
    ({'rgbs': (2, 8, 8, 3)}, 'Did you mean "rgb"'),
    ({'rgb': (2, 8, 8, 4)}, 'the 3 bands'),
    ({'rgb': (2, 8, 10, 3)}, '8 x 10'),
    ({'rgb': (2, 8, 8, 3), 'nir': (1, 8, 8, 1)}, 'same samples'),
  ],
)
def test_images_that_do_not_fit_are_named(given, words):
  made = build.build(SPEC)
  batch = {s: jax.ShapeDtypeStruct(x, jnp.float32) for s, x in given.items()}
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(made.apply, made.abstract, batch)
