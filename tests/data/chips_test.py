"""Chip windows."""

import numpy as np
import pytest

from rsfm_jax.data import chips


@pytest.mark.parametrize(
  'height, width, size, stride',
  [
    (64, 64, 64, None),
    (100, 130, 32, None),
    (100, 50, 32, 16),
    (65, 64, 64, 9),
  ],
)
def test_tiles_cover_every_pixel_and_stay_inside(height, width, size, stride):
  seen = np.zeros((height, width), int)
  windows = chips.windows(height, width, size=size, stride=stride)
  for row, column, h, w in windows:
    assert (h, w) == (size, size)
    assert 0 <= row <= height - size and 0 <= column <= width - size
    seen[row : row + h, column : column + w] += 1
  assert seen.min() == 1
  assert len(set(windows)) == len(windows)


def test_tiles_do_not_overlap_where_they_fit():
  windows = chips.windows(96, 64, size=32)
  assert [w[:2] for w in windows] == [
    (r, c) for r in (0, 32, 64) for c in (0, 32)
  ]


def test_centre_and_whole():
  assert chips.windows(10, 21, size=4, cut='centre') == [(3, 8, 4, 4)]
  assert chips.windows(10, 21, size=None) == [(0, 0, 10, 21)]


@pytest.mark.parametrize(
  'options, message',
  [
    ({'size': 65}, 'smaller than size=65'),
    ({'size': 8, 'stride': 9}, 'stride=9'),
    ({'size': 8, 'stride': -1}, 'stride=-1'),
    ({'size': 8, 'cut': 'tiles'}, 'Did you mean "tile"'),
  ],
)
def test_what_cannot_be_cut_is_an_error(options, message):
  with pytest.raises(ValueError, match=message):
    chips.windows(64, 64, **options)


def test_nodata_share():
  valid = np.ones((4, 4), bool)
  valid[0] = False
  assert chips.nodata_share(valid) == 0.25
