"""Drawing a landscape: regions, parcels, lines and objects on one map."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from rsfm_jax.data.synthetic import fields
from rsfm_jax.data.synthetic import ground as ground_lib
from rsfm_jax.data.synthetic import materials
from rsfm_jax.data.synthetic import objects
from rsfm_jax.data.synthetic import terrain

Ground = ground_lib.Ground
Motion = ground_lib.Motion
Patches = ground_lib.Patches
Path = ground_lib.Path


class Cells(NamedTuple):
  """A tiling of the image by rectangles along a path; n cells.

  Rectangles are given in path coordinates (pixels along, pixels across).
  """

  path: Path
  cell: np.ndarray  # [H, W] number of the cell.
  edge: np.ndarray  # [H, W] distance in pixels to the nearest border.
  centre: np.ndarray  # [n, 2]
  extent: np.ndarray  # [n, 2]


class Canvas:
  """A map under construction; lengths are in metres unless they end in px.

  Args:
    rng: draws everything about the layout.
    size: height and width in pixels.
    gsd_m: pixel size in metres.
  """

  def __init__(self, rng: np.random.Generator, size: int, gsd_m: float):
    self.rng, self.size, self.gsd_m = rng, size, gsd_m
    coordinate = np.arange(size, dtype=np.float32) + 0.5
    self.x, self.y = coordinate[None, :], coordinate[:, None]
    span = size / 2
    drawn = fields.filtered(
      rng,
      [
        fields.bandpass(size, 2.4),
        fields.bandpass(size, 7.0 / gsd_m),
        fields.bandpass(size, 22.0 / gsd_m, 0.7),
        fields.fractal(size, 1.3),
        fields.fractal(size, 2.3),
        fields.bandpass(size, span, 0.8),
        fields.bandpass(size, span, 0.8),
        fields.bandpass(size, span / 2, 0.6),
      ],
    )
    self.fields, self.relief, self.coarse = drawn[:4], drawn[4], drawn[5:]
    self.patch = np.zeros((size, size), np.int16)
    self._rows: list[Patches] = []
    self._count = 0
    self.taken = np.zeros((size, size), bool)
    self._objects: list[tuple] = []
    # Metres to the water's edge, <= 0 on water; None without open water.
    self.shore: np.ndarray | None = None
    self.steepness = self.uniform(
      0.5, 3.0
    )  # Standard deviation of the terrain, in metres.
    self.base = float(rng.uniform(0, 400))

  def px(self, metres: float) -> float:
    return metres / self.gsd_m

  def uniform(self, low: float, high: float) -> float:
    return float(self.rng.uniform(low, high))

  def chance(self, probability: float) -> bool:
    return bool(self.rng.random() < probability)

  def pick(self, names: Sequence[str]) -> str:
    return names[int(self.rng.integers(len(names)))]

  def path(self, *, bend: float = 0.0, offset: float = 0.25) -> Path:
    """A line of any direction near the centre.

    Args:
      bend: largest curvature as sagitta over half the image, in image sizes.
      offset: largest distance from the centre, in image sizes.
    """
    heading = self.uniform(0, 2 * np.pi)
    shift = self.uniform(-offset, offset) * self.size
    middle = self.size / 2
    return Path(
      middle - shift * np.sin(heading),
      middle + shift * np.cos(heading),
      heading,
      self.uniform(-bend, bend) * 8 / self.size,
    )

  def region(self, share: float, field: int = 0) -> np.ndarray:
    """A blob-like part of the image that covers about `share` of it."""
    return self.coarse[field] > special.ndtri(1 - share)

  def rows(self, names: Sequence[str], **variation: float) -> Patches:
    """Patches of named materials (see ground.draw_patches)."""
    return ground_lib.draw_patches(
      self.rng, names, gsd_m=self.gsd_m, **variation
    )

  def _append(self, rows: Patches) -> int:
    first = self._count
    self._rows.append(rows)
    self._count += len(rows.material)
    return first

  def paint(self, where: np.ndarray, name: str, **variation: float) -> None:
    """Covers pixels with one new patch of a material."""
    self.patch[where] = self._append(self.rows([name], **variation))

  def paint_cells(
    self,
    cells: Cells,
    names: Sequence[str],
    where: np.ndarray | None = None,
  ) -> None:
    """Covers every cell with a patch of a material drawn from `names`."""
    drawn = self.rng.integers(len(names), size=len(cells.centre))
    chosen = [names[i] for i in drawn]
    first = self._append(self.rows(chosen, angle=cells.path.heading))
    where = np.ones_like(cells.cell, bool) if where is None else where
    self.patch[where] = first + cells.cell[where]

  def cover_of(self, patch: np.ndarray) -> np.ndarray:
    """Land cover u8 of patch numbers."""
    return np.concatenate([rows.cover for rows in self._rows])[patch]

  def parcels(
    self,
    path: Path,
    along: tuple[float, float],
    across: tuple[float, float],
    *,
    shift: float = 1.0,
  ) -> Cells:
    """Rows of rectangles; rows are shifted against each other.

    Args:
      path: direction of the rows.
      along: shortest and longest cell, in metres.
      across: narrowest and widest row, in metres.
      shift: 0 aligns the cells of all rows, 1 shifts them by up to a cell.
    """
    s, d = path.coordinates(self.x, self.y)
    cuts_s, cuts_d = self._cuts(*along), self._cuts(*across)
    row = np.searchsorted(cuts_d[1:-1], d)
    shifts = self.rng.random(len(cuts_d) - 1) * shift * self.px(along[0])
    s = s + shifts[row]
    column = np.searchsorted(cuts_s[1:-1], s)
    edge = np.minimum.reduce(
      [
        s - cuts_s[column],
        cuts_s[column + 1] - s,
        d - cuts_d[row],
        cuts_d[row + 1] - d,
      ]
    )
    middle_s = (cuts_s[1:] + cuts_s[:-1]) / 2 - shifts[:, None]
    middle_d = np.broadcast_to(
      ((cuts_d[1:] + cuts_d[:-1]) / 2)[:, None], middle_s.shape
    )
    extent = np.broadcast_arrays(np.diff(cuts_s), np.diff(cuts_d)[:, None])
    return Cells(
      path=path,
      cell=row * (len(cuts_s) - 1) + column,
      edge=edge,
      centre=np.stack([middle_s.ravel(), middle_d.ravel()], -1),
      extent=np.stack([e.ravel() for e in extent], -1),
    )

  def _cuts(self, low: float, high: float) -> np.ndarray:
    """Cuts in pixels, from before the image to after it and any shift."""
    reach = 1.2 * self.size + self.px(high)
    steps = self.rng.uniform(
      self.px(low), self.px(high), int(2 * reach / self.px(low)) + 2
    )
    cuts = np.cumsum(steps) - steps[0] - reach
    return cuts[: int(np.searchsorted(cuts, reach)) + 1]

  def add(
    self,
    boxes: np.ndarray,
    names: Sequence[str],
    *,
    height: np.ndarray | float,
    on: Sequence[materials.LandCover],
    path: Path | None = None,
    along: np.ndarray | float = 0.0,
    across: np.ndarray | float = 0.0,
    speed: np.ndarray | float = 0.0,
  ) -> None:
    """Puts objects where they fit: whole on allowed cover, on free ground.

    Objects that do not fit, or whose centre is outside, are left out.

    Args:
      boxes: [n, 7] in pixels.
      names: materials to draw from.
      height: metres over the terrain.
      on: allowed land cover below.
      path: the line that the objects move along, if they move.
      along: [n] pixels along `path`.
      across: [n] pixels across `path`.
      speed: [n] metres per second.
    """
    if not len(boxes):
      return
    fits = self._fits(boxes, on)
    # One row stays free for what a change may build.
    used = sum(len(earlier) for earlier, *_ in self._objects)
    fits &= np.cumsum(fits) < objects.capacity(self.size) - used
    count = int(fits.sum())
    if not count:
      return
    columns = np.zeros((4, len(boxes)), np.float32)
    for row, value in zip(columns, (along, across, speed, height), strict=True):
      row[:] = value
    along, across, speed, height = columns[:, fits]
    boxes_in = boxes[fits]
    pixels = objects.rasterise(boxes_in, self.size)
    self.taken[pixels.row, pixels.column] = True
    drawn = self.rng.integers(len(names), size=count)
    centre = boxes_in[:, :2].astype(int)
    ground_cover = self.cover_of(self.patch[centre[:, 1], centre[:, 0]])
    rows = self.rows([names[i] for i in drawn], spread=0.15)
    is_building = rows.cover == materials.LandCover.BUILDING
    rows = rows._replace(cover=np.where(is_building, rows.cover, ground_cover))
    motion = Motion(
      path=np.tile(np.array(path or (0, 0, 0, 0), np.float32), (count, 1)),
      along=along,
      across=across,
      speed=speed,
    )
    self._objects.append((boxes_in, rows, height, motion))

  def _fits(
    self, boxes: np.ndarray, on: Sequence[materials.LandCover]
  ) -> np.ndarray:
    """Which boxes stand whole on allowed, free ground: bool [n]."""
    inside = np.all((boxes[:, :2] >= 0) & (boxes[:, :2] < self.size), axis=1)
    boxes, count = boxes[inside], int(inside.sum())
    pixels = objects.rasterise(boxes, self.size)
    at = (pixels.row, pixels.column)
    cover = self.cover_of(self.patch[at])
    allowed = np.zeros(256, bool)
    allowed[list(on)] = True
    owner = np.full((self.size, self.size), -1)
    owner[at] = pixels.box
    bad = ~allowed[cover] | self.taken[at] | (owner[at] != pixels.box)
    hits = np.bincount(pixels.box, minlength=count)
    wrong = np.bincount(pixels.box, weights=bad, minlength=count)
    inside[inside] = (hits > 0) & (wrong == 0)
    return inside

  def finish(self) -> Ground:
    """The finished ground."""
    flat = np.zeros((self.size, self.size), np.float32)
    ground = Ground(
      gsd_m=self.gsd_m,
      patch=self.patch,
      patches=self._rows[0].append(*self._rows[1:]),
      fields=self.fields,
      terrain=terrain.from_shore(
        self.relief, self.shore, base=self.base, relief=self.steepness
      ),
      above=flat,
      still_patch=self.patch,
      still_above=flat,
      boxes=np.zeros((0, len(objects.COLUMNS)), np.float32),
      box_patch=np.zeros(0, np.int16),
      box_height=np.zeros(0, np.float32),
      motion=ground_lib.still(0),
    )
    for boxes, rows, height, motion in self._objects:
      ground = ground_lib.with_objects(
        ground, boxes, rows, height=height, motion=motion
      )
    return ground
