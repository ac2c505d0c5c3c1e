"""Names and shapes of a tiny model are an API, held by a golden table.

To accept a deliberate change: `python tests/models/build_test.py`.
"""

import json
import pathlib

import jax
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.models import sizes

GOLDEN = pathlib.Path(__file__).parent.parent / 'golden'
SMALLEST = dict(
  image_size=16, depths=(2, 1), heads=(1, 2), embed_dim=8, window=4
)


def spec(attention='v2_cosine', **changes):
  return sizes.ringmoe_spec(
    'tiny', **(SMALLEST | dict(attention=attention) | changes)
  )


def golden_specs():
  """{name of a golden table: spec}."""
  return {
    'ringmoe_v1_bias': spec('v1_bias'),
    'ringmoe_v2_cosine': spec('v2_cosine'),
    'skysense_v2_tiny': sizes.skysense_v2_spec('tiny'),
    'mapex_tiny': sizes.mapex_spec('tiny'),
  }


def table(name):
  flat = trees.flatten(build.build(golden_specs()[name]).abstract)
  return ''.join(
    f'{name} {list(leaf.shape)} {leaf.dtype}\n' for name, leaf in flat.items()
  )


@pytest.mark.parametrize('name', golden_specs())
def test_names_and_shapes_are_what_they_were(name):
  assert table(name) == (GOLDEN / f'{name}.txt').read_text()


@pytest.fixture(scope='module')
def model():
  return build.build(spec(sensors=('opt', 'sar_l1'), channels=(3, 8)))


def test_init_has_the_abstract_names_shapes_and_dtypes(model):
  """No weak types either: with them a jitted step would compile twice."""
  kind = lambda x: (x.shape, x.dtype, getattr(x, 'weak_type', False))
  made = jax.tree.map(lambda x: kind(x.aval), model.init(jax.random.key(0)))
  assert made == jax.tree.map(
    lambda x: (x.shape, x.dtype, False), model.abstract
  )


def test_init_is_a_function_of_the_key(model):
  a, b, c = (
    trees.flatten(jax.device_get(model.init(jax.random.key(i))))
    for i in (0, 0, 1)
  )
  for name, leaf in a.items():
    np.testing.assert_array_equal(leaf, b[name])
    random = not name.endswith(('bias', 'scale', 'b_in', 'b_out'))
    assert (leaf != c[name]).any() == random, name


def test_no_two_matrices_start_alike(model):
  """Every one has a key of its own, also of one shape."""
  flat = trees.flatten(jax.device_get(model.init(jax.random.key(0))))
  rows = [
    row[:8].tobytes()
    for name, leaf in flat.items()
    if not name.endswith(('bias', 'scale', 'b_in', 'b_out'))
    for row in leaf.reshape(*leaf.shape[:-2], -1).reshape(-1, leaf.shape[-1])
  ]
  assert len(set(rows)) == len(rows) > 100


def test_a_spec_survives_json():
  one = spec(balance_scale=8.0, init_std=None)
  text = json.dumps(one.to_json())
  assert build.spec_from_json(json.loads(text)) == one


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'model': 'ringmo'}, 'Did you mean "ringmoe"'),
    ({'embed_dims': 8}, 'Did you mean "embed_dim"'),
    ({'depths': None}, 'not a RingMoE spec'),
  ],
)
def test_a_damaged_spec_is_an_error_that_helps(change, words):
  value = spec().to_json() | change
  value = {k: v for k, v in value.items() if v is not None}
  with pytest.raises(ValueError, match=words):
    build.spec_from_json(value)


if __name__ == '__main__':
  for name_ in golden_specs():
    (GOLDEN / f'{name_}.txt').write_text(table(name_))
