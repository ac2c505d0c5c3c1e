"""Small models with decided routers, and what their experts are used for."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import once
from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.models import mapex_spec
from rsfm_jax.models import ringmoe
from rsfm_jax.models import skysense_v2_spec
from rsfm_jax.pruning import surgery
from rsfm_jax.pruning import usage

SPECS = {
  'ringmoe': ringmoe.RingMoESpec(
    sensors=('opt', 'sar_l1', 'ms'),
    channels=(3, 8, 4),
    image_size=8,
    patch_size=2,
    embed_dim=8,
    depths=(1, 1),
    heads=(1, 2),
    window=4,
    mlp_ratio=2.0,
  ),
  'skysense_v2': skysense_v2_spec.SkySenseV2Spec(
    # Equal grids: one pass through the trunk to compile.
    reduces=((False,) * 3,) * 3,
    image_sizes=(4, 4, 4),
    patch_size=2,
    embed_dim=8,
    depths=(1, 1, 2, 1),
    heads=(1, 1, 1, 1),
    window=4,
    mlp_ratio=2.0,
    prompts=1,
    experts=3,
    moe_layers=3,
    fusion_depth=0,
    prototypes_dim=0,
    init_std=None,
  ),
  'mapex': mapex_spec.MapexSpec(
    sensors=('s2_rgb', 's2_nir', 's1_vv'),
    channels=(3, 1, 1),
    image_size=4,
    patch_size=2,
    embed_dim=8,
    depth=5,
    heads=1,
    mlp_ratio=2.0,
    experts=(3, 3),
    decoder_depth=0,
    init_std=None,
  ),
}

# Images of each sensor.
COUNTS = {'ringmoe': (3, 1, 2), 'skysense_v2': (2, 2, 2), 'mapex': (2, 2, 2)}


class Subject(NamedTuple):
  """A model to be cut, and the images that it is measured on."""

  spec: Any
  params: Any
  images: dict[str, jax.Array]


def run(spec, params, images, mode='eval'):
  return compiled(spec, mode)(params, images)


@functools.cache
def compiled(spec, mode):
  return once.jit(functools.partial(build.build(spec).apply, mode=mode))


def measure(spec, params, images):
  return usage.measure(spec, build.build(spec).apply, params, [images])


def cut_down(spec, params, **how):
  """`surgery.plan`, carried out: (spec, params)."""
  small = surgery.plan(spec, trees.flatten(params), **how)
  return small.spec, small.params(params)


@pytest.fixture(scope='session')
def subject():
  """`subject(system, **changes)` of the spec -> Subject."""
  return make


@functools.cache
def make(system='ringmoe', **changes):
  spec = dataclasses.replace(SPECS[system], **changes)
  rng = np.random.default_rng(0)

  def draw(name, leaf):
    value = 0.3 * rng.standard_normal(leaf.shape)
    value *= 5 if name.endswith('router') else 1
    return jnp.asarray(value + name.endswith('scale'), 'float32')

  params = trees.map_named(draw, build.build(spec).abstract)
  side = getattr(spec, 'image_size', None)
  sizes = getattr(spec, 'image_sizes', (side,) * len(spec.sensors))
  images = {
    s: jnp.asarray(rng.standard_normal((n, size, size, c)), 'float32')
    for s, n, size, c in zip(
      spec.sensors, COUNTS[system], sizes, spec.channels, strict=True
    )
  }
  return Subject(spec, params, images)


@pytest.fixture(scope='session')
def forward():
  """`forward(spec, params, images)` -> Output, compiled once per spec."""
  return run


@pytest.fixture(scope='session')
def measured():
  """`measured(spec, params, images)` -> Usage."""
  return measure


@pytest.fixture(scope='session')
def cut():
  """`cut(spec, params, **how)` -> the smaller (spec, params)."""
  return cut_down


@pytest.fixture(params=SPECS)
def system(request):
  return request.param
