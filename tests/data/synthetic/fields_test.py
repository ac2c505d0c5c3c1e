import numpy as np
import pytest

from rsfm_jax.data.synthetic import fields


def test_streams_differ_by_seed_index_and_name():
  draws = {
    fields.stream(seed, index, name).random()
    for seed in (0, 1)
    for index in (0, 1)
    for name in ('a', 'b')
  }
  assert len(draws) == 8
  assert fields.stream(0, 1, 'a').random() in draws


def test_fields_have_unit_variance_and_no_mean():
  rng = np.random.default_rng(0)
  filters = [fields.fractal(64, 1.8), fields.bandpass(64, 8.0)]
  drawn = fields.filtered(rng, filters)
  assert drawn.dtype == np.float32 and drawn.shape == (2, 64, 64)
  np.testing.assert_allclose(drawn.mean((1, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(drawn.std((1, 2)), 1, atol=1e-4)


@pytest.mark.parametrize('slope', [1.3, 2.0])
def test_fractal_power_falls_as_the_slope_says(slope):
  rng = np.random.default_rng(0)
  drawn = fields.filtered(rng, [fields.fractal(128, slope)] * 20)
  power = (np.abs(np.fft.fft2(drawn)) ** 2).mean(0)[0, 2:40]
  fitted = np.polyfit(np.log(np.arange(2, 40)), np.log(power), 1)[0]
  assert abs(fitted + 2 * slope) < 0.15


def test_bandpass_has_its_wavelength():
  rng = np.random.default_rng(0)
  drawn = fields.filtered(rng, [fields.bandpass(128, 8.0, 0.2)] * 8)
  power = (np.abs(np.fft.fft2(drawn)) ** 2).mean(0)[0, :64]
  assert abs(np.argmax(power) - 128 / 8) <= 3


def test_smooth_keeps_flat_images_and_mixes_edges():
  image = np.zeros((8, 8, 2), np.float32)
  image[:, 4:] = 1
  out = fields.smooth(image, 0.2)
  np.testing.assert_allclose(out[3, :, 0], [0, 0, 0, 0.2, 0.8, 1, 1, 1])
  np.testing.assert_allclose(fields.smooth(np.ones((4, 4))), 1, rtol=1e-6)


def test_box_mean_equals_the_slow_mean():
  image = np.random.default_rng(0).normal(size=(9, 10, 2))
  out = fields.box_mean(image, 3)
  np.testing.assert_allclose(out[4, 5], image[3:6, 4:7].mean((0, 1)), rtol=1e-6)
  np.testing.assert_allclose(out.shape, image.shape)
