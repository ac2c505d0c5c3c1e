"""Usage is an average over images, whatever batches they come in."""

import json

import jax
import numpy as np
import pytest

from rsfm_jax.models import build
from rsfm_jax.moe import dispatch
from rsfm_jax.moe import experts
from rsfm_jax.moe import routing
from rsfm_jax.nn import mlp
from rsfm_jax.pruning import layout
from rsfm_jax.pruning import usage


def test_usage_is_what_the_routers_of_a_forward_pass_do(
  subject, forward, measured
):
  spec, params, images = subject()
  found = measured(spec, params, images)
  aux = forward(spec, params, images).aux
  for block in range(2):
    np.testing.assert_allclose(
      found.layers[f'specialised/{block}'].share,
      aux.specialised_load[block],
      rtol=1e-6,
    )
    own = found.layers[f'collaborative/{block}']
    np.testing.assert_allclose(
      own.share * own.gate, aux.collaborative_gate[block], rtol=1e-6
    )
    np.testing.assert_allclose(own.mass.sum(-1), 1, rtol=1e-5)
  np.testing.assert_array_equal(found.images, [3, 1, 2])


def test_every_token_is_counted_once_per_choice(subject, measured, system):
  found = measured(*subject(system))
  names = [x.name for x in layout.layers(subject(system).spec)]
  assert list(found.layers) == names
  for of in found.layers.values():
    np.testing.assert_allclose(of.share.sum(-1), 1, rtol=1e-5)
    assert ((of.gate > 0) == (of.share > 0)).all()
    assert (of.gate <= 1 + 1e-6).all()
    assert ((of.salience > 0) == (of.share > 0)).all()


@pytest.mark.parametrize('system', ['skysense_v2'], indirect=True)
def test_two_choices_share_every_token(subject, measured, system):
  found = measured(*subject(system, choices=2))
  for of in found.layers.values():
    np.testing.assert_allclose(of.share.sum(-1), 2, rtol=1e-5)


def test_lengths_of_outputs_are_those_of_every_expert_on_its_tokens():
  """The sorted rows' lengths against every expert on every token."""
  rng = np.random.default_rng(0)
  x, router = rng.normal(size=(40, 8)), rng.normal(size=(1, 8, 3))
  shapes = [(1, 3, 8, 16), (1, 3, 16), (1, 3, 16, 8), (1, 3, 8)]
  weights = [rng.normal(size=s).astype('float32') for s in shapes]
  weights = experts.Weights(router.astype('float32'), *weights)
  x = x.astype('float32')
  groups = routing.TokenGroups((40,), (0,))
  for engine in ('dropless', 'capacity'):
    options = experts.Options(
      engine=engine, choices=2, capacity_factor=3.0, norms=True
    )
    sent = experts.send(x, weights, groups, options)
    y, norms = experts.measured(x, sent, weights, groups, options=options)
    every = mlp.stacked_ffn(
      np.repeat(x[None], 3, 0), *(w[0] for w in weights[1:])
    )
    length = np.linalg.norm(every, axis=-1).T
    want = np.take_along_axis(length, np.asarray(sent.routing.expert), 1)
    np.testing.assert_allclose(norms, want, rtol=1e-4)
    oracle = dispatch.oracle(x, sent.routing, groups, weights[1:])
    np.testing.assert_allclose(y, oracle, rtol=1e-3, atol=1e-3)


def test_lengths_are_measured_in_evaluation_alone(subject, forward):
  spec, params, images = subject()
  salience = lambda mode: (
    forward(spec, params, images, mode=mode).aux.collaborative_salience
  )
  assert float(salience('eval').max()) > 0
  assert float(salience('train').max()) == 0


def test_batches_of_any_size_and_sensors_average_to_the_same(subject, system):
  spec, params, images = subject(system)
  first, second, third = spec.sensors
  batches = [
    {first: images[first][:1]},
    {third: images[third]},
    {first: images[first][1:]},
    {second: images[second]},
    {},
  ]
  whole = usage.measure(
    spec,
    build.build(spec).apply,
    params,
    [{s: images[s]} for s in spec.sensors],
  )
  parts = usage.measure(spec, build.build(spec).apply, params, batches)
  for name, of in whole.layers.items():
    for a, b in zip(parts.layers[name], of, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_only_sensors_that_see_each_other_are_used_otherwise_alone(
  subject, measured, system
):
  """What `joint` says: whether feeding them together is another thing."""
  spec, params, images = subject(system)
  whole, changed = measured(spec, params, images), 0.0
  for i, sensor in enumerate(spec.sensors):
    alone = measured(spec, params, {sensor: images[sensor]})
    for name, of in whole.layers.items():
      difference = np.abs(alone.layers[name].mass[i] - of.mass[i])
      changed = max(changed, difference.max())
  assert (changed > 1e-3) == layout.of(spec).joint
  assert layout.of(spec).joint or changed < 1e-5


def test_an_absent_sensor_cannot_be_asked_for(subject, measured):
  spec, params, images = subject()
  found = measured(spec, params, {'opt': images['opt']})
  np.testing.assert_array_equal(found.images, [3, 0, 0])
  np.testing.assert_array_equal(found.layers['collaborative/0'].share[1:], 0)
  with pytest.raises(ValueError, match='no image of ms'):
    found.pooled('collaborative/0', ['opt', 'ms'])


def test_pooling_weighs_sensors_by_their_images(subject, measured):
  found = measured(*subject())
  own = found.layers['collaborative/1']
  pooled = found.pooled('collaborative/1', ['opt', 'ms'])
  share = (3 * own.share[0] + 2 * own.share[2]) / 5
  gates = 3 * own.share[0] * own.gate[0] + 2 * own.share[2] * own.gate[2]
  np.testing.assert_allclose(pooled.share[0], share)
  np.testing.assert_allclose(pooled.share[0] * pooled.gate[0], gates / 5)


def test_no_image_is_an_error(subject):
  spec, params, _ = subject()
  for batches in ([], [{}]):
    with pytest.raises(ValueError, match='no image'):
      usage.measure(spec, build.build(spec).apply, params, batches)


def test_a_record_goes_through_json_and_knows_its_model(
  subject, measured, system
):
  spec, params, images = subject(system)
  found = measured(spec, params, images)
  back = usage.Usage.from_json(json.loads(json.dumps(found.to_json())))
  jax.tree.map(np.testing.assert_array_equal, back.layers, found.layers)
  back.check(spec)
  other = subject('ringmoe' if system != 'ringmoe' else 'skysense_v2').spec
  with pytest.raises(ValueError, match='the calibration is of'):
    back.check(other)


@pytest.mark.parametrize(
  'value',
  [
    {},
    {'sensors': ['a'], 'images': [1], 'layers': {'x/0': {'share': [[1]]}}},
    {'sensors': ['a'], 'images': ['b'], 'layers': {}},
    [],
  ],
)
def test_other_json_is_no_record(value):
  with pytest.raises(ValueError, match='not a calibration record'):
    usage.Usage.from_json(value)
