"""Differences that are found, and files that are then refused."""

import numpy as np
import pytest

from rsfm_jax.export import parity
from rsfm_jax.sensors import catalogue


def answers(*values):
  return [{'map': np.full((i + 1, 2), v)} for i, v in enumerate(values)]


def test_the_largest_difference_is_told_by_batch_and_output():
  got = parity.errors(answers(1.0, 2.0), answers(1.5, 1.75))
  assert got == {'1': {'map': 0.5}, '2': {'map': 0.25}}
  assert parity.worst(got) == 0.5


def test_other_shapes_are_no_small_difference():
  with pytest.raises(ValueError, match='outputs are'):
    parity.errors(answers(1.0), [{'map': np.ones((1, 3))}])
  with pytest.raises(ValueError, match='outputs are'):
    parity.errors(answers(1.0), [{'other': np.ones((1, 2))}])


@pytest.mark.parametrize('value', [2e-4, np.nan, np.inf])
def test_files_that_are_off_are_named(value):
  with pytest.raises(RuntimeError, match='a.onnx is off by .* 0.0001'):
    parity.check(
      {'a.onnx': {'1': {'map': value}}, 'b': {'1': {'map': 1e-5}}}, 1e-4
    )
  parity.check({'b': {'1': {'map': 1e-5}}}, 1e-4)


def test_images_look_like_what_the_sensor_stores(make_graph):
  made = make_graph(
    'ms', pixels=catalogue.get('sentinel2_l2a'), processing_baseline='05.09'
  )
  pixels = parity.images(made, 4)['pixels']
  assert np.isnan(pixels).any() and (pixels[-1, -1, -1] == 0).all()
  # Reflectance 0.2 is stored as 2000, and 1000 more since baseline 04.00.
  assert np.nanmedian(pixels[..., 1]) == pytest.approx(3000, abs=100)
  image = made.normalised(np.asarray(pixels))
  assert abs(float(np.std(image)) - 1) < 0.1
  other = parity.images(made, 4, seed=1)['pixels']
  assert not np.array_equal(pixels, other, equal_nan=True)
