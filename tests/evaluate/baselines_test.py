"""Raw band statistics of images whose statistics are known."""

import numpy as np
import pytest

from rsfm_jax.evaluate import baselines


def ramp():
  """One image [1, 11, 10, 2]: 0..10 along H; 3 times the column along W."""
  rows, columns = np.mgrid[0:11, 0:10].astype(np.float32)
  return np.stack([rows, 3 * columns], axis=-1)[None]


def test_statistics_of_a_ramp():
  out = baselines.statistics(ramp(), gradients='with')[0].reshape(9, 2)
  mean, std, levels, along_h, along_w = np.split(out, [1, 2, 7, 8])
  np.testing.assert_allclose(mean[0], [5, 13.5])
  np.testing.assert_allclose(std[0, 0], np.sqrt(10), rtol=1e-6)
  np.testing.assert_allclose(levels[2], [5, 13.5])
  assert (np.diff(levels, axis=0) > 0).all()
  np.testing.assert_allclose(along_h[0], [1, 0])
  np.testing.assert_allclose(along_w[0], [0, 3])


def test_gradients_come_after_the_statistics():
  image = np.random.default_rng(0).normal(size=(3, 8, 8, 4))
  short = baselines.BASELINES['raw_statistics'](image)
  long = baselines.BASELINES['raw_statistics_gradients'](image)
  assert short.shape == (3, 28) and long.shape == (3, 36)
  np.testing.assert_array_equal(short, long[:, :28])
  with pytest.raises(ValueError, match='baseline.gradients'):
    baselines.statistics(image, gradients='yes')
