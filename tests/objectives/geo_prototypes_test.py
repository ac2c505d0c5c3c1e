"""Prototypes of regions: cells, sums over the batch, who moves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.models import geo_context
from rsfm_jax.objectives import geo_prototypes
from rsfm_jax.objectives import sinkhorn
from rsfm_jax.sharding import mesh as meshes

FLOAT32 = 1e-5
REGIONS, NUMBER, DIM = 6, 5, 4


def prototypes():
  return geo_prototypes.init(
    jax.random.key(0), regions=REGIONS, prototypes=NUMBER, dim=DIM
  )


def features(batch=4, places=9, seed=0):
  rng = np.random.default_rng(seed)
  return rng.standard_normal((batch, places, DIM)).astype('float32')


statistics = jax.jit(geo_prototypes.statistics)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def slow(start, x, region, momentum):
  """Eq. 13-15 sample by sample."""
  end = np.array(start)
  for r in sorted(set(region)):
    found = []
    for one in x[region == r]:
      assignment = np.asarray(sinkhorn.sinkhorn(unit(one) @ unit(start[r]).T))
      shares = assignment / assignment.sum(0)
      found.append(shares.T @ one)
    end[r] = momentum * start[r] + (1 - momentum) * np.mean(found, 0)
  return end


def test_seen_regions_move_by_the_mean_of_their_samples():
  start, x = np.asarray(prototypes()), features()
  region = np.array([2, 0, 2, 5], 'int32')
  sums = statistics(start, x, region)
  np.testing.assert_array_equal(sums.count, [1, 0, 2, 0, 0, 1])
  moved = geo_prototypes.update(start, sums, momentum=0.9)
  expected = slow(start, x, region, 0.9)
  np.testing.assert_allclose(moved, expected, atol=FLOAT32)
  unseen = np.array([1, 3, 4])
  np.testing.assert_array_equal(moved[unseen], start[unseen])


def test_numbers_that_are_no_region_are_ignored():
  start, x = prototypes(), features()
  sums = statistics(start, x, np.array([-1, 1, REGIONS, 99], 'int32'))
  np.testing.assert_array_equal(sums.count, [0, 1, 0, 0, 0, 0])
  alone = statistics(start, x[1:2], np.array([1], 'int32'))
  np.testing.assert_allclose(sums.total, alone.total, atol=FLOAT32)
  found = geo_context.lookup(start, np.array([-1, 1, REGIONS], 'int32'))
  np.testing.assert_array_equal(found[jnp.array([0, 2])], 0)
  np.testing.assert_array_equal(found[1], start[1])


def test_a_batch_without_any_region_moves_nothing():
  start = prototypes()
  sums = statistics(start, features(), np.full(4, -1, 'int32'))
  moved = geo_prototypes.update(start, sums)
  np.testing.assert_array_equal(moved, start)


@pytest.mark.parametrize('places', [False, True])
def test_what_does_not_count_changes_no_bit(places):
  start, x = prototypes(), features()
  region = np.array([2, 0, 2, 5], 'int32')
  if places:
    valid = np.random.default_rng(1).random((4, 9)) > 0.4
    valid[3] = False
  else:
    valid = np.array([True, True, False, False])
  cells = valid if places else np.broadcast_to(valid[:, None], (4, 9))
  clean = statistics(start, x, region, valid)
  dirty = np.where(cells[..., None], x, np.nan).astype('float32')
  for a, b in zip(clean, statistics(start, dirty, region, valid), strict=True):
    assert np.isfinite(a).all()
    np.testing.assert_array_equal(a, b)
  np.testing.assert_array_equal(clean.count, [1, 0, 1 + places, 0, 0, 0])
  if places:
    alone = statistics(start, x[:1, valid[0]], region[:1])
    first = statistics(start, x[:1], region[:1], valid[:1])
    np.testing.assert_allclose(first.total, alone.total, atol=FLOAT32)


def test_sums_of_all_devices_are_those_of_one():
  start, x = prototypes(), features(batch=16)
  region = np.random.default_rng(1).integers(-1, REGIONS, 16).astype('int32')
  valid = np.random.default_rng(2).random((16, 9)) > 0.3
  one = statistics(start, x, region, valid)
  mesh = meshes.make_mesh()
  cut = functools.partial(jax.device_put, device=meshes.batch_sharding(mesh))
  whole = jax.device_put(start, meshes.replicated(mesh))
  all_of_them = statistics(whole, cut(x), cut(region), cut(valid))
  np.testing.assert_array_equal(one.count, all_of_them.count)
  np.testing.assert_allclose(one.total, all_of_them.total, atol=FLOAT32)


def test_prototypes_may_be_cut_by_region():
  start = geo_prototypes.init(
    jax.random.key(0), regions=16, prototypes=NUMBER, dim=DIM
  )
  x, region = features(batch=8), np.arange(8, dtype='int32') * 2
  step = jax.jit(
    lambda p, x, r: geo_prototypes.update(
      p, geo_prototypes.statistics(p, x, r), momentum=0.5
    )
  )
  sharding = meshes.batch_sharding(meshes.make_mesh())
  apart = step(*(jax.device_put(a, sharding) for a in (start, x, region)))
  np.testing.assert_allclose(apart, step(start, x, region), atol=FLOAT32)


def test_microbatches_add_up():
  start, x = prototypes(), features()
  region = np.array([2, 0, 2, 5], 'int32')
  parts = [statistics(start, x[i : i + 2], region[i : i + 2]) for i in (0, 2)]
  mean = jax.tree.map(lambda a, b: (a + b) / 2, *parts)
  np.testing.assert_allclose(
    geo_prototypes.update(start, mean),
    geo_prototypes.update(start, statistics(start, x, region)),
    atol=FLOAT32,
  )


def test_no_gradient_into_features_or_prototypes():
  region = np.zeros(4, 'int32')
  loss = lambda p, x: geo_prototypes.statistics(p, x, region).total.sum()
  for gradient in jax.grad(loss, (0, 1))(prototypes(), features()):
    np.testing.assert_array_equal(gradient, 0)


def test_prototypes_end_where_features_gather():
  rng = np.random.default_rng(0)
  centres = unit(rng.standard_normal((3, DIM)))
  start = unit(centres + 0.4 * rng.standard_normal((3, DIM)))
  assert (unit(start) * centres).sum(1).min() < 0.9
  p = jnp.asarray(np.stack([start, start]), jnp.float32)
  for _ in range(20):
    noise = 0.05 * rng.standard_normal((1, 30, DIM))
    x = np.repeat(centres, 10, 0)[None] + noise
    sums = statistics(p, x.astype('float32'), np.zeros(1, 'int32'))
    p = geo_prototypes.update(p, sums, momentum=0.7)
  assert (unit(np.asarray(p[0])) * centres).sum(1).min() > 0.99
  np.testing.assert_array_equal(p[1], start.astype('float32'))


def test_numbers_from_files_are_checked():
  region = np.array([-1, 0, 15])
  np.testing.assert_array_equal(
    geo_prototypes.check_regions(region, 16), region
  )
  for wrong in (16, -2):
    with pytest.raises(ValueError, match=f'region={wrong} is none of the 16'):
      geo_prototypes.check_regions(np.array([0, wrong]), 16)
