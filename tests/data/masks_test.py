"""Masks: files to codes and numbers, and what they refuse."""

import h5py
import numpy as np
from PIL import Image
import pytest

from rsfm_jax.data import masks
from tests.data import scene_files

GREY = masks.Mask(classes=('land', 'sea'), values=(3, 7), ignore=(0,))
RED, BLUE, BLACK = (255, 0, 0), (0, 0, 255), (0, 0, 0)
COLOUR = masks.Mask(
  classes=('roof', 'water'), values=(RED, BLUE), ignore=(BLACK,)
)


def save(path, array, mode=None):
  Image.fromarray(np.asarray(array, np.uint8), mode).save(path)
  return str(path)


def test_grey_values_become_codes_and_what_is_ignored_255(tmp_path):
  path = save(tmp_path / 'a.png', [[3, 7], [0, 7]])
  found = masks.read(path, GREY)
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(found, [[0, 1], [255, 1]])


def test_colours_are_the_same_from_rgb_and_from_a_palette(tmp_path):
  rng = np.random.default_rng(0)
  codes = rng.integers(0, 3, (5, 7))
  colours = np.array([RED, BLUE, BLACK], np.uint8)
  rgb = save(tmp_path / 'rgb.png', colours[codes])
  palette = Image.fromarray(codes.astype(np.uint8), 'P')
  palette.putpalette(colours.ravel().tolist())
  palette.save(tmp_path / 'palette.png')
  expected = np.array([0, 1, 255])[codes]  # The slow way, colour by colour.
  for path in (rgb, str(tmp_path / 'palette.png')):
    np.testing.assert_array_equal(masks.read(path, COLOUR), expected)


def test_geotiff_npy_and_hdf5_hold_masks_too(tmp_path):
  values = np.array([[[3, 7], [0, 7]]], np.uint8)
  tiff = scene_files.write_tiff(tmp_path / 'a.tif', values)
  expected = [[0, 1], [255, 1]]
  np.testing.assert_array_equal(masks.read(tiff, GREY), expected)
  several = np.stack([np.zeros_like(values[0]), values[0]])[None]
  np.save(tmp_path / 'a.npy', several.astype(np.float32))
  asked = masks.Mask(
    classes=GREY.classes, values=(3, 7), ignore=(0,), axes='NCHW', channel=1
  )
  found = masks.read(str(tmp_path / 'a.npy'), asked)
  np.testing.assert_array_equal(found, expected)
  with h5py.File(tmp_path / 'a.h5', 'w') as file:
    file['label'] = np.stack([values[0] * 0, values[0]])
  asked = masks.Mask(
    classes=GREY.classes, values=(3, 7), ignore=(0,), key='label'
  )
  found = masks.read(str(tmp_path / 'a.h5'), asked, frame=1)
  np.testing.assert_array_equal(found, expected)


def test_one_channel_per_class_and_none_is_unlabelled(tmp_path):
  bands = np.array([[[255, 0]], [[0, 0]]], np.uint8)
  path = scene_files.write_tiff(tmp_path / 'a.tif', bands)
  asked = masks.Mask(form='one_hot', classes=('land', 'sea'))
  np.testing.assert_array_equal(masks.read(path, asked), [[0, 255]])
  path = scene_files.write_tiff(tmp_path / 'b.tif', bands + 1)
  with pytest.raises(ValueError, match='b.tif: .*several classes'):
    masks.read(path, asked)


def test_numbers_lose_the_nodata_of_their_file(tmp_path):
  heights = np.array([[[1.5, -9999]]], np.float32)
  path = scene_files.write_tiff(tmp_path / 'a.tif', heights, nodata=-9999)
  found = masks.read(path, masks.Mask(form='numbers'))
  np.testing.assert_array_equal(found, np.array([[1.5, np.nan]], np.float32))


@pytest.mark.parametrize(
  'array, mask, message',
  [
    ([[3, 5]], GREY, r'1 pixels are 5, which is none of 3 land, 7 sea; .*\[0'),
    ([[RED, (1, 2, 3)]], COLOUR, r'1 pixels are \(1, 2, 3\)'),
    ([[RED]], GREY, 'has 3 channels'),
  ],
)
def test_a_value_that_is_not_listed_is_named_with_its_file(
  tmp_path, array, mask, message
):
  path = save(tmp_path / 'a.png', array)
  with pytest.raises(ValueError, match=f'a.png.*{message}'):
    masks.read(path, mask)


@pytest.mark.parametrize('values', [[np.nan, np.nan], [1, np.inf]])
def test_numbers_that_teach_nothing_are_refused(tmp_path, values):
  np.save(tmp_path / 'a.npy', np.array([values]))
  with pytest.raises(ValueError, match='a.npy: .*finite'):
    masks.read(str(tmp_path / 'a.npy'), masks.Mask(form='numbers'))


@pytest.mark.parametrize(
  'options, message',
  [
    ({'classes': ('a', 'b'), 'values': (1,)}, '1 values for 2 classes'),
    ({'classes': ('a', 'b'), 'values': (1, 1)}, 'each once'),
    ({'classes': ('a',), 'values': (1,), 'ignore': ((1, 2, 3),)}, 'colours'),
    ({'form': 'numbers', 'classes': ('a',)}, 'goes with 1 classes'),
    ({}, 'goes with 0 classes'),
  ],
)
def test_a_mask_that_contradicts_itself(options, message):
  with pytest.raises(ValueError, match=message):
    masks.Mask(**options)
