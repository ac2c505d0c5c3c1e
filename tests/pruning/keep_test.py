"""Which experts stay, told by usage made up for it."""

import numpy as np
import pytest

from rsfm_jax.pruning import keep
from rsfm_jax.pruning import layout
from rsfm_jax.pruning import usage


def made(spec, share, gate=None, images=(3, 1, 2)):
  """The same usage in every layer; `share`: [M, E]."""
  share = np.asarray(share, float)
  layers = {}
  for layer in layout.layers(spec):
    own = np.pad(share, [(0, 0), (0, layer.experts - share.shape[1])])
    weight = np.ones_like(own) if gate is None else np.asarray(gate, float)
    layers[layer.name] = usage.LayerUsage(own, weight, own, own * weight)
  return usage.Usage(spec.sensors, np.array(images), layers)


# Who uses which of four experts: opt the first two, sar_l1 1, ms 2.
SHARE = [[0.6, 0.3, 0.1, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.05, 0.9, 0.05]]


@pytest.fixture
def spec(subject):
  return subject().spec


def common(spec, rule, share=SHARE, sensors=None, gate=None, **options):
  """What the first collaborative layer keeps."""
  found = keep.choose(
    rule,
    spec,
    sensors or spec.sensors,
    usage=made(spec, share, gate),
    **options,
  )
  keep.check(found, spec, sensors or spec.sensors)
  return found['collaborative/0'].tolist()


@pytest.mark.parametrize(
  ('rule', 'sensors', 'kept'),
  [
    ('all', None, [[0, 1, 2, 3]]),
    # The union over the sensors of the best of each.
    ('top:1', ('opt',), [[0]]),
    ('top:1', None, [[0, 1, 2]]),
    ('top:2', ('opt', 'sar_l1'), [[0, 1]]),
    # 3, 1 and 2 images: 0.3, 0.333, 0.35, 0.017 together.
    ('pooled:1', None, [[2]]),
    ('pooled:2', None, [[1, 2]]),
    ('pooled:9', None, [[0, 1, 2, 3]]),
    ('least:1', None, [[3]]),
    # 0.6 + 0.3 of opt; one each of the others.
    ('mass:0.9', ('opt',), [[0, 1]]),
    ('mass:0.91', ('opt',), [[0, 1, 2]]),
    ('mass:0.5', None, [[0, 1, 2]]),
    ('mass:1', ('ms',), [[1, 2, 3]]),
  ],
)
def test_rules(spec, rule, sensors, kept):
  assert common(spec, rule, sensors=sensors) == kept


def test_other_branches_keep_all_unless_named(spec):
  found = keep.choose('top:1', spec, spec.sensors, usage=made(spec, SHARE))
  np.testing.assert_array_equal(found['specialised/1'], [[0, 1, 2, 3]] * 3)
  found = keep.choose(
    'top:1',
    spec,
    ('opt', 'ms'),
    usage=made(spec, SHARE),
    branches=('specialised',),
  )
  # Each sensor keeps its own.
  np.testing.assert_array_equal(found['specialised/1'], [[0], [2]])
  np.testing.assert_array_equal(found['collaborative/1'], [[0, 1, 2, 3]])


def test_sensors_with_their_own_experts_keep_equally_many(spec):
  """One stacked array: who needs fewer keeps its next best ones."""
  found = keep.choose(
    'mass:0.9',
    spec,
    ('opt', 'sar_l1'),
    usage=made(spec, SHARE),
    branches=('specialised',),
  )
  np.testing.assert_array_equal(found['specialised/0'], [[0, 1], [0, 1]])


def test_ties_go_by_gate_then_by_index(spec):
  even = np.full((3, 4), 0.25)
  assert common(spec, 'pooled:2', even) == [[0, 1]]
  gate = np.tile([0.2, 0.3, 0.3, 0.9], (3, 1))
  assert common(spec, 'pooled:2', even, gate=gate) == [[1, 3]]


def test_salience_may_decide(spec):
  gate = np.tile([0.1, 0.9, 0.1, 0.1], (3, 1))
  assert common(spec, 'top:1', sensors=('opt',), gate=gate) == [[0]]
  by = dict(sensors=('opt',), gate=gate, by='salience')
  assert common(spec, 'top:1', **by) == [[1]]


def test_never_fewer_than_a_token_chooses(subject):
  spec = subject(choices=2).spec
  assert common(spec, 'pooled:1') == [[1, 2]]


def test_layers_may_keep_different_numbers(spec):
  found = made(spec, SHARE)
  layers = dict(found.layers)
  one = np.tile([1.0, 0, 0, 0], (3, 1))
  layers['collaborative/1'] = usage.LayerUsage(one, one, one, one)
  kept = keep.choose(
    'mass:0.9', spec, ('opt',), usage=found._replace(layers=layers)
  )
  assert kept['collaborative/0'].tolist() == [[0, 1]]
  assert kept['collaborative/1'].tolist() == [[0]]


def test_random_needs_no_usage_and_depends_on_the_seed(spec):
  draw = lambda seed: keep.choose('random:2', spec, spec.sensors, seed=seed)
  same = [draw(0)['collaborative/0'].tolist() for _ in range(2)]
  assert same[0] == same[1]
  others = {str(draw(s)['collaborative/0'].tolist()) for s in range(8)}
  assert len(others) > 1
  keep.check(draw(3), spec, spec.sensors)


def test_controls_keep_as_many_in_every_layer(spec):
  found = made(spec, SHARE)
  kept = keep.choose('mass:0.9', spec, ('opt',), usage=found)
  both = keep.controls(kept, spec, ('opt',), found)
  assert set(both) == {'random', 'least used'}
  for control in both.values():
    keep.check(control, spec, ('opt',))
    for name, rows in kept.items():
      assert control[name].shape == rows.shape
  assert both['least used']['collaborative/0'].tolist() == [[2, 3]]


def test_an_explicit_set_names_layers(spec):
  given = {'collaborative/1': [3, 0], 'specialised/0': [[0], [1]]}
  kept = keep.explicit(given, spec, ('opt', 'ms'))
  assert kept['collaborative/1'].tolist() == [[0, 3]]
  assert kept['specialised/0'].tolist() == [[0], [1]]
  assert kept['collaborative/0'].tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'colaborative/0': [1]}, 'Did you mean "collaborative/0"'),
    ({'collaborative/9': [1]}, r'collaborative/9'),
    ({'collaborative/0': [4]}, r'\[4\] must be different experts in 0..3'),
    ({'collaborative/0': [-1]}, r'in 0..3'),
    ({'collaborative/0': [1, 1]}, 'different experts'),
    ({'collaborative/0': []}, 'at least 1'),
    ({'specialised/0': [0, 1]}, r'must be 3 list\(s\)'),
    ({'specialised/0': [[0], [1, 2], [3]]}, 'different lengths'),
    ({'collaborative/0': ['a']}, 'no list of experts'),
    ([1, 2], 'JSON object'),
  ],
)
def test_a_set_that_names_no_such_expert_is_an_error(spec, given, message):
  with pytest.raises(ValueError, match=message):
    keep.explicit(given, spec, spec.sensors)


@pytest.mark.parametrize(
  ('rule', 'message'),
  [
    ('tops:1', 'Did you mean "top"'),
    ('top', 'number of experts'),
    ('top:0', 'number of experts'),
    ('pooled:1.5', 'number of experts'),
    ('mass:0', r'share in \(0, 1\]'),
    ('mass:1.5', r'share in \(0, 1\]'),
  ],
)
def test_a_rule_that_makes_no_sense_is_an_error(spec, rule, message):
  with pytest.raises(ValueError, match=message):
    common(spec, rule)


def test_rules_need_usage_of_the_sensor(spec):
  with pytest.raises(ValueError, match='--calibration'):
    keep.choose('top:1', spec, spec.sensors)
  found = made(spec, SHARE, images=(3, 0, 2))
  with pytest.raises(ValueError, match='no image of sar_l1'):
    keep.choose('top:1', spec, spec.sensors, usage=found)
