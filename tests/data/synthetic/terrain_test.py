import numpy as np

from rsfm_jax.data.synthetic import materials
from rsfm_jax.data.synthetic import terrain

_EAST, _SOUTH = np.pi / 2, np.pi


def test_slopes_have_the_right_sign_and_size():
  x = np.arange(8, dtype=np.float32)
  rising_east = np.broadcast_to(3 * x, (8, 8))
  east, north = terrain.gradient(rising_east, 2.0)
  np.testing.assert_allclose(east, 1.5)
  np.testing.assert_allclose(north, 0)
  _, north = terrain.gradient(rising_east.T, 2.0)  # Rises to the south.
  np.testing.assert_allclose(north, -1.5)


def test_slopes_that_face_the_sun_are_brighter():
  ridge = 10 - np.abs(np.arange(33) - 16.0)
  ridge = np.broadcast_to(ridge, (33, 33))
  lit = terrain.shading(ridge, 2.0, azimuth=_EAST, elevation=0.7)
  assert lit[16, 24] > 1 > lit[16, 8]  # The eastern slope faces the sun.
  lit = terrain.shading(ridge.T, 2.0, azimuth=_SOUTH, elevation=0.7)
  assert lit[24, 16] > 1 > lit[8, 16]
  flat = terrain.shading(np.zeros((4, 4)), 2.0, azimuth=1.0, elevation=0.5)
  np.testing.assert_allclose(flat, 1, rtol=1e-6)


def test_shading_follows_lambert():
  slope, elevation = np.tan(0.3), 0.8
  plane = np.broadcast_to(-slope * 2.0 * np.arange(8), (8, 8))  # Faces east.
  lit = terrain.shading(plane, 2.0, azimuth=_EAST, elevation=elevation)
  np.testing.assert_allclose(
    lit, np.sin(elevation + 0.3) / np.sin(elevation), rtol=1e-5
  )


def test_shadows_fall_away_from_the_sun_at_the_right_length():
  height = np.zeros((32, 32), np.float32)
  height[15:17, 15:17] = 8.0
  shadow = terrain.cast_shadow(
    height, 2.0, azimuth=_SOUTH, elevation=np.arctan(8 / 7)
  )
  # 8 m high reach 7 m, so 3.5 pixels, to the north.
  rows = np.flatnonzero(shadow[:, 15])
  np.testing.assert_array_equal(rows, [12, 13, 14])
  assert not shadow[17:].any() and not shadow[:, :15].any()


def test_water_is_flat_and_the_lowest_place():
  rng = np.random.default_rng(0)
  shore = np.linspace(-30, 90, 64)[None, :].repeat(64, 0)
  height = terrain.from_shore(
    rng.normal(size=(64, 64)), shore, base=100, relief=5
  )
  assert np.all(height[shore <= 0] == 100)
  assert np.all(height[shore > 0] > 100)


def test_water_is_flat_in_every_scene(scenes):
  seen = 0
  for made in scenes(None, 48):
    ground = made.ground
    water = ground.landcover == materials.LandCover.WATER
    if water.any():
      seen += 1
      assert np.ptp(ground.terrain[water]) == 0
      assert ground.terrain.min() == ground.terrain[water][0]
  assert seen > 8


def test_snow_lies_above_the_snow_line(scenes):
  for made in scenes('snow', 6):
    ground = made.ground
    snow = ground.landcover == materials.LandCover.SNOW
    assert snow.any()
    # Rocks stick out, but no snow lies where it is warm.
    lowest_snow = np.quantile(ground.terrain[snow], 0.02)
    rest = ground.terrain[~snow]
    assert np.median(rest) < np.median(ground.terrain[snow])
    assert ground.terrain.min() <= lowest_snow
