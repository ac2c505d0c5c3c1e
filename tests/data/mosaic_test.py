"""Where windows lie, how they are blended, what a resumed map repeats."""

import numpy as np
import pytest

from rsfm_jax.data import mosaic

TOLERANCE = 1e-6  # Weights are float32.


def make(height=50, width=41, *, size=16, stride=8, halo=2, panel=20, cell=1):
  return mosaic.Mosaic(
    height=height,
    width=width,
    size=size,
    stride=stride,
    halo=halo,
    panel=panel,
    cell=cell,
  )


@pytest.mark.parametrize('length', [5, 16, 17, 50])
@pytest.mark.parametrize('stride', [5, 8, 12])
def test_weights_of_every_cell_sum_to_one(length, stride):
  found = mosaic.axis(length, size=16, stride=stride, halo=2)
  total = np.zeros(max(length, 16))
  for start, weight in zip(*found):
    total[start : start + 16] += weight
  np.testing.assert_allclose(total[:length], 1, atol=TOLERANCE)
  assert found.starts[-1] == max(length - 16, 0)


def test_a_halo_counts_at_the_edge_of_the_scene_alone():
  first, middle, last = mosaic.axis(32, size=16, stride=8, halo=2).weights
  assert first[:2].all() and not first[-2:].any()
  assert not middle[:2].any() and not middle[-2:].any()
  assert not last[:2].any() and last[-2:].all()


def test_overlaps_fall_linearly():
  first, second = mosaic.axis(24, size=16, stride=8, halo=2).weights
  # Of 16 - 2 * 2 cells that count 8 are new: the other 4 are shared.
  np.testing.assert_allclose(
    first[10:14], [0.875, 0.625, 0.375, 0.125], atol=TOLERANCE
  )
  np.testing.assert_allclose(second[2:6], 1 - first[10:14], atol=TOLERANCE)


def test_without_overlap_one_window_counts():
  for weight in mosaic.axis(40, size=16, stride=12, halo=2).weights:
    assert set(weight.tolist()) == {0.0, 1.0}


def test_steps_finish_every_cell_once_and_in_order():
  plan = make()
  seen = np.zeros((plan.height, plan.width), int)
  for number, step in enumerate(plan.steps()):
    assert step.number == number and step.writes
    seen[step.top : step.bottom, step.left : step.right] += 1
  assert (seen == 1).all() and len(plan) == number + 1


def test_a_step_finishes_no_row_that_later_windows_count_for():
  plan = make(stride=5)
  for step in plan.steps():
    for later in range(step.row + 1, len(plan.rows.starts)):
      before = step.bottom - plan.rows.starts[later]
      assert not (plan.rows.weights[later][: max(before, 0)] > 0).any()


@pytest.mark.parametrize('done', range(16))
def test_a_resumed_map_repeats_what_overlaps_and_no_more(done):
  plan = make()
  steps = list(plan.steps(done))
  written = [step.number for step in steps if step.writes]
  assert written == list(range(done, len(plan)))
  for step in steps:
    if not step.writes:  # It reaches into the first row that is wanted.
      reach = np.flatnonzero(plan.rows.weights[step.row])[-1]
      top = next(s.top for s in steps if s.writes)
      assert plan.rows.starts[step.row] + reach >= top


def test_windows_are_told_in_pixels_of_the_scene():
  plan = make(13, 11, size=4, stride=2, halo=1, panel=5, cell=4)
  first = next(plan.steps())
  area = plan.pixels(first)
  assert (area.row, area.column, area.height) == (0, 0, 16)
  assert area.width == 4 * (plan.columns.starts[first.columns[-1]] + 4)


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'halo': 8}, '--halo 8'),
    ({'stride': 13}, '--stride 13 must be within 1 and 12'),
    ({'stride': 0}, '--stride 0'),
    ({'height': 0}, 'at least 1'),
    ({'stride': 13, 'cell': 4}, '--stride 52 must be within 4 and 48'),
  ],
)
def test_sizes_that_do_not_fit_are_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    make(**changes)
