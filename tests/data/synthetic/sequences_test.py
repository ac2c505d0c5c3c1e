import numpy as np

from rsfm_jax.data.synthetic import ground as ground_lib
from rsfm_jax.data.synthetic import objects
from rsfm_jax.data.synthetic import sequences


def test_paths_invert_their_coordinates():
  path = ground_lib.Path(10.0, 20.0, 0.8, 0.01)
  along, across = np.array([0.0, 5.0, -8.0]), np.array([0.0, 2.0, -3.0])
  centre, heading = path.points(along, across)
  s, d = path.coordinates(centre[:, 0], centre[:, 1])
  # Exact on the line; beside a bend the two measures differ slightly.
  np.testing.assert_allclose(s, along, atol=0.4)
  np.testing.assert_allclose(d, across, atol=0.1)
  assert heading[1] > heading[0] > heading[2]


def test_the_first_frame_is_the_scene(scenes):
  for made in scenes('highway', 4) + scenes('lake', 4):
    ground, visible = sequences.frame(made.ground, 0.0)
    assert visible.all()
    np.testing.assert_array_equal(ground.patch, made.ground.patch)
    np.testing.assert_allclose(ground.boxes, made.ground.boxes, atol=1e-3)


def test_objects_move_at_their_speed_along_their_heading(scenes):
  moved = 0
  for made in scenes('highway', 6):
    ground = made.ground
    seconds = 0.2
    later = sequences.positions(ground, seconds)
    step = (later - ground.boxes)[:, :2] * ground.gsd_m
    speed = np.abs(ground.motion.speed)
    np.testing.assert_allclose(
      np.hypot(*step.T), speed * seconds, rtol=0.2, atol=0.02
    )
    fast = speed > 0
    heading = ground.boxes[fast, 4]
    sideways = step[fast, 1] * np.cos(heading) - step[fast, 0] * np.sin(heading)
    assert np.abs(sideways).max(initial=0) < 0.5
    moved += fast.sum()
  assert moved > 20


def test_moving_objects_stay_on_their_ground_and_leave_it_unchanged(scenes):
  for made in scenes('highway', 4) + scenes('river', 4):
    still = made.ground
    for k in range(1, 6):
      ground, visible = sequences.frame(still, 0.3 * k)
      for i in np.flatnonzero(visible & (still.motion.speed != 0)):
        pixels = objects.rasterise(ground.boxes[i : i + 1], 64)
        below = still.still_patch[pixels.row, pixels.column]
        cover = still.patches.cover
        assert np.all(cover[below] == cover[still.box_patch[i]])
      np.testing.assert_array_equal(
        np.sort(np.unique(ground.landcover)),
        np.sort(np.unique(still.landcover)),
      )


def test_tracks_keep_their_rows(scenes):
  made = scenes('highway', 2)[0]
  frames = [sequences.frame(made.ground, 0.2 * k) for k in range(6)]
  tracks = sequences.tracks(frames, 64)
  assert tracks.shape == (6, 64, 7) and tracks.dtype == np.float32
  for i in range(len(made.ground.boxes)):
    numbers = tracks[:, i, 6]
    assert set(numbers[numbers >= 0].tolist()) <= {float(i)}
  gone = tracks[..., 5] < 0
  assert np.all(tracks[gone][:, :5] == 0)
