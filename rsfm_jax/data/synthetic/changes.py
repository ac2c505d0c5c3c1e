"""What happens to a place between two dates."""

import numpy as np
from scipy import special

from rsfm_jax.data.synthetic import fields
from rsfm_jax.data.synthetic import ground as ground_lib
from rsfm_jax.data.synthetic import materials
from rsfm_jax.data.synthetic import objects
from rsfm_jax.data.synthetic import settle

Ground = ground_lib.Ground
Cover = materials.LandCover


def paint(
  ground: Ground, rng: np.random.Generator, where: np.ndarray, name: str
) -> Ground:
  """Covers pixels with a new patch.

  Objects stay, and so does what is of the new class already: what the mask of
  changes calls unchanged has not changed.

  Args:
    ground: the scene before.
    rng: variation of the new patch.
    where: bool [H, W].
    name: of the new material.
  """
  rows = ground_lib.draw_patches(rng, [name], gsd_m=ground.gsd_m)
  number = len(ground.patches.material)
  keeps = ground.patches.cover == rows.cover[0]
  keeps[ground.box_patch] = True
  painted = [
    np.where(where & ~keeps[patch], number, patch)
    for patch in (ground.patch, ground.still_patch)
  ]
  return ground._replace(
    patch=painted[0].astype(np.int16),
    still_patch=painted[1].astype(np.int16),
    patches=ground.patches.append(rows),
  )


def _clearing(ground: Ground, rng: np.random.Generator) -> Ground:
  """Trees felled, or grass ploughed, in one irregular region."""
  size = ground.size
  field = fields.filtered(rng, [fields.bandpass(size, size / 2, 0.8)])[0]
  region = field > special.ndtri(1 - rng.uniform(0.1, 0.35))
  grown = (Cover.FOREST, Cover.GRASS, Cover.CROP, Cover.ORCHARD)
  region &= np.isin(ground.landcover, grown)
  return paint(ground, rng, region, 'bare_soil')


def _construction(ground: Ground, rng: np.random.Generator) -> Ground:
  """A new hall on a paved lot, where the ground is free."""
  size = ground.size
  centre = rng.uniform(0.2, 0.8, (1, 2)) * size
  length, width = rng.uniform([30, 20], [60, 40]) / ground.gsd_m
  angle = rng.uniform(0, np.pi)
  lot = objects.boxes(
    centre, length * 1.4, width * 1.5, angle, objects.Thing.BUILDING
  )
  hall = objects.boxes(centre, length, width, angle, objects.Thing.BUILDING)
  pixels = objects.rasterise(lot, size)
  region = np.zeros((size, size), bool)
  region[pixels.row, pixels.column] = True
  blocked = np.isin(ground.patch, ground.box_patch)
  blocked |= np.isin(ground.landcover, (Cover.WATER, Cover.ROAD))
  if np.any(blocked & region):
    return ground
  ground = paint(ground, rng, region, 'pavement')
  name = settle.HALLS[int(rng.integers(len(settle.HALLS)))]
  return ground_lib.with_objects(
    ground,
    hall,
    ground_lib.draw_patches(rng, [name], gsd_m=ground.gsd_m),
    height=np.array([rng.uniform(9, 15)], np.float32),
    motion=ground_lib.still(1),
  )


def _flood(ground: Ground, rng: np.random.Generator) -> Ground:
  """The water rises; it stays level, and so does the ground below it."""
  water = ground.landcover == Cover.WATER
  if not water.any():
    return ground
  level = ground.terrain[water].min() + rng.uniform(0.4, 1.5)
  region = (ground.terrain < level) & ~np.isin(ground.patch, ground.box_patch)
  ground = paint(ground, rng, region, 'silty_water')
  terrain = np.maximum(ground.terrain, level).astype(np.float32)
  return ground._replace(terrain=terrain)


def _road(ground: Ground, rng: np.random.Generator) -> Ground:
  """A new road across land."""
  x, y = rng.uniform(0.3, 0.7, 2) * ground.size
  path = ground_lib.Path(x, y, rng.uniform(0, np.pi))
  coordinate = np.arange(ground.size) + 0.5
  _, across = path.coordinates(coordinate[None, :], coordinate[:, None])
  region = np.abs(across) < rng.uniform(3, 6) / ground.gsd_m
  region &= ground.landcover != Cover.WATER
  return paint(ground, rng, region, 'asphalt_road')


_EVENTS = (_clearing, _construction, _flood, _road)


def change(ground: Ground, rng: np.random.Generator) -> Ground:
  """The same place later: none, one or two events (10, 60 and 30 %).

  Events that the place cannot have (a flood without water) give way to others.
  """
  count = int(rng.choice(3, p=[0.1, 0.6, 0.3]))
  for i in rng.permutation(len(_EVENTS)):
    if count == 0:
      break
    after = _EVENTS[i](ground, rng)
    count -= bool(mask(ground, after).any())
    ground = after
  return ground


def mask(before: Ground, after: Ground) -> np.ndarray:
  """Where the land cover differs: u8 [H, W], 1 for changed."""
  return (before.landcover != after.landcover).astype(np.uint8)
