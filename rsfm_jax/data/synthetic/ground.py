"""The ground: a map of patches, what each is made of, relief and objects."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rsfm_jax.data.synthetic import materials
from rsfm_jax.data.synthetic import objects


class Patches(NamedTuple):
  """One entry per patch (a parcel, a stand of trees, a roof, a car). [P]"""

  material: np.ndarray  # Index into materials.MATERIALS.
  cover: np.ndarray  # u8 LandCover; a car keeps that of the ground below.
  gain: np.ndarray  # Factor on reflectance.
  delay: np.ndarray  # Days by which its season is late.
  angle: np.ndarray  # Direction of rows, radians from +x towards +y.
  period: np.ndarray  # Distance of rows or trees, in pixels.
  sar_db: np.ndarray  # Radar gain in dB (roughness, moisture).

  def append(self, *others: 'Patches') -> 'Patches':
    columns = zip(self, *others, strict=True)
    return Patches(*(np.concatenate(column) for column in columns))


def draw_patches(
  rng: np.random.Generator,
  names: Sequence[str],
  *,
  gsd_m: float,
  angle: float | None = None,
  spread: float = 0.1,
) -> Patches:
  """Patches of named materials with their individual variation.

  Args:
    rng: draws the variation.
    names: [n] keys of materials.MATERIALS.
    gsd_m: pixel size in metres.
    angle: direction of rows (some are worked across it); None for any.
    spread: standard deviation of the logarithm of brightness.
  """
  material = np.array([materials.INDEX[name] for name in names], np.int16)
  normal = rng.standard_normal((3, len(names)), np.float32)
  turn, gap = rng.random((2, len(names)), np.float32)
  angles = turn * np.pi
  if angle is not None:
    angles = angle + np.where(turn < 0.7, 0.0, np.pi / 2)
  trees = materials.TEXTURE[material] == materials.Texture.TREES_IN_GRID
  metres = np.where(trees, 6.0 + 5.0 * gap, 3.5 + 4.5 * gap)
  return Patches(
    material=material,
    cover=materials.COVER[material],
    gain=np.exp(spread * normal[0]),
    delay=12 * normal[1],
    angle=angles.astype(np.float32),
    # Below 2.5 pixels the rows would alias.
    period=np.maximum(metres / gsd_m, 2.5).astype(np.float32),
    sar_db=1.2 * normal[2],
  )


class Path(NamedTuple):
  """A gently curved line, in pixels: a street, a highway, a course.

  At distance s from (x, y) it lies 0.5 * curvature * s^2 to its right hand
  (towards +y for heading 0).
  """

  x: float
  y: float
  heading: float  # Radians from +x towards +y.
  curvature: float = 0.0  # Per pixel.

  def coordinates(
    self, x: np.ndarray, y: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Distance along and signed distance across, in pixels, of points."""
    dx, dy = x - self.x, y - self.y
    cos, sin = np.cos(self.heading), np.sin(self.heading)
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    bend = self.curvature * along
    across = (across - 0.5 * bend * along) / np.sqrt(1 + bend**2)
    return along, across

  def points(
    self, along: np.ndarray, across: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of `coordinates`: centres [n, 2] and headings [n]."""
    cos, sin = np.cos(self.heading), np.sin(self.heading)
    bend = self.curvature * along
    sideways = across * np.sqrt(1 + bend**2) + 0.5 * bend * along
    x = self.x + along * cos - sideways * sin
    y = self.y + along * sin + sideways * cos
    return np.stack([x, y], -1), self.heading + np.arctan(bend)


class Motion(NamedTuple):
  """How each box moves: along a path at constant speed. [n] each."""

  path: np.ndarray  # [n, 4]: the fields of Path.
  along: np.ndarray
  across: np.ndarray
  speed: np.ndarray  # Metres per second; 0 for what stands still.


def still(count: int) -> Motion:
  """Of `count` objects that stand."""
  zero = np.zeros(count, np.float32)
  return Motion(np.zeros((count, 4), np.float32), zero, zero, zero)


class Ground(NamedTuple):
  """Everything that the sensors look at, apart from date and weather."""

  gsd_m: float
  patch: np.ndarray  # i16[H, W]
  patches: Patches
  fields: np.ndarray  # f32[4, H, W]: FINE, CROWNS, PATCHES, MOTTLE.
  terrain: np.ndarray  # f32[H, W] bare earth, metres.
  above: np.ndarray  # f32[H, W] height of objects over the terrain.
  still_patch: np.ndarray  # `patch` and `above` without what moves.
  still_above: np.ndarray
  boxes: np.ndarray  # f32[n, 7]
  box_patch: np.ndarray  # i16[n]: the patch that a box is painted with.
  box_height: np.ndarray  # f32[n] metres over the terrain.
  motion: Motion

  @property
  def size(self) -> int:
    return self.patch.shape[0]

  @property
  def landcover(self) -> np.ndarray:
    """u8[H, W] of materials.LandCover."""
    return self.patches.cover[self.patch]


def texture(ground: Ground) -> np.ndarray:
  """The texture that each pixel's material shows: f32[H, W], unit scale."""
  patch, patches = ground.patch, ground.patches
  kind = materials.TEXTURE[patches.material]
  stack = list(ground.fields)
  if np.any(kind >= materials.Texture.ROWS):
    stack += _planted(ground)
  kind = kind[patch]
  flat = np.stack(stack).reshape(len(stack), -1)
  return flat[kind.reshape(-1), np.arange(patch.size)].reshape(patch.shape)


def _planted(ground: Ground) -> list[np.ndarray]:
  """Rows, and trees in a grid, by the angle and period of each patch."""
  patch, patches, size = ground.patch, ground.patches, ground.size
  wave = np.stack([np.cos(patches.angle), np.sin(patches.angle)])
  wave = (wave * (2 * np.pi / patches.period)).astype(np.float32)
  kx, ky = wave[:, patch]
  x = np.arange(size, dtype=np.float32)
  y = x[:, None]
  # Rows run along the angle: the wave goes across.
  across = np.cos(y * kx - x * ky)
  along = np.cos(x * kx + y * ky)
  rows = 1.1 * across + 0.35 * ground.fields[materials.Texture.FINE]
  trees = 1.1 * (across + along) - 0.3
  return [rows, trees]


def surface(ground: Ground, textured: np.ndarray) -> np.ndarray:
  """Height of the visible surface (terrain, canopies, roofs): f32[H, W] m."""
  height = materials.HEIGHT[ground.patches.material][ground.patch]
  canopy = height * np.clip(0.8 + 0.25 * textured, 0, 1.4)
  return ground.terrain + canopy + ground.above


def paint_boxes(
  ground: Ground,
  which: np.ndarray,
  *,
  boxes: np.ndarray,
  patch: np.ndarray,
  above: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Draws boxes into copies of a patch map and a map of object heights.

  Args:
    ground: gives the patch, height and kind of every box.
    which: [k] indices of the boxes to draw.
    boxes: [n, 7] where all boxes are now.
    patch: i16[H, W] map below.
    above: f32[H, W] heights below.

  Returns:
    The new patch map and the new heights.
  """
  patch, above = patch.copy(), above.copy()
  pixels = objects.rasterise(boxes[which], ground.size)
  box, at = which[pixels.box], (pixels.row, pixels.column)
  patch[at] = ground.box_patch[box]
  # Houses have a ridge along their length: 0.45 is a pitch of 24 degrees.
  house = (boxes[:, 5] == objects.Thing.BUILDING) & (ground.box_height < 9)
  ridge = (0.5 * boxes[box, 3] - np.abs(pixels.across)) * ground.gsd_m
  above[at] = ground.box_height[box] + 0.45 * ridge * house[box]
  return patch, above


def with_objects(
  ground: Ground,
  boxes: np.ndarray,
  rows: Patches,
  *,
  height: np.ndarray,
  motion: Motion,
) -> Ground:
  """Adds boxes, one new patch each, on top of what was there.

  What moves is left out of the still maps.

  Args:
    ground: the scene below.
    boxes: [n, 7].
    rows: [n] patches; `cover` as it shall be.
    height: [n] metres over the terrain.
    motion: [n] rows.
  """
  first, count = len(ground.boxes), len(boxes)
  number = len(ground.patches.material) + np.arange(count)
  ground = ground._replace(
    patches=ground.patches.append(rows),
    boxes=np.concatenate([ground.boxes, boxes]),
    box_patch=np.concatenate([ground.box_patch, number.astype(np.int16)]),
    box_height=np.concatenate([ground.box_height, height]),
    motion=Motion(*map(np.concatenate, zip(ground.motion, motion))),
  )
  ground.boxes[first:, 6] = np.arange(first, first + count)
  new = np.arange(first, first + count)
  still = new[motion.speed == 0]
  patch, above = paint_boxes(
    ground, new, boxes=ground.boxes, patch=ground.patch, above=ground.above
  )
  still_patch, still_above = patch, above
  if len(still) < count:
    still_patch, still_above = paint_boxes(
      ground,
      still,
      boxes=ground.boxes,
      patch=ground.still_patch,
      above=ground.still_above,
    )
  return ground._replace(
    patch=patch,
    above=above,
    still_patch=still_patch,
    still_above=still_above,
  )
