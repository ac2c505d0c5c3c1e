"""Frozen features: order, pools, views, padding, scaling."""

import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.evaluate import features


def encode(params, image):
  return {'fine': params * image, 'coarse': image[:, ::2, ::2, :1] ** 2}


def images(count, seed=0):
  return np.random.default_rng(seed).normal(size=(count, 4, 4, 3))


def batches(x, labels, size, fill=np.nan):
  """Batches of one size; the last one is filled up with junk."""
  for start in range(0, len(x), size):
    part = x[start : start + size]
    batch = {
      'image': np.full((size, *x.shape[1:]), fill, np.float32),
      'valid': np.arange(size) < len(part),
      'label': np.full(size, -7),
    }
    batch['image'][: len(part)] = part
    batch['label'][: len(part)] = labels[start : start + size]
    yield batch


def test_pools_then_stages_in_the_order_given():
  x = images(5)
  extract = features.Extractor(encode, ['coarse', 'fine'])
  out = extract(2.0, batches(x, np.arange(5), 5)).values
  coarse, fine = x[:, ::2, ::2, :1] ** 2, 2 * x
  expected = [
    coarse.mean((1, 2)), fine.mean((1, 2)), coarse.std((1, 2)),
    fine.std((1, 2)),
  ]  # fmt: skip
  np.testing.assert_allclose(out, np.concatenate(expected, 1), atol=1e-5)
  deviation = features.of_pool(out, 'std', pools=('mean', 'std'))
  np.testing.assert_array_equal(deviation, out[:, 4:])
  with pytest.raises(ValueError, match="features.pools='max'"):
    features.of_pool(out, 'max', pools=('mean', 'std'))


@pytest.mark.parametrize('fill', [0.0, np.nan, np.inf])
def test_batch_size_and_padding_never_matter(fill):
  x, labels = images(7), np.arange(7)
  extract = features.Extractor(encode, ['fine'], pools=['mean', 'max'])
  whole = extract(1.0, batches(x, labels, 7))
  parts = extract(1.0, batches(x, labels, 3, fill))
  np.testing.assert_array_equal(whole.values, parts.values)
  np.testing.assert_array_equal(parts.labels, labels)


def test_no_encoder_sees_padding():
  def mixing(params, image):  # Every row sees every other one.
    return {'map': params * image + image.sum(axis=0, keepdims=True)}

  extract = features.Extractor(mixing, ['map'])
  x = images(2)
  outs = [
    extract(1.0, batches(x, np.zeros(2), 4, fill)).values
    for fill in (0.0, np.nan)
  ]
  np.testing.assert_array_equal(*outs)


def test_d4_features_do_not_see_orientation():
  def oriented(params, image):
    ramp = jnp.arange(4.0)[None, :, None, None]
    return {'map': params * image * ramp}

  x = images(2)
  turned = np.rot90(x, axes=(1, 2))
  labels = np.zeros(2)
  extract = lambda views, x: (
    features.Extractor(oriented, ['map'], views=views)(
      1.0, batches(x, labels, 2)
    ).values
  )
  np.testing.assert_allclose(extract('d4', x), extract('d4', turned), atol=1e-5)
  assert (
    np.abs(extract('identity', x) - extract('identity', turned)).max() > 0.1
  )


def test_the_eight_views_are_all_different():
  views = features.d4(jnp.asarray(images(1)))
  assert len({np.asarray(view).tobytes() for view in views}) == 8


def test_features_that_are_not_finite_are_refused():
  x = images(4)
  x[2, 0, 0, 0] = np.nan
  with pytest.raises(ValueError, match='1 of 4 valid samples.*sample 2'):
    features.Extractor(encode, ['fine'])(1.0, batches(x, np.zeros(4), 2))


def test_bad_input_is_named():
  with pytest.raises(ValueError, match='Did you mean "coarse"'):
    features.Extractor(encode, ['course'])(
      1.0, batches(images(1), np.zeros(1), 1)
    )
  with pytest.raises(ValueError, match='no valid sample'):
    features.collect(np.asarray, [])
  with pytest.raises(ValueError, match='square'):
    features.d4(jnp.zeros((1, 4, 6, 1)))
  with pytest.raises(ValueError, match='scaling='):
    features.scaler(np.eye(3), scaling='zscore')


def test_standardised_train_features():
  x = np.random.default_rng(0).normal(size=(50, 3)) * [1, 1e3, 1e-3] + 7
  x = np.concatenate([x, np.full((50, 1), 3.3)], axis=1)
  scale = features.scaler(x, scaling='standardise')
  out = scale(x)
  np.testing.assert_allclose(out.mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(out.std(0), [1, 1, 1, 0], atol=1e-5)
  assert np.abs(scale(x + 1)[:, 3]).max() == 0  # It never varied in train.


def test_whitened_train_features():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(200, 4)) @ rng.normal(size=(4, 4)) + 2
  x = np.concatenate([x, x[:, :1] - x[:, 1:2]], axis=1)  # Rank 4 of 5.
  out = features.scaler(x, scaling='whiten', components=4)(x)
  np.testing.assert_allclose(out.T @ out / 200, np.eye(4), atol=1e-4)
  full = features.scaler(x, scaling='whiten')(x)
  assert np.isfinite(full).all() and np.abs(full[:, 4]).max() < 1e-3


def test_no_scaling_is_the_identity():
  x = np.float32([[1, 2], [3, 5]])
  np.testing.assert_array_equal(features.scaler(x, scaling='none')(x), x)
