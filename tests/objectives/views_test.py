"""Views show the same ground to every sensor, and know where they overlap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.objectives import views

KEY = jax.random.key(0)
TILE = 8  # Pixels of the coarsest sensor.


def ground_map(side):
  """[1, 1, H, W, 2]: every pixel holds the position of its centre."""
  centre = (np.arange(side) + 0.5) / side
  return jnp.asarray(
    np.stack(np.meshgrid(centre, centre, indexing='ij'), -1)[None, None],
    jnp.float32,
  )


def windows(symmetry='d4', count=16, size=4, tiles=1):
  return views.draw(
    KEY, tiles=tiles, views=count, size=size, tile=TILE, symmetry=symmetry
  )


@pytest.mark.parametrize('symmetry', ['none', 'flip', 'd4'])
@pytest.mark.parametrize('factor', [1, 3])
def test_cells_of_a_view_lie_where_the_pixels_say(symmetry, factor):
  found = windows(symmetry)
  cut = views.cut(ground_map(TILE * factor), found)
  side = 4 * factor
  assert cut.shape == (16, 1, side, side, 2)
  said = views.points(found, side).reshape(16, 1, side, side, 2)
  np.testing.assert_allclose(said, cut, atol=1e-6)


def test_all_eight_symmetries_come_up():
  assert set(np.unique(windows(count=200).symmetry)) == set(range(8))


def test_locating_undoes_the_view():
  found = windows()
  inside = views.locate(found, views.points(found, 5))
  centre = (np.arange(5) + 0.5) / 5
  grid = np.stack(np.meshgrid(centre, centre, indexing='ij'), -1)
  np.testing.assert_allclose(
    inside, np.broadcast_to(grid.reshape(1, 1, 25, 2), inside.shape), atol=1e-6
  )


def test_pairs_compare_the_same_ground_and_count_only_the_overlap():
  student, teacher = windows(count=4, size=4), windows('flip', count=2, size=6)
  tile = ground_map(TILE)
  cut = lambda w: views.cut(tile, w).reshape(1, -1, 1, w.size, w.size, 2)
  pairs = [(t, s) for t in range(2) for s in range(4)]
  found = views.align(
    cut(student),
    cut(teacher),
    student_windows=student,
    teacher_windows=teacher,
    pairs=pairs,
  )
  assert found.student.shape == (1, 8, 1, 16, 2)
  counts = np.asarray(found.counts)
  assert counts.any()
  same = np.isclose(found.student[:, :, 0], found.teacher[:, :, 0], atol=1e-6)
  for p, (t, s) in enumerate(pairs):
    low = np.maximum(student.cell[0, s], teacher.cell[0, t])
    high = np.minimum(student.cell[0, s] + 4, teacher.cell[0, t] + 6)
    area = np.prod(np.maximum(high - low, 0))
    assert counts[0, p].sum() == area
    assert same[0, p][counts[0, p]].all()


def test_a_finer_student_grid_reads_between_the_teachers_cells():
  whole = views.Windows(
    jnp.zeros((1, 1, 2), jnp.int32), jnp.zeros((1, 1), jnp.int32), TILE, TILE
  )
  coarse = ground_map(4)[None]
  fine = ground_map(8)[None]
  found = views.align(
    fine,
    coarse,
    student_windows=whole,
    teacher_windows=whole,
    pairs=[(0, 0)],
  )
  got = found.teacher.reshape(8, 8, 2)
  want = found.student.reshape(8, 8, 2)
  # Linear inside; beyond the outermost centres the edge is repeated.
  np.testing.assert_allclose(got[1:-1, 1:-1], want[1:-1, 1:-1], atol=1e-6)
  np.testing.assert_allclose(got[0, :, 0], 1 / 8, atol=1e-6)
  assert found.counts.all()


def test_views_of_a_tile_follow_one_another():
  tiles = jnp.arange(3.0).reshape(3, 1, 1, 1) * jnp.ones((3, 1, TILE, TILE))
  cut = views.cut(tiles, windows(count=2, tiles=3))
  np.testing.assert_array_equal(cut[:, 0, 0, 0], [0, 0, 1, 1, 2, 2])


def test_sizes_that_do_not_fit_are_named():
  with pytest.raises(ValueError, match='does not fit a tile of 8'):
    windows(size=9)
  with pytest.raises(ValueError, match=r'local_size=20.*a multiple of 8'):
    views.cells(20, finest=64, coarsest=8, key='objective.views.local_size')
  with pytest.raises(ValueError, match='global_views=1'):
    views.ViewSpec(global_size=8, local_size=4, global_views=1)
