"""Assignment against loops; what samples hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.tasks.detection import boxes
from rsfm_jax.tasks.detection import matching
from tests.tasks.detection import boxes_test
from tests.tasks.detection import polygons

FIELDS = {'background': 0.3, 'foreground': 0.5}


def slow(given, objects, least):
  table = np.array([[polygons.iou(a, b) for b in objects] for a in given])
  label, which = np.full(len(given), -1), np.zeros(len(given), int)
  for i, row in enumerate(table):
    which[i] = row.argmax()
    if row.max() < FIELDS['background']:
      label[i] = 0
    if row.max() >= FIELDS['foreground']:
      label[i] = 1
  if least is not None:
    for k, column in enumerate(table.T):
      if column.max() >= least:
        label[column.argmax()], which[column.argmax()] = 1, k
  return label, which


@pytest.mark.parametrize('least', [None, 0.2])
def test_boxes_stand_for_what_they_overlap_most(least):
  given, objects = (boxes_test.draw(n, n, turned=False) for n in (80, 6))
  padded = np.concatenate([objects, given[:3]])
  valid = np.arange(9) < 6
  found = matching.assign(
    *map(jnp.asarray, (given, padded, valid)),
    overlap=boxes.iou,
    least=least,
    **FIELDS,
  )
  label, which = slow(given, objects, least)
  assert set(label) == {-1, 0, 1}
  assert found.label.tolist() == label.tolist()
  positive = label == 1
  assert (np.asarray(found.object)[positive] == which[positive]).all()


def test_without_objects_all_is_background():
  given = jnp.asarray(boxes_test.draw(4))
  found = matching.assign(
    given, given, jnp.zeros(4, bool), overlap=boxes.iou, least=0.3, **FIELDS
  )
  assert found.label.tolist() == [0] * 4


@pytest.mark.parametrize(
  'objects, background, wanted',
  [(30, 100, (4, 12)), (2, 100, (2, 14)), (30, 5, (4, 5)), (0, 100, (0, 16))],
)
def test_a_sample_is_filled_up_with_background(objects, background, wanted):
  label = np.array([1] * objects + [0] * background + [-1] * 20)
  drawn = [
    matching.draw(
      jnp.asarray(label), count=16, fraction=0.25, key=jax.random.key(seed)
    )
    for seed in (0, 1)
  ]
  for one in drawn:
    index, valid, positive = map(np.asarray, one)
    assert len(index) == 16
    assert len(set(index[valid].tolist())) == valid.sum()
    assert (label[index[positive]] == 1).all() and (positive <= valid).all()
    assert (label[index[valid & ~positive]] == 0).all()
    assert (positive.sum(), (valid & ~positive).sum()) == wanted
  assert drawn[0].index.tolist() != drawn[1].index.tolist()
