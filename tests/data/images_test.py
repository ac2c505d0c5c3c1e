"""JPEG and PNG."""

import io

import numpy as np
from PIL import Image
import pytest

from rsfm_jax.data import images


def encode(pixels, *, kind='PNG', mode=None):
  buffer = io.BytesIO()
  Image.fromarray(pixels, mode).save(buffer, kind)
  return buffer.getvalue()


RGB = np.random.default_rng(0).integers(0, 255, (9, 7, 3)).astype(np.uint8)


def test_png_is_exact_and_jpeg_is_close():
  png = images.read(encode(RGB), name='a.png', channels=3)
  np.testing.assert_array_equal(png, RGB)
  smooth = np.full((16, 16, 3), 100, np.uint8)
  jpeg = images.read(encode(smooth, kind='JPEG'), name='a.jpg', channels=3)
  np.testing.assert_allclose(jpeg, smooth, atol=2)


def test_grey_becomes_rgb_where_three_channels_are_asked():
  grey = encode(RGB[..., 0])
  three = images.read(grey, name='a.png', channels=3)
  np.testing.assert_array_equal(three, np.repeat(RGB[..., :1], 3, -1))
  one = images.read(grey, name='a.png', channels=1)
  np.testing.assert_array_equal(one, RGB[..., :1])


def test_colour_where_one_channel_is_asked_is_an_error():
  with pytest.raises(ValueError, match='a.png has 3 channels'):
    images.read(encode(RGB), name='a.png', channels=1)


@pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
@pytest.mark.parametrize('share', [0.0, 0.1, 0.7])
def test_a_truncated_image_is_an_error_that_names_it(kind, share):
  pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3))
  data = encode(pixels.astype(np.uint8), kind=kind)
  with pytest.raises(ValueError, match='cut.jpg is truncated or no image'):
    images.read(data[: int(share * len(data))], name='cut.jpg', channels=3)
