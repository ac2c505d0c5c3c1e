"""Boxes of records: cut, turned and padded like their image."""

import numpy as np
import pytest

from rsfm_jax.data import augment
from rsfm_jax.data import boxes
from rsfm_jax.data.synthetic import objects

SIZE = 40


def drawn(oriented):
  """Three boxes and the image [40, 40] of their classes, 0 elsewhere."""
  turned = 0.4 if oriented else 0
  rows = np.array(
    [
      [10, 12, 12, 6, turned, 1],
      [28, 9, 6, 10, -turned, 2],
      [24, 28, 14, 8, 2 * turned, 3],
    ],
    np.float32,
  )
  return rows, image_of(rows)


def image_of(rows):
  out = np.zeros((SIZE, SIZE), np.uint8)
  for row in rows:
    found = objects.rasterise(np.append(row, -1)[None], SIZE)
    out[found.row, found.column] = row[5]
  return out


@pytest.mark.parametrize('oriented', [True, False])
@pytest.mark.parametrize('number', range(8))
def test_boxes_go_where_a_symmetry_puts_their_pixels(oriented, number):
  rows, image = drawn(oriented)
  found = boxes.apply_symmetry(rows, number, SIZE, oriented=oriented)
  turned = augment.apply_symmetry(image, number)
  assert (image_of(found) == turned).mean() > 0.995
  if not oriented:
    assert not found[:, 4].any()
  assert (np.abs(found[:, 4]) <= np.pi / 2).all()


@pytest.mark.parametrize('oriented', [True, False])
def test_boxes_are_cut_and_scaled_as_the_image(oriented):
  rows, image = drawn(oriented)
  window = augment.Box(2, 4, 20, 20)
  found = boxes.cut(rows, window, 40, oriented=oriented)
  assert found[:, 5].tolist() == [1]  # The others have their centre outside.
  seen = augment.resize(image, window, 40, filter='nearest')
  seen = np.where(seen == 1, 1, 0)
  assert (image_of(found) == seen).mean() > 0.97


def test_horizontal_boxes_end_at_the_border_and_oriented_ones_do_not():
  rows = np.array([[3, 20, 10, 4, 0, 0]], np.float32)
  window = augment.Box(0, 0, SIZE, SIZE)
  flat = boxes.cut(rows, window, None, oriented=False)
  assert flat[0, :4].tolist() == [4, 20, 8, 4]
  assert np.array_equal(boxes.cut(rows, window, None, oriented=True), rows)


def test_oriented_boxes_are_not_stretched():
  rows, _ = drawn(True)
  window = augment.Box(0, 0, 20, 40)
  with pytest.raises(ValueError, match='20 x 40 pixels.*data.window.form'):
    boxes.cut(rows, window, 40, oriented=True)
  assert len(boxes.cut(boxes.hull(rows), window, 40, oriented=False)) == 2


def test_corners_become_a_row_by_the_long_side():
  rows, _ = drawn(True)
  for one, points in zip(rows, objects.corners(rows)):
    for shift in range(4):
      found = boxes.row(np.roll(points, shift, 0), one[5])
      np.testing.assert_allclose(found[:2], one[:2], atol=1e-4)
      assert found[2] >= found[3]
      np.testing.assert_allclose(
        objects.corners(found[None])[0].sum(0), points.sum(0), atol=1e-3
      )
      gap = found[4] - one[4] - (np.pi / 2 if one[3] > one[2] else 0)
      assert abs(np.sin(gap)) < 1e-4


def test_the_hull_holds_all_corners():
  rows, _ = drawn(True)
  for found, points in zip(boxes.hull(rows), objects.corners(rows)):
    low, high = points.min(0), points.max(0)
    np.testing.assert_allclose(found[:2], (low + high) / 2, atol=1e-4)
    np.testing.assert_allclose(found[2:4], high - low, atol=1e-4)
  upright = boxes.upright((1, 2, 5, 10), 7)
  assert upright.tolist() == [3, 6, 4, 8, 0, 7]


def test_too_many_boxes_name_the_key():
  rows, _ = drawn(True)
  padded = boxes.pad(rows, 5)
  assert padded[:, 5].tolist() == [1, 2, 3, -1, -1]
  with pytest.raises(ValueError, match='3 boxes.*data.max_boxes=2'):
    boxes.pad(rows, 2)
