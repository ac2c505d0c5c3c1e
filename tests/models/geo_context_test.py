"""Prototypes of a region in the features of a sample."""

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.models import geo_context

FLOAT32 = 2e-6
DIM, PROTOTYPES = 6, 4


def module():
  return geo_context.GeoContext(
    DIM, PROTOTYPES, std=None, key=jax.random.key(0)
  )


def draw(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.standard_normal(shape), 'float32')


def test_features_and_their_context_go_through_one_layer():
  made = module()
  features, prototypes = draw(2, 3, 5, DIM), draw(2, 7, PROTOTYPES, seed=1)
  y = made(features, prototypes)
  kernel = np.asarray(made.out.kernel[...], np.float64)
  for b in range(2):
    flat = np.asarray(features[b], np.float64).reshape(-1, DIM)
    p = np.asarray(prototypes[b], np.float64)
    logits = flat @ np.asarray(made.query.kernel[...]) @ p.T / PROTOTYPES**0.5
    weights = np.exp(logits)
    context = weights / weights.sum(1, keepdims=True) @ p
    expected = np.concatenate([flat, context], 1) @ kernel
    np.testing.assert_allclose(y[b].reshape(-1, DIM), expected, atol=FLOAT32)


def test_features_start_as_they_are():
  made = module()
  np.testing.assert_array_equal(made.out.kernel[:DIM], np.eye(DIM))
  assert np.abs(made.out.kernel[DIM:]).max() > 0


def test_samples_without_a_region_pass_unchanged():
  made = module()
  made.out.kernel[...] = draw(DIM + PROTOTYPES, DIM)  # No more the identity.
  features = draw(3, 2, 2, DIM)
  known = np.array([True, False, True])
  prototypes = jnp.where(known[:, None, None], draw(3, 7, PROTOTYPES), 0)
  y = made(features, prototypes)
  np.testing.assert_array_equal(y[1], features[1])
  assert (np.abs(y - features).max((1, 2, 3)) > 0).tolist() == known.tolist()
  # With a mask, what stands there does not matter.
  garbage = prototypes.at[1].set(jnp.nan)
  np.testing.assert_array_equal(made(features, garbage, known), y)


def test_no_gradient_reaches_the_prototypes():
  made = module()
  features, prototypes = draw(2, 2, 2, DIM), draw(2, 7, PROTOTYPES)
  loss = lambda f, p: jnp.square(made(f, p)).sum()
  df, dp = jax.grad(loss, (0, 1))(features, prototypes)
  assert np.abs(df).max() > 0
  np.testing.assert_array_equal(dp, 0)


def test_bfloat16_features_stay_bfloat16():
  features = draw(2, 2, 2, DIM).astype(jnp.bfloat16)
  assert module()(features, draw(2, 7, PROTOTYPES)).dtype == jnp.bfloat16


def test_queries_have_the_width_of_prototypes():
  assert module().queries(draw(2, 3, 3, DIM)).shape == (2, 3, 3, PROTOTYPES)
