"""Windows of a token grid, against loops over single tokens."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.nn import windows


def grid(height, width, batch=1, dim=1):
  """[B, H, W, D] of distinct numbers."""
  shape = (batch, height, width, dim)
  return jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)


@pytest.mark.parametrize(
  ('height', 'width', 'window', 'shifted', 'expected'),
  [
    (48, 48, 12, False, (12, 0)),
    (48, 48, 12, True, (12, 6)),
    (8, 12, 4, True, (4, 2)),
    # The last stage of the giant: the window shrinks to the 6 x 6 grid.
    (6, 6, 12, True, (6, 0)),
    # One window covers the grid, so a shift would only mask.
    (12, 12, 12, True, (12, 0)),
    # RingMoE drops the shift on both axes when the smaller one fits.
    (4, 8, 4, True, (4, 0)),
  ],
)
def test_layout_clips_the_window_and_shifts_only_several(
  height, width, window, shifted, expected
):
  assert windows.layout(height, width, window, shifted=shifted) == expected


@pytest.mark.parametrize(('height', 'width'), [(10, 12), (12, 10), (9, 12)])
def test_a_grid_that_windows_cannot_tile_is_an_error(height, width):
  with pytest.raises(ValueError, match=f'{height} x {width}.*model.window'):
    windows.layout(height, width, 4, shifted=False)


def test_partition_goes_window_by_window_row_by_row():
  x = np.asarray(grid(4, 6, batch=2, dim=3))
  expected = [
    [x[b, i + r, j + c] for r, c in itertools.product(range(2), repeat=2)]
    for b in range(2)
    for i in range(0, 4, 2)
    for j in range(0, 6, 2)
  ]
  np.testing.assert_array_equal(
    windows.partition(jnp.asarray(x), 2), np.array(expected)
  )


def test_merge_undoes_partition():
  x = grid(4, 6, batch=2, dim=3)
  there = windows.partition(x, 2)
  np.testing.assert_array_equal(windows.merge(there, 2, 4, 6), x)


def test_roll_moves_towards_the_origin_and_back():
  x = grid(4, 6)
  y = np.asarray(windows.roll(x, 1))
  for i, j in itertools.product(range(4), range(6)):
    assert y[0, i, j, 0] == np.asarray(x)[0, (i + 1) % 4, (j + 1) % 6, 0]
  np.testing.assert_array_equal(windows.roll(y, -1), x)


@pytest.mark.parametrize(('window', 'table'), [(1, 1), (3, 3), (2, 4), (3, 5)])
def test_relative_index_is_the_offset_counted_from_the_tables_middle(
  window, table
):
  index = windows.relative_index(window, table)
  side = 2 * table - 1
  middle = table - 1
  cells = list(itertools.product(range(window), repeat=2))
  for (a, p), (b, q) in itertools.product(enumerate(cells), repeat=2):
    row, column = middle + p[0] - q[0], middle + p[1] - q[1]
    assert 0 <= row < side and 0 <= column < side
    assert index[a, b] == row * side + column


@pytest.mark.parametrize(
  ('height', 'width', 'window', 'shift'), [(8, 8, 4, 2), (4, 6, 2, 1)]
)
def test_the_shift_mask_parts_tokens_that_wrapped_around(
  height, width, window, shift
):
  mask = windows.shift_mask(height, width, window, shift)
  tokens = [
    [(i + r, j + c) for r, c in itertools.product(range(window), repeat=2)]
    for i in range(0, height, window)
    for j in range(0, width, window)
  ]
  # After the roll, place (i, j) holds a token from beyond the edge or not.
  wrapped = lambda p: (p[0] + shift >= height, p[1] + shift >= width)
  expected = [
    [[0.0 if wrapped(p) == wrapped(q) else -100.0 for q in cell] for p in cell]
    for cell in tokens
  ]
  np.testing.assert_array_equal(mask, np.array(expected, np.float32))
  assert (mask < 0).any() and (mask == 0).any()


def test_log_coordinates_by_hand():
  table = windows.log_coordinates(4, 4).reshape(7, 7, 2)
  np.testing.assert_array_equal(table[3, 3], [0, 0])
  # Offset 3 of 3 is 8 on the scale; log2(1 + 8) / log2(8).
  np.testing.assert_allclose(table[6, 3], [np.log2(9) / 3, 0], rtol=1e-6)
  np.testing.assert_allclose(
    table[2, 4], [-np.log2(1 + 8 / 3) / 3, np.log2(1 + 8 / 3) / 3], rtol=1e-6
  )


def test_log_coordinates_of_a_smaller_window_are_the_tables_middle():
  whole = windows.log_coordinates(6, 6).reshape(11, 11, 2)
  part = windows.log_coordinates(3, 6).reshape(5, 5, 2)
  np.testing.assert_array_equal(part, whole[3:8, 3:8])
