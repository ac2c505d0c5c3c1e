"""Sinkhorn-Knopp: what rows and columns add up to, and who counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.objectives import sinkhorn
from rsfm_jax.sharding import mesh as meshes

FLOAT32 = 1e-5


def logits(rows=8, columns=5, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(-1, 1, (rows, columns)).astype('float32')


def slow(x, *, iterations=3, temperature=0.05, weights=None):
  """The usual code: exp, then columns and rows in turn, in float64."""
  q = np.exp(x.astype('float64') / temperature)
  weights = np.ones(len(q)) if weights is None else weights
  for _ in range(iterations):
    q /= (q * weights[:, None]).sum(0)
    q /= q.sum(1, keepdims=True)
  return q


@pytest.mark.parametrize('iterations', [1, 3, 10])
def test_it_is_columns_and_rows_in_turn(iterations):
  x = logits()
  got = jax.jit(
    lambda x: sinkhorn.sinkhorn(x, iterations=iterations, temperature=0.1)
  )(x)
  expected = slow(x, iterations=iterations, temperature=0.1)
  np.testing.assert_allclose(got, expected, atol=FLOAT32)
  np.testing.assert_allclose(got.sum(1), 1, atol=FLOAT32)


def test_many_iterations_use_all_columns_alike():
  q = sinkhorn.sinkhorn(logits(), iterations=100, temperature=0.5)
  np.testing.assert_allclose(q.sum(0), 8 / 5, rtol=1e-4)


def test_equal_rows_are_spread_evenly():
  q = sinkhorn.sinkhorn(np.tile(logits(1), (6, 1)))
  np.testing.assert_allclose(q, 1 / 5, atol=FLOAT32)


def test_weights_count_rows_as_often_as_they_say():
  x = logits()
  repeated = np.concatenate([x, x[:2]])
  weights = np.r_[2.0, 2.0, np.ones(6)].astype('float32')
  np.testing.assert_allclose(
    sinkhorn.sinkhorn(x, weights=weights),
    sinkhorn.sinkhorn(repeated)[:8],
    atol=FLOAT32,
  )
  np.testing.assert_allclose(
    sinkhorn.sinkhorn(x, weights=weights),
    slow(x, weights=weights),
    atol=FLOAT32,
  )


def test_rows_that_do_not_count_change_no_bit():
  x, valid = logits(), np.r_[np.ones(5, bool), np.zeros(3, bool)]
  run = jax.jit(lambda x: sinkhorn.sinkhorn(x, weights=valid))
  clean = run(x)
  for garbage in (np.nan, np.inf, -np.inf, 1e30):
    got = run(np.where(valid[:, None], x, garbage).astype('float32'))
    np.testing.assert_array_equal(got[:5], clean[:5])
    assert np.isfinite(got).all()
  np.testing.assert_allclose(clean[:5], sinkhorn.sinkhorn(x[:5]), atol=FLOAT32)


def test_nothing_that_counts_is_no_nan():
  q = sinkhorn.sinkhorn(logits(), weights=np.zeros(8, bool))
  np.testing.assert_allclose(q.sum(1), 1, atol=FLOAT32)
  shares = sinkhorn.columns_to_one(q, np.zeros(8, bool))
  np.testing.assert_array_equal(shares, 0)


def test_no_size_of_logits_overflows():
  x = 1e4 * logits()
  q = sinkhorn.sinkhorn(x, temperature=0.04)
  assert np.isfinite(q).all()
  np.testing.assert_allclose(q.sum(1), 1, atol=1e-4)
  # Seven rows want column 0, one wants column 1: exp underflows between.
  x = np.zeros((8, 2), 'float32')
  x[:7, 0], x[7, 1] = 200, 200
  q = sinkhorn.sinkhorn(x, temperature=1.0)
  np.testing.assert_allclose(q[7], [0, 1], atol=FLOAT32)


def test_no_gradient_and_float32_from_any_dtype():
  x = jnp.asarray(logits(), jnp.bfloat16)
  assert sinkhorn.sinkhorn(x).dtype == jnp.float32
  gradient = jax.grad(lambda x: sinkhorn.sinkhorn(x)[0, 0])(logits())
  np.testing.assert_array_equal(gradient, 0)


def test_leading_dimensions_are_problems_of_their_own():
  x = np.stack([logits(), logits(seed=1)])
  both = sinkhorn.sinkhorn(x)
  for one, got in zip(x, both, strict=True):
    np.testing.assert_allclose(got, sinkhorn.sinkhorn(one), atol=FLOAT32)


def test_columns_share_out_one():
  valid = np.r_[np.ones(6, bool), np.zeros(2, bool)]
  q = sinkhorn.sinkhorn(logits(), weights=valid)
  shares = sinkhorn.columns_to_one(q, valid)
  np.testing.assert_allclose(shares.sum(0), 1, atol=FLOAT32)
  np.testing.assert_array_equal(shares[6:], 0)


def test_the_batch_is_that_of_all_devices():
  x = logits(rows=16)
  sharding = meshes.batch_sharding(meshes.make_mesh())
  apart = jax.jit(sinkhorn.sinkhorn)(jax.device_put(x, sharding))
  np.testing.assert_allclose(apart, sinkhorn.sinkhorn(x), atol=FLOAT32)


def test_at_least_one_iteration():
  with pytest.raises(ValueError, match='iterations=0 of Sinkhorn'):
    sinkhorn.sinkhorn(logits(), iterations=0)
