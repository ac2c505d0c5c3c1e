import numpy as np
import pytest

from rsfm_jax.data.synthetic import objects

Thing = objects.Thing


def _box(cx, cy, w, h, angle=0.0, thing=Thing.BUILDING):
  return objects.boxes(np.array([[cx, cy]]), w, h, angle, thing)


def test_an_upright_box_covers_whole_pixels():
  pixels = objects.rasterise(_box(4, 6, 4, 2), 16)
  covered = set(zip(pixels.row.tolist(), pixels.column.tolist()))
  assert covered == {(r, c) for r in (5, 6) for c in (2, 3, 4, 5)}


def test_a_quarter_turn_swaps_the_sides():
  pixels = objects.rasterise(_box(8, 8, 6, 2, np.pi / 2), 16)
  assert np.ptp(pixels.row) == 5 and np.ptp(pixels.column) == 1


@pytest.mark.parametrize('angle', [0.0, 0.4, 1.3, 2.9])
def test_area_is_that_of_the_shape(angle):
  box = _box(32.3, 31.6, 30, 18, angle)
  assert abs(len(objects.rasterise(box, 64).row) / (30 * 18) - 1) < 0.03
  tank = _box(32.3, 31.6, 24, 24, angle, Thing.STORAGE_TANK)
  area = np.pi * 12**2
  assert abs(len(objects.rasterise(tank, 64).row) / area - 1) < 0.03


def test_corners_turn_from_x_towards_y():
  corners = objects.corners(_box(0, 0, 2, 0.2, np.pi / 2))[0]
  np.testing.assert_allclose(corners[1], [0.1, 1.0], atol=1e-6)


def test_upright_boxes_hold_rotated_ones():
  box = np.concatenate([_box(20, 30, 12, 5, 0.7), _box(2, 2, 9, 9, 0.3)])
  upright = objects.axis_aligned(box, 64)
  pixels = objects.rasterise(box, 64)
  edges = upright[pixels.box]
  assert np.all(pixels.column + 0.5 >= edges[:, 0])
  assert np.all(pixels.row + 0.5 <= edges[:, 3])
  assert upright.min() == 0  # Clipped to the image.


def test_padding_is_marked_and_too_many_boxes_are_an_error():
  padded = objects.pad(_box(1, 2, 3, 4), 3)
  assert padded.shape == (3, 7)
  np.testing.assert_array_equal(padded[:, 5], [0, -1, -1])
  with pytest.raises(ValueError, match='3 boxes do not fit in 2'):
    objects.pad(np.zeros((3, 7), np.float32), 2)


def test_boxes_contain_their_objects_and_are_filled_by_them(scenes):
  checked = 0
  for made in scenes(None, 36):
    ground = made.ground
    for box, number in zip(ground.boxes, ground.box_patch, strict=True):
      row, column = np.nonzero(ground.patch == number)
      dx, dy = column + 0.5 - box[0], row + 0.5 - box[1]
      along = dx * np.cos(box[4]) + dy * np.sin(box[4])
      across = dy * np.cos(box[4]) - dx * np.sin(box[4])
      assert len(row), 'a box without pixels'
      assert np.abs(along).max() <= box[2] / 2 + 1e-3
      assert np.abs(across).max() <= box[3] / 2 + 1e-3
      corners = objects.corners(box[None])
      whole = corners.min() >= 0 and corners.max() <= 64
      if whole and box[2] * box[3] > 60:
        full = np.pi / 4 if box[5] == Thing.STORAGE_TANK else 1.0
        assert abs(len(row) / (full * box[2] * box[3]) - 1) < 0.2
      checked += 1
  assert checked > 100


def test_all_four_kinds_of_objects_occur(scenes):
  kinds = {k for made in scenes(None, 60) for k in made.ground.boxes[:, 5]}
  assert kinds == {float(k) for k in Thing if k != Thing.PADDING}
