"""Scene classes of streets, works and highways."""

import numpy as np

from rsfm_jax.data.synthetic import canvas as canvas_lib
from rsfm_jax.data.synthetic import nature
from rsfm_jax.data.synthetic import settle

Canvas = canvas_lib.Canvas


def residential(c: Canvas) -> None:
  """Blocks of houses with gardens between streets."""
  c.steepness = c.uniform(0.3, 3)
  block = c.uniform(44, 60)
  path = c.path(bend=c.uniform(0, 0.08))
  cells = c.parcels(
    path, (65, 150), (0.95 * block, 1.05 * block), shift=c.uniform(0, 1)
  )
  c.paint_cells(cells, ('garden', 'garden', 'garden', 'pavement'))
  if c.chance(0.35):
    c.paint(c.region(c.uniform(0.05, 0.3)), c.pick(nature.GREENS))
  if c.chance(0.8):
    c.paint(c.fields[2] > c.uniform(1.2, 2.2), c.pick(nature.TREES))
  c.paint(cells.edge < c.px(c.uniform(3, 4.5)), 'asphalt_road')
  settle.houses(c, cells, plot=c.uniform(14, 22), share=c.uniform(0.75, 1.0))
  rows = np.unique(cells.centre[:, 1] + cells.extent[:, 1] / 2)
  for d in rows[np.abs(rows) < c.size / 2][:3]:
    (x, y), angle = (v[0] for v in path.points(np.zeros(1), np.array([d])))
    street = canvas_lib.Path(x, y, float(angle), path.curvature)
    settle.traffic(c, street, np.array([-1.7, 1.7]), gap=45, speed=9)


def industrial(c: Canvas) -> None:
  """Large halls on paved lots, tanks, parked vehicles."""
  c.steepness = c.uniform(0.2, 1.5)
  cells = c.parcels(c.path(), (55, 120), (40, 85), shift=0.3)
  c.paint_cells(cells, ('yard', 'pavement', 'yard', 'pavement', 'bare_soil'))
  if c.chance(0.4):
    c.paint(c.region(c.uniform(0.05, 0.3)), c.pick(('dry_grass', 'meadow')))
  c.paint(
    cells.edge < c.px(c.uniform(3, 5)),
    c.pick(('asphalt_road', 'concrete_road')),
  )
  if c.chance(0.45):
    settle.tanks(c, cells.path)
  settle.halls(c, cells)
  settle.parked(c, cells, share=c.uniform(0.1, 1.0))


def highway(c: Canvas) -> None:
  """A dual carriageway, its verges, sometimes a crossing road."""
  nature.countryside(c)
  c.steepness = c.uniform(0.3, 3)
  path = c.path(bend=0.12)
  lanes = int(c.rng.integers(1, 4))
  median = c.uniform(2, 8)
  carriageway = 3.7 * lanes + 2.5
  name = c.pick(('asphalt_road', 'asphalt_road', 'concrete_road'))
  total = 2 * carriageway + median
  if c.chance(0.7):
    settle.road(c, path, total + c.uniform(8, 24), c.pick(nature.GREENS))
  if c.chance(0.35):
    other = c.path()._replace(heading=path.heading + c.uniform(0.9, 2.2))
    settle.road(c, other, c.uniform(6, 9), c.pick(('asphalt_road', 'track')))
  settle.road(c, path, total, name)
  settle.road(c, path, median, c.pick((*nature.GREENS, 'concrete_road')))
  offsets = median / 2 + 1.5 + 1.85 + 3.7 * np.arange(lanes)
  settle.traffic(
    c,
    path,
    np.concatenate([-offsets, offsets]),
    gap=c.uniform(22, 90),
    speed=28,
  )
