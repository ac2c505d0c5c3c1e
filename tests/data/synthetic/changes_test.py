import numpy as np

from rsfm_jax.data.synthetic import changes
from rsfm_jax.data.synthetic import materials


def _pairs(scenes, count=36):
  for k, made in enumerate(scenes(None, count)):
    yield made.ground, changes.change(made.ground, np.random.default_rng(k))


def test_the_mask_is_exactly_where_land_cover_differs(scenes):
  shares = []
  for before, after in _pairs(scenes):
    mask = changes.mask(before, after)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(
      mask == 1, before.landcover != after.landcover
    )
    shares.append(mask.mean())
  assert np.mean(np.array(shares) > 0) > 0.7
  assert np.mean(np.array(shares) == 0) > 0  # Pairs without change exist.


def test_what_has_not_changed_keeps_its_patch(scenes):
  for before, after in _pairs(scenes):
    same = changes.mask(before, after) == 0
    np.testing.assert_array_equal(before.patch[same], after.patch[same])
    assert len(after.boxes) >= len(before.boxes)
    np.testing.assert_array_equal(
      after.boxes[: len(before.boxes)], before.boxes
    )


def test_floods_stay_level(scenes):
  for made in scenes('lake', 6):
    after = changes._flood(made.ground, np.random.default_rng(0))
    water = after.landcover == materials.LandCover.WATER
    assert water.sum() > (made.ground.landcover == 0).sum()
    assert np.ptp(after.terrain[water]) == 0
    assert after.terrain.min() == after.terrain[water][0]


def test_construction_adds_a_building_with_its_box(scenes):
  built = 0
  for made in scenes('pasture', 8):
    after = changes._construction(made.ground, np.random.default_rng(1))
    if len(after.boxes) > len(made.ground.boxes):
      built += 1
      new = after.patch == after.box_patch[-1]
      assert np.all(after.landcover[new] == materials.LandCover.BUILDING)
      assert np.all(after.above[new] >= 9)
  assert built > 3
