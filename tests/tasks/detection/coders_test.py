"""Coders: what is encoded comes back."""

import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.tasks.detection import boxes
from rsfm_jax.tasks.detection import coders
from tests.tasks.detection import boxes_test
from tests.tasks.detection import polygons


def same(found, wanted):
  for one, other in zip(np.asarray(found), np.asarray(wanted)):
    assert polygons.iou(one, other) == pytest.approx(1, abs=2e-3), (one, other)


CASES = [
  (coders.Deltas((0.1, 0.1, 0.2, 0.2)), False, False),
  (coders.Midpoints(), False, True),
  (coders.RotatedDeltas((0.1, 0.1, 0.2, 0.2, 0.1)), True, True),
]


@pytest.mark.parametrize('coder, turned_base, turned', CASES)
def test_decoding_inverts_encoding(coder, turned_base, turned):
  base = jnp.asarray(boxes_test.draw(60, 1, turned_base))
  wanted = jnp.asarray(boxes_test.draw(60, 2, turned))
  if turned:
    base, wanted = boxes.le90(base), boxes.le90(wanted)
  if not turned_base:
    base = base.at[:, 4].set(0)
  deltas = coder.encode(base, wanted)
  assert deltas.shape == (60, coder.size)
  found = coder.decode(base, deltas)
  same(found, wanted)
  if turned:  # By name too: the long side first.
    assert (found[:, 2] >= found[:, 3]).all()


def test_upright_boxes_survive_midpoint_offsets():
  base = jnp.asarray([[10.0, 10.0, 6.0, 6.0, 0.0]] * 3)
  wanted = jnp.asarray(
    [[10, 11, 8, 3, 0], [10, 11, 8, 3, -np.pi / 2], [9, 9, 4, 4, 0]],
    jnp.float32,
  )
  deltas = coders.Midpoints().encode(base, wanted)
  # The right one of the top corners, the lower one of the right corners.
  np.testing.assert_allclose(deltas[:, 4:], 0.5 / 0.5, atol=1e-3)
  same(coders.Midpoints().decode(base, deltas), wanted)


def test_midpoint_offsets_of_a_diamond_are_zero():
  base = jnp.asarray([[10.0, 10.0, 4.0, 4.0, 0.0]])
  wanted = jnp.asarray([[10.0, 10.0, 4.0, 4.0, np.pi / 4]])
  deltas = np.asarray(coders.Midpoints().encode(base, wanted))
  np.testing.assert_allclose(deltas[0, 4:], 0, atol=1e-5)
  np.testing.assert_allclose(deltas[0, 2:4], np.log(2**0.5), atol=1e-5)


def test_a_parallelogram_becomes_a_rectangle_by_its_longer_diagonal():
  base = jnp.asarray([[0.0, 0.0, 8.0, 4.0, 0.0]])
  offsets = np.array([[0, 0, 0, 0, 0.25, 0.0]], np.float32) / 0.5
  found = np.asarray(coders.Midpoints().decode(base, jnp.asarray(offsets)))[0]
  diagonal = np.hypot(found[2], found[3]) / 2
  assert diagonal == pytest.approx(max(np.hypot(2, 2), np.hypot(4, 0)))


@pytest.mark.parametrize('coder', [case[0] for case in CASES])
def test_wild_numbers_stay_finite(coder):
  base = jnp.asarray(boxes_test.draw(4))
  found = coder.decode(base, jnp.full((4, coder.size), 1e3))
  assert np.isfinite(np.asarray(found)).all()
  assert np.isfinite(np.asarray(coder.encode(base, 0 * base))).all()
