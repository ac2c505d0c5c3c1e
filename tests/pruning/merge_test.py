"""One FFN from many: exact where it can be."""

import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.models import accounting
from rsfm_jax.pruning import surgery

LEAVES = surgery.EXPERT_LEAVES
FFN = 'stage_{}/blocks/ffn'


@pytest.fixture
def dense(cut):
  """`dense(spec, params, found, how)` -> (spec, flat parameters)."""

  def run(spec, params, found, how):
    small, less = cut(spec, params, usage=found, dense=how)
    return small, trees.flatten(less)

  return run


def one_sensor(subject, measured, cut, change=None, **changes):
  """(spec, params, images, usage) of the optical sub-model."""
  spec, params, images = subject(**changes)
  images = {'opt': images['opt']}
  small, params = cut(spec, params, sensors=('opt',))
  flat = trees.flatten(params)
  for name in flat:
    if change:
      flat[name] = change(name, flat)
  params = trees.unflatten(flat)
  return small, params, images, measured(small, params, images)


def silence(name, flat):
  """Routed experts that are zero in every matrix."""
  routed = '/specialised/' in name or '/collaborative/' in name
  return flat[name] * (0 if routed and not name.endswith('router') else 1)


def copy_shared(name, flat):
  """Every routed expert is the shared one."""
  part, _, leaf = name.rpartition('/')
  if leaf not in LEAVES:
    return flat[name]
  shared = flat[f'{part.rpartition("/")[0]}/shared/{leaf}']
  lead = (1,) * (flat[name].ndim - shared.ndim)
  shared = shared.reshape(len(shared), *lead, *shared.shape[1:])
  return jnp.broadcast_to(shared, flat[name].shape)


@pytest.mark.parametrize('how', ['sum', 'mean', 'svd'])
def test_the_result_is_dense_and_complete(
  subject, measured, forward, cut, dense, how
):
  spec, params, images, found = one_sensor(subject, measured, cut)
  small, flat = dense(spec, params, found, how)
  assert (small.specialised, small.collaborative) == (0, 0)
  total = accounting.report(small)['parameters']['total']
  assert trees.count(flat) == total
  out = forward(small, trees.unflatten(flat), images)
  assert bool(jnp.isfinite(out.features['opt']).all())
  before = trees.flatten(params)
  for leaf in LEAVES:
    name = f'{FFN.format(0)}/shared/{leaf}'
    assert (flat[name] != before[name]).any()


def test_summing_silent_experts_leaves_the_shared_one(
  subject, measured, cut, dense
):
  spec, params, _, found = one_sensor(subject, measured, cut, silence)
  _, flat = dense(spec, params, found, 'sum')
  for stage in (0, 1):
    for leaf in LEAVES:
      name = f'{FFN.format(stage)}/shared/{leaf}'
      np.testing.assert_array_equal(flat[name], trees.flatten(params)[name])


@pytest.mark.parametrize('gate', ['prob', 'normalised'])
def test_experts_are_weighed_by_the_weights_of_their_outputs(
  subject, measured, cut, dense, gate
):
  """The merged output layer is shared + what each expert really added."""
  spec, params, _, found = one_sensor(subject, measured, cut, gate=gate)
  _, flat = dense(spec, params, found, 'sum')
  old = trees.flatten(params)
  for layer in (0, 1):
    ffn = FFN.format(layer)
    expected = np.asarray(old[f'{ffn}/shared/b_out'][0], np.float64)
    for branch in ('specialised', 'collaborative'):
      own = found.layers[f'{branch}/{layer}']
      bias = np.asarray(old[f'{ffn}/{branch}/b_out'], np.float64)[0]
      bias = bias[0] if branch == 'specialised' else bias
      expected = expected + (own.share * own.gate)[0] @ bias
    np.testing.assert_allclose(
      flat[f'{ffn}/shared/b_out'][0], expected, rtol=1e-5, atol=1e-6
    )


def test_the_mean_of_equal_experts_keeps_the_features(
  subject, measured, forward, cut, dense
):
  """Three times one FFN, or once: the norm after it takes the factor out."""
  spec, params, images, found = one_sensor(
    subject, measured, cut, copy_shared, gate='normalised'
  )
  small, flat = dense(spec, params, found, 'mean')
  np.testing.assert_allclose(
    forward(small, trees.unflatten(flat), images).features['opt'],
    forward(spec, params, images).features['opt'],
    rtol=1e-4,
    atol=1e-4,
  )


def test_mean_is_a_third_of_the_sum_and_svd_its_leading_part(
  subject, measured, cut, dense
):
  """The rank of the sum is at most N x (rank / N); biases are summed."""
  spec, params, _, found = one_sensor(subject, measured, cut)
  total, mean, svd = (
    dense(spec, params, found, how)[1] for how in ('sum', 'mean', 'svd')
  )
  ffn = f'{FFN.format(1)}/shared'
  for leaf in LEAVES:
    name = f'{ffn}/{leaf}'
    np.testing.assert_allclose(total[name], 3 * mean[name], rtol=1e-5)
  # 16 x 32 matrices of three branches: 5 triplets each.
  w_in = np.asarray(svd[f'{ffn}/w_in'][0])
  assert np.linalg.matrix_rank(w_in, tol=1e-4) == 15
  for leaf in ('b_in', 'b_out'):
    np.testing.assert_array_equal(svd[f'{ffn}/{leaf}'], total[f'{ffn}/{leaf}'])
  # Truncation loses something, but keeps the larger part.
  whole = np.asarray(total[f'{ffn}/w_in'][0])
  lost = np.linalg.norm(w_in - whole)
  assert 0 < lost < 0.9 * np.linalg.norm(whole)


def test_skysense_merges_each_layer_by_its_gates(subject, measured, dense):
  """One branch: the mean of the experts by their gates, whatever the way."""
  spec, params, images = subject('skysense_v2')
  found = measured(spec, params, images)
  by = {how: dense(spec, params, found, how) for how in ('sum', 'svd')}
  assert by['sum'][0].routed == {}
  gates = found.pooled('routed/4', spec.sensors)
  gates = (gates.share * gates.gate)[0]
  old = trees.flatten(params)['stage_3/run_0/ffn/routed/w_out'][0]
  for _, flat in by.values():
    np.testing.assert_allclose(
      flat['stage_3/run_0/ffn/w_out'][0],
      np.einsum('e,efd->fd', gates, old),
      rtol=1e-4,
      atol=1e-6,
    )


def test_several_sensors_with_experts_of_their_own_are_an_error(
  subject, measured, cut
):
  spec, params, images = subject()
  found = measured(spec, params, images)
  with pytest.raises(ValueError, match='--dense sum needs one sensor'):
    cut(spec, params, usage=found, dense='sum')


def test_an_unknown_way_and_missing_usage_are_errors(subject, cut):
  spec, params, _ = subject()
  with pytest.raises(ValueError, match='--dense=.*Did you mean "svd"'):
    cut(spec, params, dense='svds')
  with pytest.raises(ValueError, match='--dense svd needs usage'):
    cut(spec, params, sensors=('opt',), dense='svd')
