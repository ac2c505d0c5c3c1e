"""A small RingMoE with decided routers, and what its experts are used for."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.models import ringmoe
from rsfm_jax.pruning import usage

SPEC = ringmoe.RingMoESpec(
  sensors=('opt', 'sar_l1', 'ms'),
  channels=(3, 8, 4),
  image_size=8,
  patch_size=2,
  embed_dim=8,
  depths=(1, 1),
  heads=(1, 2),
  window=4,
  mlp_ratio=2.0,
)


class Subject(NamedTuple):
  """A model to be cut, and the images that it is measured on."""

  spec: ringmoe.RingMoESpec
  params: Any
  images: dict[str, jax.Array]


def run(spec, params, images, **options):
  return compiled(spec)(params, images, **options)


@functools.cache
def compiled(spec):
  return jax.jit(build.build(spec).apply, static_argnames='mode')


def measure(spec, params, images):
  apply = compiled(spec)
  return usage.measure(apply, params, [images], sensors=spec.sensors)


@pytest.fixture(scope='session')
def subject():
  """`subject(**changes)` of the spec -> Subject."""
  return make


@functools.cache
def make(**changes):
  spec = dataclasses.replace(SPEC, **changes)
  rng = np.random.default_rng(0)

  def draw(name, leaf):
    value = 0.3 * rng.standard_normal(leaf.shape)
    value *= 5 if name.endswith('router') else 1
    return jnp.asarray(value + name.endswith('scale'), 'float32')

  params = trees.map_named(draw, build.build(spec).abstract)
  images = {
    s: jnp.asarray(rng.standard_normal((n, 8, 8, c)), 'float32')
    for s, n, c in zip(spec.sensors, (3, 1, 2), spec.channels)
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
