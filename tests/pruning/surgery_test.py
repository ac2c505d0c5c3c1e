"""Extraction loses nothing; expert pruning loses what nobody used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.models import accounting
from rsfm_jax.models import build
from rsfm_jax.models import sizes
from rsfm_jax.pruning import surgery

# The same sums with other sizes of experts.
REORDERED = 1e-5


def identical(a, b):
  a, b = trees.flatten(a), trees.flatten(b)
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def everything(spec):
  layers = sum(spec.depths)
  return np.tile(np.arange(spec.collaborative), (layers, 1))


@pytest.mark.parametrize('kept', [('opt',), ('ms', 'opt')])
def test_extracting_sensors_changes_none_of_their_bits(subject, forward, kept):
  spec, params, images = subject()
  small = surgery.extract(spec, params, kept)
  given = {s: images[s] for s in kept}
  before = forward(spec, params, given)
  after = forward(small.spec, small.params, given)
  for sensor in kept:
    np.testing.assert_array_equal(
      after.features[sensor], before.features[sensor]
    )
    np.testing.assert_array_equal(
      after.reconstruction[sensor], before.reconstruction[sensor]
    )


def test_the_small_model_has_the_parameters_of_its_spec(subject):
  spec, params, _ = subject()
  small = surgery.extract(spec, params, ['ms', 'opt'])
  # In the order of the model, not of the request.
  assert small.spec.sensors == ('opt', 'ms')
  assert small.spec.channels == (3, 4)
  assert small.record == {'operation': 'extract', 'sensors': ['opt', 'ms']}
  shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
  assert shapes(small.params) == shapes(build.build(small.spec).abstract)


def test_extracting_all_sensors_changes_nothing(subject):
  spec, params, _ = subject()
  small = surgery.extract(spec, params, spec.sensors)
  assert small.spec == spec
  identical(small.params, params)


def test_an_unknown_sensor_is_an_error(subject):
  spec, params, _ = subject()
  with pytest.raises(ValueError, match='--sensors=.*Did you mean "sar_l1"'):
    surgery.extract(spec, params, ['sar_l2'])


@pytest.mark.parametrize('fold', ['mean_gate', 'none'])
def test_keeping_all_experts_changes_no_bit(subject, fold):
  spec, params, _ = subject()
  small = surgery.prune_collaborative(spec, params, everything(spec), fold=fold)
  assert small.spec == spec
  identical(small.params, params)


def avoid(spec, params, unused):
  """Routers whose `unused` columns lie far below the others."""
  flat = trees.flatten(params)
  for name, leaf in flat.items():
    if name.endswith('collaborative/router'):
      # Post-norm features have a constant part only through their bias, so
      # the bias direction carries the offset.
      flat[name] = leaf.at[:, :, unused].set(0).at[:, 0, unused].set(-1e4)
    if name.endswith('blocks/norm_1/bias'):
      flat[name] = leaf.at[:, 0].set(50.0)
  return trees.unflatten(flat)


@pytest.mark.parametrize(
  ('gate', 'fold'),
  [('normalised', 'none'), ('prob', 'none'), ('prob', 'mean_gate')],
)
def test_experts_without_usage_can_go_without_a_change(
  subject, forward, measured, gate, fold
):
  spec, params, images = subject(gate=gate)
  unused = np.array([1, 2])
  params = avoid(spec, params, unused)
  found = measured(spec, params, images)
  assert found.collaborative_mass[..., unused].max() == 0
  kept = np.array([[0, 3], [0, 3]])
  small = surgery.prune_collaborative(
    spec, params, kept, measured=found, fold=fold
  )
  assert small.spec.collaborative == 2
  before = forward(spec, params, images)
  after = forward(small.spec, small.params, images)
  for sensor in images:
    np.testing.assert_allclose(
      after.features[sensor],
      before.features[sensor],
      rtol=REORDERED,
      atol=REORDERED,
    )


def test_each_layer_keeps_its_own_experts(subject):
  spec, params, _ = subject(gate='normalised', depths=(2, 1))
  kept = np.array([[0, 1], [2, 3], [1, 3]])
  small = surgery.prune_collaborative(spec, params, kept)
  old, new = trees.flatten(params), trees.flatten(small.params)
  for stage, rows in {'stage_0': kept[:2], 'stage_1': kept[2:]}.items():
    base = f'{stage}/blocks/ffn/collaborative'
    for layer, row in enumerate(rows):
      for leaf in surgery.EXPERT_LEAVES:
        np.testing.assert_array_equal(
          new[f'{base}/{leaf}'][layer], old[f'{base}/{leaf}'][layer][row]
        )
      np.testing.assert_array_equal(
        new[f'{base}/router'][layer], old[f'{base}/router'][layer][:, row]
      )
  others = lambda flat: {
    n: x for n, x in flat.items() if '/collaborative/' not in n
  }
  identical(trees.unflatten(others(old)), trees.unflatten(others(new)))


def test_the_most_used_experts_weigh_sensors_by_their_images(subject, measured):
  found = measured(*subject())
  load = np.zeros((2, 3, 4))
  # Expert 0 is opt's, 1 is sar_l1's, 2 is ms's; 3, 1 and 2 images.
  load[:, 0, 0] = load[:, 1, 1] = load[:, 2, 2] = 1.0
  found = found._replace(collaborative_load=load)
  most = lambda sensors, keep: surgery.most_used(found, sensors, keep=keep)
  np.testing.assert_array_equal(most([0, 1, 2], 1), [[0]] * 2)
  np.testing.assert_array_equal(most([0, 1, 2], 2), [[0, 2]] * 2)
  np.testing.assert_array_equal(most([1], 1), [[1]] * 2)


def test_ties_keep_the_first_experts(subject, measured):
  found = measured(*subject())
  found = found._replace(collaborative_load=np.full((2, 3, 4), 0.25))
  np.testing.assert_array_equal(
    surgery.most_used(found, [0], keep=2), [[0, 1]] * 2
  )


def test_folding_the_mean_gate_keeps_the_branch_closer(
  subject, forward, measured
):
  """Without it the kept experts' weights grow to fill the probability."""
  spec, params, images = subject(depths=(1,), heads=(1,))
  # All experts alike, so that the branch is the gate times one FFN.
  flat = trees.flatten(params)
  for name, leaf in flat.items():
    if '/collaborative/' in name and not name.endswith('router'):
      flat[name] = jnp.broadcast_to(leaf[:, :1], leaf.shape)
    if name.endswith('collaborative/router'):
      flat[name] = leaf / 5  # A mild router: probabilities are shared.
  params = trees.unflatten(flat)
  found = measured(spec, params, images)
  kept = surgery.most_used(found, [0, 1, 2], keep=1)

  def branch(spec, params):
    """Mean weight of the collaborative output, relative to the first FFN."""
    scale = params['stage_0']['blocks']['ffn']['collaborative']['w_out']
    gate = measured(spec, params, images).collaborative_gate
    gate = np.average(gate.sum(-1)[0], weights=found.images)
    first = flat['stage_0/blocks/ffn/collaborative/w_out'][0, 0]
    return gate * float(scale[0, 0, 0, 0] / first[0, 0])

  before = branch(spec, params)
  error = {}
  for fold in ('mean_gate', 'none'):
    small = surgery.prune_collaborative(
      spec, params, kept, measured=found, fold=fold
    )
    error[fold] = abs(branch(small.spec, small.params) - before)
  assert error['none'] == pytest.approx(1 - before)
  assert error['mean_gate'] < 0.5 * error['none']


@pytest.mark.parametrize('index', [-1, 4])
def test_an_expert_that_does_not_exist_is_an_error(subject, index):
  spec, params, _ = subject()
  with pytest.raises(ValueError, match=rf'\[{index}.*0..3|{index}\].*0..3'):
    surgery.prune_collaborative(spec, params, np.full((2, 1), index))


def test_folding_needs_usage(subject):
  spec, params, _ = subject()
  with pytest.raises(ValueError, match='mean_gate.*usage'):
    surgery.prune_collaborative(spec, params, np.zeros((2, 1), int))


@pytest.mark.parametrize('keep', [1, 2])
def test_counts_match_the_accounting_of_the_smaller_spec(
  subject, measured, keep
):
  spec, params, images = subject()
  small = surgery.extract(spec, params, ('opt',))
  found = measured(small.spec, small.params, {'opt': images['opt']})
  small = surgery.prune_collaborative(
    small.spec,
    small.params,
    surgery.most_used(found, [0], keep=keep),
    measured=found,
  )
  assert len(small.record['kept']) == 2
  report = accounting.report(small.spec)
  assert trees.count(small.params) == report['parameters']['total']
  gone = sum(
    (4 - keep) * depth * (accounting.expert_size(spec, i) + 8 * 2**i)
    for i, depth in enumerate(spec.depths)
  )
  extracted = surgery.extract(spec, params, ('opt',))
  assert trees.count(extracted.params) - trees.count(small.params) == gone


def test_extraction_and_pruning_of_the_giant_by_shapes_alone():
  """6.5 B and 4.48 B of the fact sheet, without allocating."""
  spec = sizes.ringmoe_spec('giant', decoders=False)
  cut = {}

  def extract(params):
    cut['spec'], params, _ = surgery.extract(spec, params, ('opt',))
    return params

  small = jax.eval_shape(extract, build.build(spec).abstract)
  assert trees.count(small) == 6_534_927_588
  kept = np.zeros((24, 1), int)
  pruned = jax.eval_shape(
    lambda p: (
      surgery.prune_collaborative(cut['spec'], p, kept, fold='none').params
    ),
    small,
  )
  assert trees.count(pruned) == 4_482_171_876
