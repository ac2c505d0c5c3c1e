"""Patch embeddings for other bands, by the bands' names."""

import numpy as np
import pytest

from rsfm_jax.convert import bands
from rsfm_jax.sensors import catalogue

RGB = bands.named(('red', 'green', 'blue'))
KERNEL = np.random.default_rng(0).standard_normal((2, 2, 3, 5), np.float32)


def adapt(sensor, kernel=KERNEL, have=RGB, channels=None):
  want = catalogue.get(sensor)
  return bands.adapt(kernel, have, want, channels=channels or len(want.bands))


def test_equal_bands_are_a_copy():
  kernel, _ = adapt('opt')
  np.testing.assert_array_equal(kernel, KERNEL)


def test_another_order_is_followed_by_name():
  kernel, words = adapt('opt', have=bands.named(('B', 'G', 'R')))
  np.testing.assert_array_equal(kernel, KERNEL[:, :, ::-1])
  assert 'red from red' in words


def test_ten_bands_from_three():
  """Colours copied, neighbours of red from red, the others the mean."""
  kernel, words = adapt('sentinel2_skysense')
  names = catalogue.get('sentinel2_skysense').band_names
  of = lambda name: kernel[:, :, names.index(name)] * (10 / 3)
  near = dict(rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(of('B02'), KERNEL[:, :, 2], **near)
  np.testing.assert_allclose(of('B04'), KERNEL[:, :, 0], **near)
  np.testing.assert_allclose(of('B05'), KERNEL[:, :, 0], **near)
  np.testing.assert_allclose(of('B11'), KERNEL.mean(2), **near)
  assert 'B05 from red, its neighbour' in words
  assert 'B11 from the mean' in words
  assert 'times 0.3' in words


def test_tokens_keep_their_size_where_bands_say_the_same():
  kernel, _ = adapt('ms')  # Three colours and a mean.
  np.testing.assert_allclose(kernel.sum(2), KERNEL.sum(2), rtol=1e-5, atol=1e-6)


def test_polarisations_match_by_name():
  have = bands.named(('VH', 'VV'))
  kernel, _ = adapt('sentinel1_grd', KERNEL[:, :, :2], have)
  np.testing.assert_array_equal(kernel, KERNEL[:, :, 1::-1])


def test_a_band_that_the_model_repeats():
  kernel, _ = adapt('sar_l2', channels=3)
  assert kernel.shape == KERNEL.shape
  np.testing.assert_allclose(
    kernel, np.repeat(KERNEL.mean(2, keepdims=True), 3, 2), rtol=1e-6
  )


def test_predicted_bands_are_not_scaled():
  want = catalogue.get('ms')
  found, _ = bands.select(KERNEL, RGB, want, channels=4, axis=2)
  np.testing.assert_array_equal(found[:, :, :3], KERNEL[:, :, ::-1])


def test_a_contract_that_does_not_match_the_weights():
  with pytest.raises(ValueError, match='patches of 3 bands, --bands names 2'):
    adapt('opt', have=bands.named(('VV', 'VH')))
  with pytest.raises(ValueError, match='model.channels has 5 for opt'):
    adapt('opt', channels=5)


@pytest.mark.parametrize(
  ('names', 'message'),
  [(('red', 'gren'), 'Did you mean "green"'), (('R', 'red'), 'appears twice')],
)
def test_bands_that_cannot_be(names, message):
  with pytest.raises(ValueError, match=message):
    bands.named(names)
