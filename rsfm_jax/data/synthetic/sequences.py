"""Short image sequences in which vehicles and ships move along their paths."""

import numpy as np

from rsfm_jax.data.synthetic import ground as ground_lib
from rsfm_jax.data.synthetic import objects

Ground = ground_lib.Ground


def positions(ground: Ground, seconds: float) -> np.ndarray:
  """Boxes [n, 7] after `seconds`, wherever their paths lead."""
  motion = ground.motion
  moving = motion.speed != 0
  boxes = ground.boxes.copy()
  path = ground_lib.Path(*motion.path[moving].T)
  along = motion.along + motion.speed * seconds / ground.gsd_m
  centre, heading = path.points(along[moving], motion.across[moving])
  boxes[moving, :2], boxes[moving, 4] = centre, heading
  return boxes


def frame(ground: Ground, seconds: float) -> tuple[Ground, np.ndarray]:
  """The ground after `seconds`, and which of its boxes are in the picture.

  A moving object is in the picture while its centre is in the image and it
  runs whole over the cover it began on, without hitting what stands still.

  Returns:
    The ground with all boxes moved, and bool [n].
  """
  boxes = positions(ground, seconds)
  moving = np.flatnonzero(ground.motion.speed != 0)
  visible = np.ones(len(boxes), bool)
  visible[moving] = _fits(ground, boxes, moving)
  shown = moving[visible[moving]]
  patch, above = ground_lib.paint_boxes(
    ground,
    shown,
    boxes=boxes,
    patch=ground.still_patch,
    above=ground.still_above,
  )
  return ground._replace(patch=patch, above=above, boxes=boxes), visible


def _fits(ground: Ground, boxes: np.ndarray, moving: np.ndarray) -> np.ndarray:
  """bool [k] for the moving boxes."""
  pixels = objects.rasterise(boxes[moving], ground.size)
  below = ground.still_patch[pixels.row, pixels.column]
  own_cover = ground.patches.cover[ground.box_patch[moving]]
  bad = ground.patches.cover[below] != own_cover[pixels.box]
  bad |= np.isin(below, ground.box_patch)
  count = len(moving)
  hits = np.bincount(pixels.box, minlength=count)
  wrong = np.bincount(pixels.box, weights=bad, minlength=count)
  centre = boxes[moving, :2]
  inside = np.all((centre >= 0) & (centre < ground.size), axis=1)
  return inside & (hits > 0) & (wrong == 0)


def tracks(frames: list[tuple[Ground, np.ndarray]], count: int) -> np.ndarray:
  """Boxes of every frame: float32 [T, count, 7].

  Row i is the same object in every frame; its class and track are -1 while it
  is not in the picture.
  """
  out = []
  for ground, visible in frames:
    boxes = ground.boxes.copy()
    boxes[~visible] = 0
    boxes[~visible, 5:] = float(objects.Thing.PADDING)
    out.append(objects.pad(boxes, count))
  return np.stack(out)
