"""Boxes: conventions, hulls, overlaps."""

import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.tasks.detection import boxes
from rsfm_jax.tasks.detection import rotated
from tests.tasks.detection import polygons


def draw(count, seed=0, turned=True):
  rng = np.random.default_rng(seed)
  out = np.zeros((count, 5), np.float32)
  out[:, :2] = rng.uniform(10, 30, (count, 2))
  out[:, 2:4] = rng.uniform(2, 20, (count, 2))
  if turned:
    out[:, 4] = rng.uniform(-np.pi / 2, np.pi / 2, count)
  return out


def test_corners_are_those_of_the_oracle():
  found = boxes.corners(jnp.asarray(draw(5)))
  for one, box in zip(found, draw(5)):
    np.testing.assert_allclose(one, polygons.corners(box), atol=1e-4)


def test_le90_names_the_same_rectangle_by_its_long_side():
  given = jnp.asarray(draw(50))
  found = np.asarray(boxes.le90(given))
  assert (found[:, 2] >= found[:, 3]).all()
  assert (np.abs(found[:, 4]) <= np.pi / 2 + 1e-6).all()
  for one, other in zip(found, given):
    assert polygons.iou(one, np.asarray(other)) == pytest.approx(1, abs=1e-4)
  again = boxes.from_corners(boxes.corners(jnp.asarray(found)))
  np.testing.assert_allclose(again[:, :4], found[:, :4], atol=1e-3)
  turn = np.asarray(again[:, 4] - found[:, 4])
  np.testing.assert_allclose(np.sin(turn), 0, atol=1e-3)


def test_the_hull_touches_all_corners():
  given = draw(20)
  low_high = np.asarray(boxes.edges(boxes.hull(jnp.asarray(given))))
  for found, box in zip(low_high, given):
    points = polygons.corners(box)
    np.testing.assert_allclose(
      found, [*points.min(0), *points.max(0)], atol=1e-4
    )


def test_clipping_leaves_what_is_within_the_image():
  given = jnp.asarray([[0.0, 5.0, 10.0, 4.0, 0.0], [50.0, 5.0, 4.0, 4.0, 0.0]])
  found = np.asarray(boxes.edges(boxes.clip(given, (8, 20))))
  np.testing.assert_allclose(found, [[0, 3, 5, 7], [20, 3, 20, 7]])


def test_overlap_of_horizontal_boxes_is_that_of_polygons():
  one, other = draw(12, 1, turned=False), draw(9, 2, turned=False)
  found = boxes.iou(jnp.asarray(one)[:, None], jnp.asarray(other)[None])
  slow = [[polygons.iou(a, b) for b in other] for a in one]
  np.testing.assert_allclose(found, slow, atol=1e-5)


def test_overlap_of_oriented_boxes_is_that_of_polygons():
  one, other = draw(40, 3), draw(40, 4)
  found = rotated.iou(jnp.asarray(one)[:, None], jnp.asarray(other)[None])
  slow = [[polygons.iou(a, b) for b in other] for a in one]
  assert np.count_nonzero(slow) > 500
  np.testing.assert_allclose(found, slow, atol=1e-4)


# Boxes whose borders lie on each other, and boxes in each other.
SPECIAL = [
  ([10, 10, 8, 4, 0], [10, 10, 8, 4, 0], 32),
  ([10, 10, 8, 4, 0.3], [10, 10, 8, 4, 0.3], 32),
  ([10, 10, 8, 4, 0.3], [10, 10, 8, 4, 0.3 - np.pi], 32),
  ([10, 10, 8, 4, 0], [10, 10, 4, 8, np.pi / 2], 32),
  ([700, 650, 80, 40, 1.1], [700, 650, 80, 40, 1.1], 3200),
  ([10, 10, 8, 4, 0], [18, 10, 8, 4, 0], 0),
  ([10, 10, 8, 4, 0], [14, 10, 8, 4, 0], 16),
  ([10, 10, 8, 4, 0.5], [10, 10, 4, 2, 0.5], 8),
  ([10, 10, 8, 4, 0], [10, 10, 2, 2, np.pi / 4], 4),
  ([10, 10, 8, 4, 0], [10, 10, 0, 0, 0], 0),
  ([10, 10, 4, 4, 0], [10, 10, 4, 4, np.pi / 4], 32 * (2**0.5 - 1)),
]


@pytest.mark.parametrize('one, other, area', SPECIAL)
def test_borders_on_each_other_count_once(one, other, area):
  a, b = (np.array(x, np.float32) for x in (one, other))
  for pair in ((a, b), (b, a)):
    found = rotated.intersection(*map(jnp.asarray, pair))
    assert float(found) == pytest.approx(area, abs=1e-3 + 1e-4 * area)
