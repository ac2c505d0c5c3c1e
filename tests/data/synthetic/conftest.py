"""Plain grounds of one or two materials, and small sets of scenes."""

import functools

import numpy as np
import pytest

from rsfm_jax.data.synthetic import ground as ground_lib
from rsfm_jax.data.synthetic import objects
from rsfm_jax.data.synthetic import samples
from rsfm_jax.data.synthetic import scene
from rsfm_jax.sensors import catalogue


def _plain(names, patch=None, *, terrain=None, size=64, gsd_m=2.0):
  flat = np.zeros((size, size), np.float32)
  patch = flat if patch is None else patch
  rng = np.random.default_rng(0)
  rows = ground_lib.draw_patches(rng, names, gsd_m=gsd_m)
  return ground_lib.Ground(
    gsd_m=gsd_m,
    patch=patch.astype(np.int16),
    patches=rows._replace(
      gain=np.ones_like(rows.gain), sar_db=np.zeros_like(rows.sar_db)
    ),
    fields=np.zeros((4, size, size), np.float32),
    terrain=flat if terrain is None else terrain.astype(np.float32),
    above=flat,
    still_patch=patch.astype(np.int16),
    still_above=flat,
    boxes=np.zeros((0, len(objects.COLUMNS)), np.float32),
    box_patch=np.zeros(0, np.int16),
    box_height=np.zeros(0, np.float32),
    motion=ground_lib.still(0),
  )


@pytest.fixture(scope='session')
def plain_ground():
  """Makes a ground without texture or gain variation: names, patch map."""
  return _plain


@pytest.fixture(scope='session')
def ringmoe_sensors():
  return tuple(
    catalogue.get(name) for name in ('opt', 'sar_l1', 'sar_l2', 'ms')
  )


@pytest.fixture(scope='session')
def scenes():
  """Makes (and keeps) `count` scenes of a theme, or of all themes."""

  @functools.cache
  def make(theme: str | None = None, count: int = 8, seed: int = 3):
    step = len(scene.CLASSES) if theme else 1
    start = scene.CLASSES.index(theme) if theme else 0
    return [
      scene.compose(seed=seed, index=start + k * step, size=64)
      for k in range(count)
    ]

  return make


@pytest.fixture(scope='session')
def options(ringmoe_sensors):
  return samples.Options(sensors=ringmoe_sensors, seed=3)
