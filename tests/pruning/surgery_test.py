"""Keeping all changes no bit; what goes was of no use to those who stay."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.models import accounting
from rsfm_jax.models import build
from rsfm_jax.models import sizes
from rsfm_jax.pruning import keep as keep_lib
from rsfm_jax.pruning import layout
from rsfm_jax.pruning import surgery

# The same sums with other sizes of experts.
REORDERED = 1e-5
TWO_STAGES = dict(depths=(2, 2), heads=(1, 2))


def identical(a, b):
  a, b = trees.flatten(a), trees.flatten(b)
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def shapes(tree):
  return {n: tuple(x.shape) for n, x in trees.flatten(tree).items()}


def only(spec, sensors, **rows):
  """Everything but in the named layers ('routed_3')."""
  named = {name.replace('_', '/'): row for name, row in rows.items()}
  return keep_lib.explicit(named, spec, sensors)


def test_keeping_everything_is_the_same_model(subject, cut, system):
  """Not a copy: the arrays themselves, so that no bit can change."""
  spec, params, _ = subject(system)
  small, same = cut(spec, params)
  assert small == spec
  old, new = trees.flatten(params), trees.flatten(same)
  assert old.keys() == new.keys()
  assert all(new[name] is old[name] for name in old)


def test_fusion_and_all_parts_of_the_tiny_skysense_stay_whole():
  spec = sizes.skysense_v2_spec('tiny')
  source = trees.flatten(build.build(spec).abstract)
  small = surgery.plan(spec, source)
  assert small.spec == spec
  assert {n: leaf.pieces[0].origin for n, leaf in small.leaves.items()} == {
    n: n for n in source
  }
  assert all(len(leaf.pieces) == 1 for leaf in small.leaves.values())


def test_the_fusion_of_fewer_sensors_has_what_its_spec_asks_for():
  """Coarse series without the fine image need no upsampling any more."""
  spec = sizes.skysense_v2_spec('tiny')
  source = trees.flatten(build.build(spec).abstract)
  opt, *series = spec.sensors
  for kept in ((opt,), tuple(series)):
    small = surgery.plan(spec, source, sensors=kept)
    assert small.spec.sensors == kept
    for name, leaf in small.leaves.items():
      assert leaf.shape == tuple(source[name].shape)
      assert leaf.pieces[0].origin == name
    assert not any(n.startswith('fusion/up/') for n in small.leaves)


def test_sensors_that_stay_keep_all_their_bits(subject, forward, cut, system):
  spec, params, images = subject(system)
  kept = (spec.sensors[2], spec.sensors[0])
  small, less = cut(spec, params, sensors=kept)
  # In the order of the model, not of the request.
  assert small.sensors == (spec.sensors[0], spec.sensors[2])
  assert shapes(less) == shapes(build.build(small).abstract)
  for sensor in kept:  # Alone: sensors of one grid would share a pass.
    given = {sensor: images[sensor]}
    before, after = forward(spec, params, given), forward(small, less, given)
    np.testing.assert_array_equal(
      after.features[sensor], before.features[sensor]
    )
    if getattr(after, 'reconstruction', None):
      np.testing.assert_array_equal(
        after.reconstruction[sensor], before.reconstruction[sensor]
      )


def test_nothing_of_other_sensors_is_left(subject, cut, system):
  spec, params, _ = subject(system)
  _, less = cut(spec, params, sensors=spec.sensors[:1])
  gone = set(spec.sensors[1:])
  assert not [n for n in trees.flatten(less) if gone & set(n.split('/'))]


def test_an_unknown_sensor_is_an_error(subject):
  spec, params, _ = subject()
  with pytest.raises(ValueError, match='--sensors=.*Did you mean "sar_l1"'):
    surgery.plan(spec, trees.flatten(params), sensors=['sar_l2'])


def avoid(params, unused, branch):
  """Routers whose `unused` columns lie far below the others.

  Features behind a norm have a constant part only through its bias, so the
  direction of the bias carries the offset.
  """
  flat = trees.flatten(params)
  for name, leaf in flat.items():
    if name.endswith(f'{branch}/router'):
      flat[name] = leaf.at[:, :, unused].set(0).at[:, 0, unused].set(-1e4)
    # Post-norm blocks route what norm_1 gives, pre-norm ones norm_2.
    if name.endswith(('norm_1/bias', 'norm_2/bias')) and 'embed' not in name:
      flat[name] = leaf.at[:, 0].set(50.0)
  return trees.unflatten(flat)


@pytest.mark.parametrize('fold', surgery.FOLDS)
def test_experts_without_use_can_go_without_a_change(
  subject, forward, measured, cut, system, fold
):
  spec, params, images = subject(system)
  branch = layout.of(spec).branches[0]
  params = avoid(params, np.array([1]), branch)
  found = measured(spec, params, images)
  for layer in layout.layers(spec, (branch,)):
    assert found.layers[layer.name].mass[:, 1].max() == 0
  kept = keep_lib.choose('mass:1', spec, spec.sensors, usage=found)
  rest = {x.name: x.experts for x in layout.layers(spec, (branch,))}
  assert all(1 not in kept[name] for name in rest)
  small, less = cut(spec, params, kept=kept, usage=found, fold=fold)
  assert trees.count(less) < trees.count(params)
  before, after = forward(spec, params, images), forward(small, less, images)
  for sensor in images:
    np.testing.assert_allclose(
      after.features[sensor],
      before.features[sensor],
      rtol=REORDERED,
      atol=REORDERED,
    )


@pytest.mark.parametrize(
  ('system', 'changes', 'rows'),
  [
    (
      'ringmoe',
      TWO_STAGES,
      {
        'collaborative_0': [1],
        'collaborative_1': [0, 3],
        'collaborative_2': [2, 3],
        'collaborative_3': [0, 1],
        'specialised_1': [[0, 1], [1, 2], [2, 3]],
      },
    ),
    ('skysense_v2', {}, {'routed_2': [0, 2], 'routed_4': [1, 2]}),
    ('mapex', {}, {'routed_1': [0, 2]}),
    ('mapex', {'conditioning': 'router'}, {'routed_0': [0, 2]}),
  ],
  ids=['ringmoe', 'skysense_v2', 'mapex', 'mapex_routers'],
)
def test_layers_of_different_numbers_are_really_smaller(
  subject, forward, measured, cut, system, changes, rows
):
  """Stacks are cut where numbers differ; every row is where it was."""
  spec, params, images = subject(system, **changes)
  kept = only(spec, spec.sensors, **rows)
  small, less = cut(spec, params, kept=kept, fold='none')
  assert shapes(less) == shapes(build.build(small).abstract)
  counts = {x.name: x.experts for x in layout.layers(small)}
  assert counts == {name: row.shape[1] for name, row in kept.items()}
  report = accounting.report(small)
  assert trees.count(less) == report['parameters']['total']
  old, new = trees.flatten(params), trees.flatten(less)
  for layer in layout.layers(spec):
    a, b = (layout.of(s).blocks(s)[layer.block] for s in (spec, small))
    for leaf in surgery.EXPERT_LEAVES:
      name = f'{layout.of(spec).ffn}/{layer.branch}/{leaf}'
      was = old[f'{a.stack}/{name}'][a.row]
      now = new[f'{b.stack}/{name}'][b.row]
      if not layer.by_sensor:
        was, now = was[None], now[None]
      for i, row in enumerate(kept[layer.name]):
        np.testing.assert_array_equal(now[i], was[i][row])
    norm = layout.of(spec).ffn.replace('ffn', 'norm_1/scale')
    np.testing.assert_array_equal(
      new[f'{b.stack}/{norm}'][b.row], old[f'{a.stack}/{norm}'][a.row]
    )
  out = forward(small, less, images)
  for sensor in images:
    assert bool(jnp.isfinite(out.features[sensor]).all())


def test_one_expert_of_skysense_is_the_dense_oracle(
  subject, forward, measured, cut
):
  """No router; its output layer times the mean gate of its tokens."""
  spec, params, images = subject('skysense_v2')
  found = measured(spec, params, images)
  kept = keep_lib.choose('pooled:1', spec, spec.sensors, usage=found)
  small, less = cut(spec, params, kept=kept, usage=found)
  assert small.routed == {}
  assert small.experts == 1
  assert not [n for n in trees.flatten(less) if 'router' in n]
  dense = dataclasses.replace(spec, experts=0)
  assert shapes(less) == shapes(build.build(dense).abstract)
  old, new = trees.flatten(params), trees.flatten(less)
  for block in (2, 3, 4):
    expert = kept[f'routed/{block}'][0, 0]
    a, b = (layout.of(s).blocks(s)[block] for s in (spec, dense))
    gate = found.pooled(f'routed/{block}', spec.sensors).gate[0, expert]
    for leaf in surgery.EXPERT_LEAVES:
      was = old[f'{a.stack}/ffn/routed/{leaf}'][a.row, expert]
      now = new[f'{b.stack}/ffn/{leaf}'][b.row]
      factor = gate if leaf in ('w_out', 'b_out') else 1
      np.testing.assert_allclose(now, was * factor, rtol=1e-6)
  a, b = forward(small, less, images), forward(dense, less, images)
  for sensor in images:
    np.testing.assert_array_equal(a.features[sensor], b.features[sensor])


@pytest.mark.parametrize(
  ('system', 'changes'),
  [('skysense_v2', {}), ('mapex', {}), ('mapex', {'shared': 1})],
)
def test_a_constant_gate_folds_exactly(
  subject, forward, measured, cut, system, changes
):
  """If all experts are alike and gates equal, one of them is the model.

  An FFN that all tokens pass besides becomes half of the one that is left.
  """
  spec, params, images = subject(system, **changes)
  flat = trees.flatten(params)
  for name, leaf in flat.items():
    if '/routed/' in name and not name.endswith('router'):
      flat[name] = jnp.broadcast_to(leaf[:, :1], leaf.shape)
    if name.endswith(('router', 'router_bias')):
      flat[name] = jnp.zeros_like(leaf)
  params = trees.unflatten(flat)
  found = measured(spec, params, images)
  kept = keep_lib.choose('pooled:1', spec, spec.sensors, usage=found)
  before = forward(spec, params, images)
  error = {}
  for fold in surgery.FOLDS:
    small, less = cut(spec, params, kept=kept, usage=found, fold=fold)
    after = forward(small, less, images)
    error[fold] = max(
      float(jnp.abs(after.features[s] - before.features[s]).max())
      for s in images
    )
  assert error['mean_gate'] < 1e-4 < error['none']


def test_folding_the_mean_gate_keeps_the_branch_closer(subject, measured, cut):
  """Without it the kept expert's weight grows to fill the probability."""
  spec, params, images = subject(depths=(1,), heads=(1,))
  flat = trees.flatten(params)
  for name, leaf in flat.items():
    if '/collaborative/' in name and not name.endswith('router'):
      flat[name] = jnp.broadcast_to(leaf[:, :1], leaf.shape)
    if name.endswith('collaborative/router'):
      flat[name] = leaf / 5  # A mild router: probabilities are shared.
  params = trees.unflatten(flat)
  found = measured(spec, params, images)
  kept = keep_lib.choose('pooled:1', spec, spec.sensors, usage=found)
  first = flat['stage_0/blocks/ffn/collaborative/w_out'][0, 0, 0, 0]

  def branch(spec, params):
    """Mean weight of the collaborative output, relative to the first FFN."""
    scale = trees.flatten(params)['stage_0/blocks/ffn/collaborative/w_out']
    own = measured(spec, params, images).pooled('collaborative/0', spec.sensors)
    return float((own.share * own.gate).sum() * scale[0, 0, 0, 0] / first)

  before = branch(spec, params)
  error = {
    fold: abs(
      branch(*cut(spec, params, kept=kept, usage=found, fold=fold)) - before
    )
    for fold in surgery.FOLDS
  }
  assert error['none'] == pytest.approx(1 - before)
  assert error['mean_gate'] < 0.1 * error['none']


def test_several_kept_experts_fold_their_probability(subject, measured):
  spec, params, images = subject()
  found = measured(spec, params, images)
  kept = only(spec, spec.sensors, collaborative_1=[0, 2])
  small = surgery.plan(spec, trees.flatten(params), kept=kept, usage=found)
  mass = found.pooled('collaborative/1', spec.sensors).mass[0]
  assert small.record['scale']['collaborative/1'] == [
    pytest.approx(mass[0] + mass[2])
  ]
  assert small.record['scale']['collaborative/0'] == [1.0]


def test_normalised_gates_need_no_fold(subject):
  spec, params, _ = subject(gate='normalised')
  kept = only(spec, spec.sensors, collaborative_1=[0, 2])
  small = surgery.plan(spec, trees.flatten(params), kept=kept)
  assert small.record['scale']['collaborative/1'] == [1.0]


def test_folding_needs_usage_of_this_model(subject, measured):
  spec, params, images = subject()
  kept = only(spec, spec.sensors, collaborative_0=[1])
  with pytest.raises(ValueError, match='mean_gate needs usage'):
    surgery.plan(spec, trees.flatten(params), kept=kept)
  other = measured(*subject('skysense_v2'))
  with pytest.raises(ValueError, match='the calibration is of'):
    surgery.plan(spec, trees.flatten(params), kept=kept, usage=other)


def test_parts_and_whole_arrays_are_the_same(subject, measured, cut, system):
  spec, params, images = subject(system)
  found = measured(spec, params, images)
  kept = keep_lib.choose('random:2', spec, spec.sensors)
  source = {n: np.asarray(x) for n, x in trees.flatten(params).items()}
  small = surgery.plan(
    spec, source, sensors=spec.sensors[:2], usage=found,
    kept={n: r[:2] if len(r) == 3 else r for n, r in kept.items()},
  )  # fmt: skip
  whole = trees.flatten(small.params(params))
  for name, leaf in small.leaves.items():
    parts = [block.reshape(-1) for block in leaf.blocks(source)]
    np.testing.assert_array_equal(
      np.concatenate(parts).reshape(leaf.shape), whole[name]
    )


def test_the_giant_by_shapes_alone():
  """6.5 B and 4.48 B of the fact sheet, without allocating."""
  spec = sizes.ringmoe_spec('giant', decoders=False)
  source = trees.flatten(build.build(spec).abstract)
  count = lambda small: sum(
    np.prod(leaf.shape, dtype=np.int64) for leaf in small.leaves.values()
  )
  small = surgery.plan(spec, source, sensors=('opt',))
  assert count(small) == 6_534_927_588
  kept = keep_lib.choose('random:1', spec, ('opt',))
  small = surgery.plan(spec, source, sensors=('opt',), kept=kept, fold='none')
  assert count(small) == 4_482_171_876


def test_routers_of_mapex_keep_the_rows_of_their_sensors(subject, cut):
  for conditioning, leaf in (
    ('bias', 'router_bias'),
    ('router', 'routed/router'),
  ):
    spec, params, _ = subject('mapex', conditioning=conditioning)
    kept = only(spec, spec.sensors[1:], routed_0=[0, 2], routed_1=[1, 2])
    _, less = cut(
      spec, params, sensors=spec.sensors[1:], kept=kept, fold='none'
    )
    name = f'run_0/last/ffn/{leaf}'
    old, new = trees.flatten(params)[name], trees.flatten(less)[name]
    for row, chosen in enumerate(([0, 2], [1, 2])):
      np.testing.assert_array_equal(new[row], old[row, 1:][..., chosen])


def test_a_partition_of_mapex_is_numbered_anew(subject):
  spec = subject('mapex', conditioning='partition', experts=(6, 6)).spec
  source = trees.flatten(build.build(spec).abstract)
  whole = surgery.plan(spec, source)
  assert whole.spec == spec
  kept = only(spec, spec.sensors, routed_0=[0, 1, 3, 5], routed_1=[2])
  with pytest.raises(ValueError, match='model.partition'):
    surgery.plan(
      spec, source, fold='none',
      kept=kept | {'routed/0': np.array([[0, 3]])},
    )  # fmt: skip
  small = surgery.plan(spec, source, kept=kept, fold='none').spec
  # Sensors had (0, 3), (1, 4), (2, 5).
  assert small.partition == (((0, 2), (1,), (3,)), ((0,), (0,), (0,)))


def test_the_base_of_mapex_has_the_counts_of_the_fact_sheet():
  """227.5 M; 170.8, 142.5, 114.1 and 85.8 M with 4, 3, 2 and 1 left."""
  spec = sizes.mapex_spec('base')
  source = trees.flatten(build.build(spec).abstract)
  counts = {}
  for n in (6, 4, 3, 2, 1):
    kept = keep_lib.choose(f'random:{n}', spec, spec.sensors)
    small = surgery.plan(spec, source, kept=kept, fold='none')
    trunk = sum(
      np.prod(leaf.shape, dtype=np.int64)
      for name, leaf in small.leaves.items()
      if name.startswith(('run_', 'norm/')) and '/router' not in name
    )
    counts[n] = round((trunk + accounting.VIT_B16_REST) / 1e6, 1)
  assert counts == {6: 227.5, 4: 170.8, 3: 142.5, 2: 114.1, 1: 85.8}
