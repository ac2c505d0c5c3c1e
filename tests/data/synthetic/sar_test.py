import dataclasses

import numpy as np
import pytest

from rsfm_jax.data.synthetic import ground as ground_lib
from rsfm_jax.data.synthetic import materials
from rsfm_jax.data.synthetic import objects
from rsfm_jax.data.synthetic import sar
from rsfm_jax.sensors import catalogue

HH, HV, VH, VV = range(4)
_CLASSES = sorted(set(sar.CLASS_OF_MATERIAL.tolist())) + [sar.SHADOW]


def _homogeneous(k: int, size: int = 200, seed: int = 0) -> np.ndarray:
  classes = np.full((size, size), k)
  gain = np.ones((size, size), np.float32)
  return sar.speckle(classes, gain, np.random.default_rng(seed))


def _variation(x: np.ndarray) -> np.ndarray:
  return x.std((0, 1)) / x.mean((0, 1))


def test_single_look_speckle_is_exponential_in_power():
  image = _homogeneous(0)
  power = np.abs(image) ** 2
  np.testing.assert_allclose(_variation(power), 1.0, atol=0.02)
  np.testing.assert_allclose(
    _variation(np.abs(image)), np.sqrt(4 / np.pi - 1), atol=0.006
  )
  phase = np.angle(image[..., HH]).ravel()  # Uniform: fully developed.
  assert np.abs(np.exp(1j * phase).mean()) < 0.02


@pytest.mark.parametrize('window', [3, 5])
def test_looks_follow_the_multilook_law(window):
  image = _homogeneous(1, 300)
  power = sar.multilook(image, window)
  independent = power[window // 2 :: window, window // 2 :: window]
  np.testing.assert_allclose(_variation(independent), 1 / window, rtol=0.05)
  np.testing.assert_allclose(
    power[5:-5, 5:-5].mean((0, 1)),
    np.diag(sar.COVARIANCE[1]).real,
    rtol=0.02,
  )


@pytest.mark.parametrize('k', _CLASSES)
def test_covariance_of_every_class_is_that_of_the_table(k):
  image = _homogeneous(k, seed=k).reshape(-1, 4)
  measured = image.T @ image.conj() / len(image)
  expected = sar.COVARIANCE[k]
  power = np.diag(expected).real
  error = np.sqrt(np.outer(power, power) / len(image))
  assert np.all(np.abs(measured - expected) < 5 * error)


def test_table_is_hermitian_positive_and_reciprocal():
  c = sar.COVARIANCE
  np.testing.assert_allclose(c, c.conj().swapaxes(1, 2))
  assert np.linalg.eigvalsh(c).min() > 0
  np.testing.assert_allclose(c[:, HV, HV], c[:, VH, VH])
  assert np.all(c[:, HV, HV].real <= c[:, HH, HH].real)


@pytest.mark.parametrize('k', _CLASSES)
def test_hv_equals_vh_up_to_thermal_noise(k):
  image = _homogeneous(k)
  difference = np.mean(np.abs(image[..., HV] - image[..., VH]) ** 2)
  noise = 10 ** (sar.NOISE_DB / 10)
  np.testing.assert_allclose(difference, 2 * noise, rtol=0.03)


def test_classes_have_the_signatures_of_their_scattering():
  cover = materials.LandCover
  power = lambda k, p: sar.COVARIANCE[k, p, p].real  # noqa: E731
  cross = lambda k: sar.COVARIANCE[k, HH, VV]  # noqa: E731
  assert power(cover.WATER, VV) > power(cover.WATER, HH)  # Bragg.
  assert power(cover.FOREST, HV) > 5 * power(cover.GRASS, HV)  # Volume.
  assert power(cover.WATER, HH) < 0.1 * power(cover.FOREST, HH)
  assert np.abs(np.angle(cross(cover.BUILDING))) > np.pi / 2  # Double bounce.
  assert np.abs(np.angle(cross(cover.WATER))) < 0.2  # Single bounce.


def test_scattering_of_a_plain_lake_follows_the_law(plain_ground):
  ground = plain_ground(['clear_water'], size=128)
  image = sar.scatter(
    ground, np.random.default_rng(0), green=np.zeros((128, 128))
  )
  np.testing.assert_allclose(_variation(np.abs(image) ** 2), 1.0, atol=0.04)


def test_walls_that_face_the_radar_are_bright_and_shadow_lies_behind(
  plain_ground,
):
  ground = plain_ground(['yard', 'flat_roof'], size=64)
  box = objects.boxes(
    np.array([[32.0, 32.0]]), 20, 20, 0.0, objects.Thing.BUILDING
  )
  roof = ground_lib.Patches(*(column[1:] for column in ground.patches))
  ground = ground_lib.with_objects(
    ground,
    box,
    roof,
    height=np.array([12.0], np.float32),
    motion=ground_lib.still(1),
  )
  flat = np.zeros((64, 64))
  power, sides = [], []
  for seed in range(60):
    image = sar.scatter(ground, np.random.default_rng(seed), green=flat)
    hh = np.abs(image[24:40, :, HH]) ** 2
    # The radar looks from either side: turn all images to have it west.
    west = hh[:, 43:46].mean() < hh[:, 18:21].mean()
    power.append(hh if west else hh[:, ::-1])
    sides.append(west)
  profile = np.mean(power, (0, 1))
  assert 0.2 < np.mean(sides) < 0.8
  roof_level, yard_level = profile[28:36].mean(), profile[4:12].mean()
  assert profile[22] > 5 * roof_level  # The wall.
  assert profile[21] > 2.5 * yard_level  # Its foot.
  assert profile[43] < 0.1 * yard_level  # The shadow.


def test_slopes_towards_the_radar_are_brighter(plain_ground):
  hill = np.repeat(-0.5 * np.abs(np.arange(64) - 32.0)[None, :], 64, 0)
  ground = plain_ground(['bare_soil'], terrain=hill)
  for seed in range(4):
    image = sar.scatter(
      ground, np.random.default_rng(seed), green=np.zeros((64, 64))
    )
    power = (np.abs(image[..., HH]) ** 2).mean(0)
    ratio = power[36:60].mean() / power[4:28].mean()
    azimuth = np.random.default_rng(seed).choice([100.0, 260.0])
    assert (ratio > 1.2) == (azimuth == 100.0)


def test_channels_and_amplitude_come_from_one_image():
  image = _homogeneous(2, 32)
  channels = sar.to_channels(image, catalogue.get('sar_l1'))
  assert channels.shape == (32, 32, 8) and channels.dtype == np.float32
  np.testing.assert_array_equal(channels[..., 2], image[..., HV].real)
  np.testing.assert_array_equal(channels[..., 7], image[..., VV].imag)
  decibels = sar.to_amplitude(image, catalogue.get('sar_l2'))
  by_hand = (np.abs(image[9:12, 19:22, VV]) ** 2).mean()
  np.testing.assert_allclose(
    decibels[10, 20, 0], 20 * np.log10(np.sqrt(by_hand)), rtol=1e-4
  )
  grd = sar.to_amplitude(image, catalogue.get('sentinel1_grd'))
  np.testing.assert_array_equal(grd[..., :1], decibels)


def test_channels_follow_band_names_not_positions():
  image = _homogeneous(2, 16)
  sensor = catalogue.get('sar_l1').select(('VV_Q', 'HH_I'))
  channels = sar.to_channels(image, sensor)
  np.testing.assert_array_equal(channels[..., 0], image[..., VV].imag)
  np.testing.assert_array_equal(channels[..., 1], image[..., HH].real)


def test_scene_scale_is_the_rms_amplitude():
  image = _homogeneous(3, 64)
  scale = sar.scene_scale(image)
  assert scale.dtype == np.float32 and scale.shape == ()
  np.testing.assert_allclose(
    np.mean(np.abs(image / scale) ** 2), 1.0, rtol=1e-5
  )


def test_amplitude_in_reflectance_is_an_error():
  sensor = catalogue.get('sar_l2')
  band = dataclasses.replace(sensor.bands[0], units='reflectance')
  with pytest.raises(ValueError, match='sar_l2.*reflectance.*db'):
    sar.to_amplitude(
      _homogeneous(0, 8), dataclasses.replace(sensor, bands=(band,))
    )
