"""Windows stay inside, symmetries only move pixels, nodata never leaks."""

import numpy as np
import pytest

from rsfm_jax.data import augment


def _rng(seed=0):
  return np.random.default_rng(seed)


@pytest.mark.parametrize('shape', [(64, 64), (40, 90), (5, 3)])
def test_random_windows_hold_area_and_aspect(shape):
  crop = augment.Crop(size=8, area=(0.2, 0.5), aspect=(0.75, 4 / 3))
  rng = _rng()
  for _ in range(300):
    box = augment.random_box(rng, shape, crop)
    assert 0 <= box.top <= shape[0] - box.height
    assert 0 <= box.left <= shape[1] - box.width
    if min(shape) > 32:  # Otherwise rounding to pixels dominates.
      assert 0.18 < box.height * box.width / np.prod(shape) < 0.53
      assert 0.7 < box.width / box.height < 1.4


def test_windows_reach_every_corner():
  crop = augment.Crop(size=8, area=(0.25, 0.25), aspect=(1, 1))
  rng = _rng()
  boxes = [augment.random_box(rng, (16, 16), crop) for _ in range(800)]
  assert {(b.top, b.left) for b in boxes} == {
    (y, x) for y in range(9) for x in range(9)
  }


def test_exact_window_that_does_not_fit_is_refused():
  with pytest.raises(ValueError, match=r'16 x 16.*12 x 64'):
    augment.exact_box(_rng(), (12, 64), 16)


def test_whole_pixels_are_copied_untouched():
  image = _rng().normal(size=(20, 20, 5)).astype(np.float32)
  box = augment.Box(3, 4, 8, 8)
  out = augment.resize(image, box, 8, filter='bicubic')
  np.testing.assert_array_equal(out, image[3:11, 4:12])


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize('channels', [1, 2, 3, 4, 5])
def test_resize_keeps_channels_apart(dtype, channels):
  planes = [np.full((12, 12), 20 * (c + 1), dtype) for c in range(channels)]
  out = augment.resize(
    np.stack(planes, -1), augment.Box(0.5, 1, 9, 9), 5, filter='bicubic'
  )
  assert out.shape == (5, 5, channels)
  assert out.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
  np.testing.assert_allclose(
    out, np.broadcast_to(20 * np.arange(1, channels + 1), out.shape), rtol=1e-6
  )


def test_halving_a_ramp_averages_it():
  ramp = np.tile(np.arange(64, dtype=np.float32), (64, 1))
  out = augment.resize(ramp, augment.Box(0, 0, 64, 64), 32, filter='bilinear')
  expected = np.arange(32) * 2 + 0.5
  np.testing.assert_allclose(out[5, 2:-2], expected[2:-2], atol=1e-3)


def test_resized_validity_covers_all_that_was_mixed_in():
  valid = np.ones((32, 32), bool)
  valid[10, 10] = False
  clean = np.zeros((32, 32), np.float32)
  dirty = np.where(valid, clean, 1e6).astype(np.float32)
  box = augment.Box(2, 3, 24, 24)
  for name in ('bilinear', 'bicubic'):
    mask = augment.resize_valid(valid, box, 10, filter=name)
    touched = augment.resize(dirty, box, 10, filter=name) != 0
    assert touched.any() and mask.any()
    # A weight below 1e-4 may pass: it is lost in the noise of any sensor.
    assert np.abs(augment.resize(dirty, box, 10, filter=name))[mask].max() < 200


def test_symmetries_are_the_eight_of_the_square():
  image = np.arange(16).reshape(4, 4)
  seen = {augment.apply_symmetry(image, n).tobytes() for n in range(8)}
  assert len(seen) == 8
  for n in range(8):
    out = augment.apply_symmetry(image, n)
    assert sorted(out.ravel()) == list(range(16))
  np.testing.assert_array_equal(
    augment.apply_symmetry(image, 1), image[:, ::-1]
  )


@pytest.mark.parametrize(
  ('name', 'count'), [('none', 1), ('flip', 2), ('d4', 8)]
)
def test_symmetries_are_drawn_evenly(name, count):
  rng = _rng()
  drawn = [augment.random_symmetry(rng, name) for _ in range(1600)]
  frequency = np.bincount(drawn) / 1600
  assert len(frequency) == count
  np.testing.assert_allclose(frequency, 1 / count, atol=0.04)


def test_transfer_covers_the_same_ground():
  box = augment.transfer(augment.Box(16, 8, 32, 24), (64, 64), (16, 128))
  assert box == (4, 16, 8, 48)


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'size': 0}, r'crop\.size=0'),
    ({'area': (0.5, 1.5)}, r'crop\.area'),
    ({'aspect': (2.0, 1.0)}, r'crop\.aspect'),
    ({'symmetry': 'flips'}, 'Did you mean "flip"'),
    ({'filter': 'bicubik'}, 'Did you mean "bicubic"'),
  ],
)
def test_bad_settings_name_their_key(kwargs, message):
  with pytest.raises(ValueError, match=message):
    augment.Crop(**({'size': 8} | kwargs))
