"""A small RingMoE with decided routers, its contract, and graphs of it."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.export import folder
from rsfm_jax.export import graph
from rsfm_jax.models import build
from rsfm_jax.models import ringmoe
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import statistics

SENSORS = ('opt', 'sar_l1', 'ms')
SPEC = ringmoe.RingMoESpec(
  sensors=SENSORS,
  channels=(3, 8, 4),
  image_size=8,
  patch_size=2,
  embed_dim=8,
  depths=(1, 1),
  heads=(1, 2),
  window=4,
  mlp_ratio=2.0,
)
# Mean and deviation, in the unit of the sensor.
LOOKS = {'opt': (120.0, 40.0), 'ms': (0.2, 0.05)}


def statistics_of(name):
  if name not in LOOKS:
    return None
  bands = catalogue.get(name).band_names
  mean, std = LOOKS[name]
  steps = 1 + 0.1 * np.arange(len(bands))
  zeros = (0.0,) * len(bands)
  return statistics.Statistics(
    mean=tuple((mean * steps).tolist()),
    std=tuple((std * steps).tolist()),
    percentiles={},
    minimum=zeros,
    maximum=zeros,
    count=(1,) * len(bands),
    bands=bands,
  )


def contract_of(names):
  found = {name: statistics_of(name) for name in names}
  return {
    'sensors': {name: catalogue.get(name).to_json() for name in names},
    'statistics': {n: s.to_json() for n, s in found.items() if s},
  }


def graph_of(name, **changes):
  return graph.Graph(
    **{
      'spec': SPEC,
      'sensor': catalogue.get(name),
      'pixels': catalogue.get(name),
      'statistics': statistics_of(name),
      'size': SPEC.image_size,
    }
    | changes
  )


@pytest.fixture(scope='session')
def make_graph():
  """`make_graph(sensor, **changes)` -> Graph."""
  return graph_of


@pytest.fixture(scope='session')
def params():
  rng = np.random.default_rng(0)

  def draw(name, leaf):
    value = 0.3 * rng.standard_normal(leaf.shape)
    value *= 5 if name.endswith('router') else 1
    return jnp.asarray(value + name.endswith('scale'), 'float32')

  return trees.map_named(draw, build.build(SPEC).abstract)


@pytest.fixture(scope='session')
def one_sensor():
  """(spec, params) of the same model of optical images alone."""
  spec = dataclasses.replace(SPEC, sensors=('opt',), channels=(3,))
  rng = np.random.default_rng(0)
  draw = lambda name, leaf: jnp.asarray(
    0.3 * rng.standard_normal(leaf.shape) + name.endswith('scale'), 'float32'
  )
  return spec, trees.map_named(draw, build.build(spec).abstract)


def save_model(path, spec, params):
  folder.save(
    path,
    params,
    spec=spec.to_json(),
    contract=contract_of(spec.sensors),
    record={'parent_hash': 'abc'},
    beside='nothing',
  )


@pytest.fixture
def model_folder(one_sensor, tmp_path):
  """A model folder of optical images."""
  save_model(tmp_path / 'model', *one_sensor)
  return tmp_path / 'model'
