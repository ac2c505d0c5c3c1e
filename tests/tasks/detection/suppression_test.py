"""Suppression against the loop that defines it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.tasks.detection import boxes
from rsfm_jax.tasks.detection import rotated
from rsfm_jax.tasks.detection import suppression
from tests.tasks.detection import boxes_test
from tests.tasks.detection import polygons


def loop(given, scores, iou, count, classes):
  """Take the best, drop what it overlaps, again."""
  left = [i for i in np.argsort(-scores, kind='stable') if scores[i] > -np.inf]
  kept = []
  while left and len(kept) < count:
    best, *left = left
    kept.append(best)
    left = [
      i
      for i in left
      if classes[i] != classes[best]
      or polygons.iou(given[best], given[i]) <= iou
    ]
  return kept


@pytest.mark.parametrize('turned', [False, True])
@pytest.mark.parametrize('count', [5, 80])
def test_what_is_kept_is_what_the_loop_keeps(turned, count):
  given, rng = boxes_test.draw(60, 5, turned), np.random.default_rng(6)
  scores = rng.permutation(60).astype(np.float32)
  scores[:6] = -np.inf
  classes = rng.integers(0, 2, 60)
  overlap = rotated.iou if turned else boxes.iou
  found = jax.jit(
    lambda b, s, c: suppression.suppress(
      b, s, overlap=overlap, iou=0.3, count=count, classes=c
    )
  )(given, scores, classes)
  wanted = loop(given, scores, 0.3, count, classes)
  assert 5 <= len(wanted) < 50
  kept = np.asarray(found.index)[np.asarray(found.valid)]
  assert kept.tolist() == wanted
  assert np.asarray(found.score)[: len(wanted)].tolist() == [
    scores[i] for i in wanted
  ]


def test_a_chain_of_overlaps_is_resolved_as_in_the_loop():
  # Each overlaps the next: every second one stays.
  over = np.eye(7, k=1, dtype=bool) | np.eye(7, k=-1, dtype=bool)
  keep = suppression.greedy(jnp.asarray(over), jnp.ones(7, bool))
  assert keep.tolist() == [True, False] * 3 + [True]
