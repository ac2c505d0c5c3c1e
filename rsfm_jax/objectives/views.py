"""Multi-crop on device: windows of the same ground for every sensor.

Views are cut, never resized: every window lies on whole pixels of the coarsest
sensor, so that all sensors see exactly the same ground and no pixel is mixed.
(Crop sizes of SkySense V2 are NOT FOUND; DEFAULT of its fact sheet, section 4.)
Letters: B tiles, V views of a tile, T dates, P pairs of views, n points.
Positions are (row, column) shares of the tile, 0 to 1.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.core import rng

Array = jax.Array
Symmetry = Literal['none', 'flip', 'd4']

_SYMMETRIES = {'none': 1, 'flip': 2, 'd4': 8}
_TRANSPOSE, _ROWS, _COLUMNS = 1, 2, 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewSpec:
  """How many views of which size; sizes in pixels of the finest sensor.

  Attributes:
    global_views: seen by teacher and student.
    local_views: small ones; DINO's teacher does not see them, QSACL's does.
    global_size: side of a global view (SkySense V2: NOT FOUND, DEFAULT 512).
    local_size: side of a local view (NOT FOUND, DEFAULT 256).
    symmetry: 'none', 'flip' (left to right, half of the time) or 'd4', the
      paper's flips and rotations.
  """

  global_size: int
  local_size: int
  global_views: int = 2
  local_views: int = 6
  symmetry: Symmetry = 'd4'

  def __post_init__(self):
    choices.check(self.symmetry, _SYMMETRIES, key='objective.views.symmetry')
    if self.global_views < 2:
      raise ValueError(
        f'objective.views.global_views={self.global_views}: the teacher of one '
        'view needs another one to compare with; at least 2.'
      )


class Windows(NamedTuple):
  """Where the views of B tiles lie.

  Attributes:
    cell: top left corner in pixels of the coarsest sensor, i32[B, V, 2].
    symmetry: bits of transpose, row flip, column flip, i32[B, V].
    size: side of a view in those pixels.
    tile: side of the tile in those pixels.
  """

  cell: Array
  symmetry: Array
  size: int
  tile: int

  def view(self, index: int) -> 'Windows':
    """One view of every tile, V = 1."""
    keep = slice(index, index + 1)
    return self._replace(
      cell=self.cell[:, keep], symmetry=self.symmetry[:, keep]
    )


def draw(
  key: Array,
  *,
  tiles: int,
  views: int,
  size: int,
  tile: int,
  symmetry: Symmetry,
) -> Windows:
  """Random windows; a tile's are independent of the number of tiles.

  Args:
    key: of the step.
    tiles: B.
    views: V.
    size: side of a view in pixels of the coarsest sensor.
    tile: side of the tile in the same.
    symmetry: see `ViewSpec`.

  Raises:
    ValueError: a view that is larger than its tile.
  """
  if not 0 < size <= tile:
    raise ValueError(
      f'objective.views: a view of {size} pixels of the coarsest sensor does '
      f'not fit a tile of {tile}.'
    )
  shape = (tiles, views)
  cell = jax.random.randint(
    rng.named(key, 'cell'), (*shape, 2), 0, tile - size + 1
  )
  turn = jax.random.randint(
    rng.named(key, 'turn'), shape, 0, _SYMMETRIES[symmetry]
  )
  if symmetry == 'flip':
    turn = turn * _COLUMNS
  return Windows(cell, turn, size, tile)


def cells(size: int, *, finest: int, coarsest: int, key: str) -> int:
  """A length in pixels of the finest sensor as pixels of the coarsest one.

  Args:
    size: in pixels of the finest sensor.
    finest: side of the tile in pixels of the finest sensor.
    coarsest: and of the coarsest.
    key: names the size in the error.

  Raises:
    ValueError: it is no whole number of them.
  """
  found, rest = divmod(size * coarsest, finest)
  if rest:
    raise ValueError(
      f'{key}={size} is no whole number of pixels of the coarsest sensor '
      f'({coarsest} where the finest has {finest}); a multiple of '
      f'{finest // math.gcd(finest, coarsest)} is.'
    )
  return found


def cut(image: Array, windows: Windows) -> Array:
  """The views of every tile: [B, T, H, W, ...] -> [B V, T, h, w, ...].

  Views of a tile follow one another, so that samples stay on their device.

  Raises:
    ValueError: pixels that the coarsest sensor's do not divide into.
  """
  tile, rest = divmod(image.shape[2], windows.tile)
  if rest or image.shape[2] != image.shape[3]:
    raise ValueError(
      f'a tile of {image.shape[2]} x {image.shape[3]} pixels is no square '
      f'multiple of the coarsest {windows.tile}.'
    )
  side = windows.size * tile

  def one(image, cell, symmetry):  # [T, H, W, ...]
    start = (0, cell[0] * tile, cell[1] * tile) + (0,) * (image.ndim - 3)
    sizes = (image.shape[0], side, side, *image.shape[3:])
    return turned(jax.lax.dynamic_slice(image, start, sizes), symmetry)

  views = jax.vmap(jax.vmap(one, (None, 0, 0)))
  out = views(image, windows.cell, windows.symmetry)
  return out.reshape(-1, *out.shape[2:])


def turned(image: Array, symmetry: Array) -> Array:
  """A symmetry of the square on the axes 1 and 2: [T, h, h, ...]."""
  is_set = lambda bit: (symmetry & bit) > 0
  image = jnp.where(is_set(_TRANSPOSE), image.swapaxes(1, 2), image)
  image = jnp.where(is_set(_ROWS), image[:, ::-1], image)
  return jnp.where(is_set(_COLUMNS), image[:, :, ::-1], image)


def points(windows: Windows, grid: int) -> Array:
  """Ground under the centres of grid x grid cells: f32[B, V, grid^2, 2]."""
  centre = (np.arange(grid, dtype=np.float32) + 0.5) / grid
  inside = np.stack(np.meshgrid(centre, centre, indexing='ij'), -1)
  inside = jnp.asarray(inside.reshape(1, 1, -1, 2))
  # The flips come last when a view is cut, so they are undone first.
  row, column = inside[..., 0], inside[..., 1]
  row = jnp.where(_bit(windows, _ROWS), 1 - row, row)
  column = jnp.where(_bit(windows, _COLUMNS), 1 - column, column)
  swap = _bit(windows, _TRANSPOSE)
  base = jnp.stack(
    [jnp.where(swap, column, row), jnp.where(swap, row, column)], -1
  )
  origin = windows.cell[:, :, None].astype(jnp.float32)
  return (origin + base * windows.size) / windows.tile


def locate(windows: Windows, ground: Array) -> Array:
  """Ground as shares of a view: f32[B, V, n, 2] -> the same; see `points`."""
  origin = windows.cell[:, :, None].astype(jnp.float32)
  base = (ground * windows.tile - origin) / windows.size
  swap = _bit(windows, _TRANSPOSE)
  row = jnp.where(swap, base[..., 1], base[..., 0])
  column = jnp.where(swap, base[..., 0], base[..., 1])
  row = jnp.where(_bit(windows, _ROWS), 1 - row, row)
  column = jnp.where(_bit(windows, _COLUMNS), 1 - column, column)
  return jnp.stack([row, column], -1)


def sample(maps: Array, where: Array) -> tuple[Array, Array]:
  """Bilinear values of maps at places inside their view.

  Args:
    maps: [B, V, T, g, g, D], values at the centres of cells.
    where: f32[B, V, n, 2], shares of the view.

  Returns:
    [B, V, T, n, D] in float32, and bool[B, V, n], True inside the view;
    values outside repeat its edge.
  """
  grid = maps.shape[3]
  slack = 1e-5
  inside = ((where > -slack) & (where < 1 + slack)).all(-1)
  place = jnp.clip(where * grid - 0.5, 0.0, grid - 1.0)
  low = jnp.floor(place).astype(jnp.int32)
  share = place - low
  high = jnp.minimum(low + 1, grid - 1)
  flat = maps.reshape(*maps.shape[:3], grid * grid, maps.shape[-1])

  def corner(row: Array, column: Array, weight: Array) -> Array:
    index = (row * grid + column)[:, :, None, :, None]
    found = jnp.take_along_axis(flat, index, 3).astype(jnp.float32)
    return found * weight[:, :, None, :, None]

  (r0, c0), (r1, c1) = (jnp.moveaxis(x, -1, 0) for x in (low, high))
  dr, dc = share[..., 0], share[..., 1]
  value = corner(r0, c0, (1 - dr) * (1 - dc)) + corner(r0, c1, (1 - dr) * dc)
  value += corner(r1, c0, dr * (1 - dc)) + corner(r1, c1, dr * dc)
  return value, inside


class Aligned(NamedTuple):
  """Vectors of pairs of views at the same ground.

  Attributes:
    student: f32[B, P, T, n, D], at the centres of the student's cells.
    teacher: f32[B, P, T, n, D], sampled there.
    counts: bool[B, P, n], where both see the ground.
  """

  student: Array
  teacher: Array
  counts: Array


def align(
  student: Array,
  teacher: Array,
  *,
  student_windows: Windows,
  teacher_windows: Windows,
  pairs: Sequence[tuple[int, int]],
) -> Aligned:
  """Looks a student's ground up in a teacher's maps.

  Args:
    student: [B, V, T, g, g, D].
    teacher: [B, V', T, g', g', D].
    student_windows: of the student's views.
    teacher_windows: of the teacher's views.
    pairs: (teacher view, student view).
  """
  taught = jnp.array([t for t, _ in pairs])
  learnt = jnp.array([s for _, s in pairs])
  ground = points(student_windows, student.shape[3])[:, learnt]
  chosen = teacher_windows._replace(
    cell=teacher_windows.cell[:, taught],
    symmetry=teacher_windows.symmetry[:, taught],
  )
  values, inside = sample(teacher[:, taught], locate(chosen, ground))
  own = student.reshape(*student.shape[:3], -1, student.shape[-1])
  return Aligned(own[:, learnt].astype(jnp.float32), values, inside)


def _bit(windows: Windows, bit: int) -> Array:
  return ((windows.symmetry & bit) > 0)[:, :, None]
