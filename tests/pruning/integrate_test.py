"""One FFN from many: exact where it can be."""

import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.models import accounting
from rsfm_jax.pruning import integrate
from rsfm_jax.pruning import surgery

LEAVES = surgery.EXPERT_LEAVES


def one_sensor(subject, measured, change=None, **changes):
  """(spec, params, images, usage) of the optical sub-model."""
  spec, params, images = subject(**changes)
  images = {'opt': images['opt']}
  small = surgery.extract(spec, params, ('opt',))
  flat = trees.flatten(small.params)
  for name in flat:
    if change:
      flat[name] = change(name, flat)
  params = trees.unflatten(flat)
  return small.spec, params, images, measured(small.spec, params, images)


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
def test_the_result_is_dense_and_complete(subject, measured, forward, how):
  spec, params, images, found = one_sensor(subject, measured)
  small = integrate.integrate(spec, params, measured=found, how=how)
  assert (small.spec.specialised, small.spec.collaborative) == (0, 0)
  assert small.record == {'operation': 'integrate', 'how': how}
  report = accounting.report(small.spec)
  assert trees.count(small.params) == report['parameters']['total']
  out = forward(small.spec, small.params, images)
  assert bool(jnp.isfinite(out.features['opt']).all())
  shared = small.params['stage_0']['blocks']['ffn']['shared']
  before = params['stage_0']['blocks']['ffn']['shared']
  assert all((shared[leaf] != before[leaf]).any() for leaf in LEAVES)


def test_summing_silent_experts_leaves_the_shared_one(subject, measured):
  spec, params, _, found = one_sensor(subject, measured, silence)
  small = integrate.integrate(spec, params, measured=found, how='sum')
  for stage in ('stage_0', 'stage_1'):
    for leaf in LEAVES:
      np.testing.assert_array_equal(
        small.params[stage]['blocks']['ffn']['shared'][leaf],
        params[stage]['blocks']['ffn']['shared'][leaf],
      )


@pytest.mark.parametrize('how', ['sum', 'mean', 'svd'])
def test_a_dense_model_integrates_to_itself(subject, measured, how):
  """One matrix keeps its full rank."""
  spec, params, _, found = one_sensor(
    subject, measured, specialised=0, collaborative=0
  )
  small = integrate.integrate(spec, params, measured=found, how=how)
  for name, leaf in trees.flatten(small.params).items():
    np.testing.assert_allclose(
      leaf, trees.flatten(params)[name], rtol=1e-5, atol=1e-5, err_msg=name
    )


@pytest.mark.parametrize('gate', ['prob', 'normalised'])
def test_experts_are_weighed_by_the_weights_of_their_outputs(
  subject, measured, gate
):
  """The merged output layer is shared + what each expert really added."""
  spec, params, _, found = one_sensor(subject, measured, gate=gate)
  small = integrate.integrate(spec, params, measured=found, how='sum')
  for layer, stage in enumerate(('stage_0', 'stage_1')):
    ffn = params[stage]['blocks']['ffn']
    expected = np.asarray(ffn['shared']['b_out'][0], np.float64)
    for branch, gates in (
      ('specialised', found.specialised_gate),
      ('collaborative', found.collaborative_gate),
    ):
      bias = np.asarray(ffn[branch]['b_out'], np.float64)[0]
      bias = bias[0] if branch == 'specialised' else bias
      expected = expected + gates[layer, 0] @ bias
    np.testing.assert_allclose(
      small.params[stage]['blocks']['ffn']['shared']['b_out'][0],
      expected,
      rtol=1e-5,
      atol=1e-6,
    )


def test_the_mean_of_equal_experts_keeps_the_features(
  subject, measured, forward
):
  """Three times one FFN, or once: the norm after it takes the factor out."""
  spec, params, images, found = one_sensor(
    subject, measured, copy_shared, gate='normalised'
  )
  small = integrate.integrate(spec, params, measured=found, how='mean')
  np.testing.assert_allclose(
    forward(small.spec, small.params, images).features['opt'],
    forward(spec, params, images).features['opt'],
    rtol=1e-4,
    atol=1e-4,
  )


def test_mean_is_a_third_of_the_sum(subject, measured):
  spec, params, _, found = one_sensor(subject, measured)
  ffn = lambda how: integrate.integrate(
    spec, params, measured=found, how=how
  ).params['stage_1']['blocks']['ffn']['shared']
  total, mean = ffn('sum'), ffn('mean')
  for leaf in LEAVES:
    np.testing.assert_allclose(total[leaf], 3 * mean[leaf], rtol=1e-5)


def test_svd_adds_the_leading_third_of_each_matrix(subject, measured):
  """The rank of the sum is at most N x (rank / N); biases are summed."""
  spec, params, _, found = one_sensor(subject, measured)
  ffn = lambda how: integrate.integrate(
    spec, params, measured=found, how=how
  ).params['stage_1']['blocks']['ffn']['shared']
  svd, total = ffn('svd'), ffn('sum')
  # 16 x 32 matrices of three branches: 5 triplets each.
  assert np.linalg.matrix_rank(np.asarray(svd['w_in'][0]), tol=1e-4) == 15
  for leaf in ('b_in', 'b_out'):
    np.testing.assert_array_equal(svd[leaf], total[leaf])
  # Truncation loses something, but keeps the larger part.
  lost = np.linalg.norm(svd['w_in'] - total['w_in'])
  assert 0 < lost < 0.9 * np.linalg.norm(total['w_in'])


def test_several_sensors_are_an_error(subject, measured):
  spec, params, images = subject()
  found = measured(spec, params, images)
  with pytest.raises(ValueError, match='one sensor.*extract'):
    integrate.integrate(spec, params, measured=found)


def test_an_unknown_way_is_an_error(subject, measured):
  spec, params, _, found = one_sensor(subject, measured)
  with pytest.raises(ValueError, match='--dense=.*Did you mean "svd"'):
    integrate.integrate(spec, params, measured=found, how='svds')
