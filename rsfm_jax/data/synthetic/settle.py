"""Roads, houses, works, vehicles and ships, placed where they belong."""

import numpy as np

from rsfm_jax.data.synthetic import canvas as canvas_lib
from rsfm_jax.data.synthetic import ground as ground_lib
from rsfm_jax.data.synthetic import materials
from rsfm_jax.data.synthetic import objects

Canvas = canvas_lib.Canvas
Cover = materials.LandCover
Thing = objects.Thing

ROOFS = ('tile_roof', 'dark_roof', 'tile_roof', 'flat_roof')
HALLS = ('flat_roof', 'metal_roof', 'dark_roof', 'blue_roof', 'flat_roof')
CARS = ('white_car', 'dark_car', 'white_car', 'red_car', 'blue_car')
LAND = tuple(c for c in Cover if c not in (Cover.WATER, Cover.ROAD))


def _at(path: ground_lib.Path, along: np.ndarray, across: np.ndarray):
  return path.points(np.asarray(along), np.asarray(across))


def road(c: Canvas, path: ground_lib.Path, width: float, name: str) -> None:
  """Paints a road of `width` metres along a path."""
  _, across = path.coordinates(c.x, c.y)
  c.paint(np.abs(across) < c.px(width) / 2, name)


def traffic(
  c: Canvas,
  path: ground_lib.Path,
  lanes: np.ndarray,
  *,
  gap: float,
  speed: float,
) -> None:
  """Vehicles on lanes, one in about `gap` metres, some of them lorries.

  Args:
    c: the map.
    path: of the road.
    lanes: offsets in metres; traffic keeps to the right.
    gap: mean distance in a lane, metres.
    speed: metres per second.
  """
  reach = 0.75 * c.size
  per_lane = max(1, int(2 * reach * c.gsd_m / gap))
  slot = np.tile(np.arange(per_lane), len(lanes))
  lane = np.repeat(np.asarray(lanes, float), per_lane)
  jitter = c.rng.random((3, len(slot)))
  along = ((slot + 0.7 * jitter[0]) / per_lane * 2 - 1) * reach
  keep = jitter[1] < 0.75
  along, lane, jitter = along[keep], lane[keep], jitter[:, keep]
  lorry = jitter[2] < 0.15
  # The right-hand side of a path has positive offsets.
  direction = np.where(lane > 0, 1.0, -1.0)
  centre, angle = _at(path, along, lane / c.gsd_m)
  c.add(
    objects.boxes(
      centre,
      np.where(lorry, 13.0, 4.7) / c.gsd_m,
      np.where(lorry, 2.8, 2.2) / c.gsd_m,
      angle,
      Thing.VEHICLE,
    ),
    CARS,
    height=np.where(lorry, 3.5, 1.6),
    on=(Cover.ROAD,),
    path=path,
    along=along,
    across=lane / c.gsd_m,
    speed=direction * speed * (0.8 + 0.4 * jitter[0]),
  )


def ships(c: Canvas, *, lengths: tuple[float, float], most: int) -> None:
  """A few ships on open water, each on its own straight course."""
  for _ in range(int(c.rng.integers(1, most + 1))):
    length = c.uniform(*lengths)
    middle = c.rng.random(2) * c.size
    course = ground_lib.Path(*middle, c.uniform(0, 2 * np.pi))
    c.add(
      objects.boxes(
        middle[None],
        c.px(length),
        c.px(max(3.0, length / c.uniform(3.5, 6))),
        course.heading,
        Thing.SHIP,
      ),
      ('ship', 'dark_ship', 'ship'),
      height=4.0 + length / 12,
      on=(Cover.WATER,),
      path=course,
      speed=c.uniform(3, 10),
    )


def houses(
  c: Canvas,
  cells: canvas_lib.Cells,
  *,
  plot: float,
  share: float,
) -> None:
  """Houses in two rows per cell, facing the streets.

  Args:
    c: the map.
    cells: blocks between streets.
    plot: metres of street per house.
    share: how many plots are built on.
  """
  most = int(cells.extent[:, 0].max() / c.px(plot)) + 1
  slot = (np.arange(most) + 0.5) * c.px(plot)
  start = cells.centre[:, 0] - cells.extent[:, 0] / 2
  along = start[:, None, None] + slot[:, None]
  side = np.array([-1.0, 1.0])
  reach = np.maximum(cells.extent[:, 1] / 2 - c.px(12), c.px(6))
  across = cells.centre[:, 1, None, None] + side * reach[:, None, None]
  shape = (len(cells.centre), most, 2)
  inside = (
    np.broadcast_to(slot[:, None], shape) < cells.extent[:, 0, None, None]
  )
  draws = c.rng.random((5, *shape), np.float32)
  keep = inside & (draws[0] < share)
  draws = draws[:, keep]
  jitter = c.px(2.0) * (draws[1:3] - 0.5)
  along = np.broadcast_to(along, shape)[keep] + jitter[0]
  across = np.broadcast_to(across, shape)[keep] + jitter[1]
  centre, angle = _at(cells.path, along, across)
  c.add(
    objects.boxes(
      centre,
      c.px(0.6 * plot) * (0.8 + 0.45 * draws[3]),
      c.px(9.0) * (0.85 + 0.4 * draws[4]),
      angle + np.where(draws[1] < 0.25, np.pi / 2, 0.0),
      Thing.BUILDING,
    ),
    ROOFS if c.chance(0.6) else (c.pick(ROOFS),),
    height=3.5 + 3.0 * draws[2],
    on=LAND,
  )


def farmstead(c: Canvas) -> None:
  """Two or three buildings in a yard."""
  path = c.path(offset=0.35)
  s, d = path.coordinates(c.x, c.y)
  along = c.uniform(-0.3, 0.3) * c.size
  yard = np.maximum(np.abs(s - along), np.abs(d)) < c.px(22)
  c.paint(yard, 'garden')
  offsets = c.px(1) * np.array([[-11.0, -8], [10, -9], [0, 11]])
  centre, angle = _at(path, along + offsets[:, 0], offsets[:, 1])
  lengths = c.px(1) * c.rng.uniform(10, 18, 3)
  c.add(
    objects.boxes(centre, lengths, c.px(9), angle, Thing.BUILDING),
    ROOFS,
    height=5.0,
    on=LAND,
  )


def halls(c: Canvas, cells: canvas_lib.Cells) -> None:
  """One large building in most cells, against one side of its lot."""
  draws = c.rng.random((5, len(cells.centre)))
  length = np.maximum(cells.extent[:, 0] - c.px(14), 0)
  width = np.maximum(cells.extent[:, 1] - c.px(14), 0)
  built_l, built_w = (
    length * (0.55 + 0.4 * draws[0]),
    width * (0.5 + 0.35 * draws[1]),
  )
  push = np.stack([length - built_l, width - built_w], -1) / 2
  centre_s, centre_d = (cells.centre + push * np.sign(draws[2:4].T - 0.5)).T
  centre, angle = _at(cells.path, centre_s, centre_d)
  box = objects.boxes(centre, built_l, built_w, angle, Thing.BUILDING)
  keep = (np.minimum(built_l, built_w) > c.px(8)) & (draws[4] < 0.85)
  c.add(box[keep], HALLS, height=9.0 + 6 * draws[0][keep], on=LAND)


def tanks(c: Canvas, path: ground_lib.Path) -> None:
  """A farm of storage tanks on a grid."""
  radius = c.uniform(5, 10)
  shape = c.rng.integers(1, 4, 2)
  grid = np.stack(np.meshgrid(np.arange(shape[0]), np.arange(shape[1])), -1)
  grid = grid.reshape(-1, 2) * c.px(2.6 * radius)
  corner = c.rng.uniform(-0.35, 0.2, 2) * c.size
  centre, angle = _at(path, corner[0] + grid[:, 0], corner[1] + grid[:, 1])
  size = c.px(2 * radius)
  c.add(
    objects.boxes(centre, size, size, angle, Thing.STORAGE_TANK),
    ('tank',),
    height=12.0,
    on=LAND,
  )


def scattered(c: Canvas, count: int) -> None:
  """Up to `count` bright halls and tanks, wherever there is free land.

  They are 8 to 16 pixels long: what a detector is shown to find.
  """
  for _ in range(count):
    centre, length = c.rng.random((1, 2)) * c.size, c.uniform(8, 16)
    round_ = c.chance(0.4)
    width = length if round_ else length / c.uniform(1.4, 2.5)
    thing = Thing.STORAGE_TANK if round_ else Thing.BUILDING
    turn = c.uniform(-np.pi / 2, np.pi / 2)
    c.add(
      objects.boxes(centre, length, width, turn, thing),
      ('tank',) if round_ else ('metal_roof', 'flat_roof'),
      height=6.0,
      on=LAND,
    )


def parked(c: Canvas, cells: canvas_lib.Cells, *, share: float) -> None:
  """Parked vehicles in rows on the free part of lots."""
  count = int(90 * share * (c.size * c.gsd_m / 128) ** 2) + 1
  draws = c.rng.random((3, count))
  along = (draws[0] - 0.5) * 1.3 * c.size
  # Rows every 6 m along the lot, cars side by side every 3 m.
  across = np.round((draws[1] - 0.5) * 1.3 * c.size / c.px(6)) * c.px(6)
  along = np.round(along / c.px(3.2)) * c.px(3.2)
  centre, angle = _at(cells.path, along, across)
  c.add(
    objects.boxes(
      centre, c.px(4.6), c.px(2.2), angle + np.pi / 2, Thing.VEHICLE
    ),
    CARS,
    height=1.6,
    on=(Cover.URBAN,),
  )
