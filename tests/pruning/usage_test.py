"""Usage is an average over images, whatever batches they come in."""

import json

import numpy as np
import pytest

from rsfm_jax.models import build
from rsfm_jax.pruning import usage


def test_usage_is_what_the_routers_of_a_forward_pass_do(
  subject, forward, measured
):
  spec, params, images = subject()
  found = measured(spec, params, images)
  aux = forward(spec, params, images).aux
  np.testing.assert_allclose(
    found.specialised_load, aux.specialised_load, rtol=1e-6
  )
  np.testing.assert_allclose(
    found.collaborative_gate, aux.collaborative_gate, rtol=1e-6
  )
  assert found.specialised_load.shape == (2, 3, 4)
  np.testing.assert_array_equal(found.images, [3, 1, 2])
  for load in (found.specialised_load, found.collaborative_load):
    np.testing.assert_allclose(load.sum(-1), 1, rtol=1e-6)


def test_batches_of_any_size_and_sensors_average_to_the_same(subject, measured):
  spec, params, images = subject()
  whole = measured(spec, params, images)
  batches = [
    {'opt': images['opt'][:1]},
    {'ms': images['ms'], 'opt': images['opt'][1:]},
    {'sar_l1': images['sar_l1']},
  ]
  apply = build.build(spec).apply
  parts = usage.measure(apply, params, batches, sensors=spec.sensors)
  for a, b in zip(parts, whole, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_gates_are_the_weights_of_the_outputs(subject, measured):
  """Normalised: the load itself. By probability: less, by the mean gate."""
  spec, params, images = subject(gate='normalised')
  found = measured(spec, params, images)
  np.testing.assert_allclose(
    found.collaborative_gate, found.collaborative_load, rtol=1e-6
  )
  spec, params, images = subject()
  found = measured(spec, params, images)
  gate = found.collaborative_gate.sum(-1)
  assert (gate > 0.25).all() and (gate < 1).all()
  assert (found.collaborative_gate <= found.collaborative_load).all()


def test_an_absent_sensor_has_zero_usage(subject):
  spec, params, images = subject()
  found = usage.measure(
    build.build(spec).apply,
    params,
    [{'opt': images['opt']}],
    sensors=spec.sensors,
  )
  np.testing.assert_array_equal(found.images, [3, 0, 0])
  np.testing.assert_array_equal(found.collaborative_load[:, 1:], 0)


def test_no_image_is_an_error(subject):
  spec, params, _ = subject()
  with pytest.raises(ValueError, match='no image'):
    usage.measure(build.build(spec).apply, params, [], sensors=spec.sensors)


def test_usage_can_be_written_as_json(subject, measured):
  found = measured(*subject())
  back = json.loads(json.dumps(found.to_json()))
  np.testing.assert_allclose(back['specialised_load'], found.specialised_load)
  assert set(back) == set(usage.Usage._fields)
