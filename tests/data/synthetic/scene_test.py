import collections

import numpy as np

from rsfm_jax.data.synthetic import materials
from rsfm_jax.data.synthetic import scene


def _same(a, b) -> bool:
  return np.array_equal(a.ground.patch, b.ground.patch) and np.array_equal(
    a.ground.terrain, b.ground.terrain
  )


def test_a_scene_is_a_function_of_seed_and_index():
  a = scene.compose(seed=1, index=5, size=64)
  scene.compose(seed=9, index=0, size=64)  # Nothing is left behind.
  b = scene.compose(seed=1, index=5, size=64)
  assert _same(a, b) and a.day == b.day and a.latitude == b.latitude
  assert not _same(a, scene.compose(seed=2, index=5, size=64))
  assert not _same(a, scene.compose(seed=1, index=17, size=64))


def test_all_land_cover_classes_occur(scenes):
  covers = set()
  for made in scenes(None, 96):
    covers |= set(np.unique(made.ground.landcover).tolist())
  assert covers == {int(c) for c in materials.LandCover}


def test_every_theme_shows_what_it_is_called(scenes):
  cover = materials.LandCover
  needed = {
    'annual_crop': cover.CROP,
    'permanent_crop': cover.ORCHARD,
    'pasture': cover.GRASS,
    'forest': cover.FOREST,
    'wetland': cover.WETLAND,
    'river': cover.WATER,
    'lake': cover.WATER,
    'beach': cover.BEACH,
    'snow': cover.SNOW,
    'residential': cover.BUILDING,
    'industrial': cover.BUILDING,
    'highway': cover.ROAD,
  }
  assert set(needed) == set(scene.CLASSES)
  for theme, wanted in needed.items():
    shares = [
      np.mean(made.ground.landcover == wanted) for made in scenes(theme, 8)
    ]
    assert np.mean(shares) > 0.04, theme
    assert np.min(shares) > 0, theme


def test_classes_and_splits_are_balanced():
  made = [
    scene.compose(seed=0, index=i, size=32)
    for i in range(10 * len(scene.CLASSES))
  ]
  pairs = collections.Counter((m.label, m.split) for m in made)
  for label in range(len(scene.CLASSES)):
    assert pairs[label, 'train'] == 7
    assert pairs[label, 'val'] == 1
    assert pairs[label, 'test'] == 2


def test_sizes_other_than_64_work():
  for size in (32, 96, 128):
    for index in range(len(scene.CLASSES)):
      made = scene.compose(seed=0, index=index, size=size)
      assert made.ground.patch.shape == (size, size)
      assert made.ground.patch.max() < len(made.ground.patches.material)


def test_dates_count_from_2023():
  assert scene.date_of(0) == '2023-01-01'
  assert scene.date_of(365 + 31) == '2024-02-01'
