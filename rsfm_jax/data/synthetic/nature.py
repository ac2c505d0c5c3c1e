"""Scene classes of fields, woods, water, coast and snow."""

import numpy as np

from rsfm_jax.data.synthetic import canvas as canvas_lib
from rsfm_jax.data.synthetic import materials
from rsfm_jax.data.synthetic import settle

Canvas = canvas_lib.Canvas
Cover = materials.LandCover

CROPS = ('winter_crop', 'summer_crop', 'fallow', 'stubble', 'winter_crop')
GREENS = ('meadow', 'dry_grass', 'meadow')
TREES = ('conifer', 'broadleaf')


def farmland(c: Canvas, names: tuple[str, ...]) -> canvas_lib.Cells:
  """Parcels of the named materials, with tracks or hedges between some."""
  long = c.uniform(60, 130)
  wide = c.uniform(25, 60)
  cells = c.parcels(
    c.path(bend=0.02), (0.7 * long, 1.4 * long), (0.6 * wide, 1.5 * wide)
  )
  c.paint_cells(cells, names)
  border = c.rng.random()
  if border < 0.3:
    c.paint(cells.edge < c.px(1.7), 'track')
  elif border < 0.5:
    hedge = (cells.edge < c.px(2.6)) & (c.fields[2] > -0.6)
    c.paint(hedge, c.pick(TREES))
  return cells


def countryside(c: Canvas) -> None:
  """What may surround a river, a road or a village."""
  kind = c.rng.random()
  if kind < 0.4:
    farmland(c, (*CROPS, 'meadow'))
  elif kind < 0.75:
    c.paint(np.ones_like(c.patch, bool), c.pick(GREENS))
    c.paint(c.region(c.uniform(0.05, 0.45)), c.pick(TREES))
    c.paint(c.region(c.uniform(0.0, 0.3), 1), c.pick(('bare_soil', *GREENS)))
  elif kind < 0.9:
    c.paint(np.ones_like(c.patch, bool), c.pick(TREES))
    c.paint(c.region(c.uniform(0.1, 0.4)), c.pick((*GREENS, *TREES)))
  else:
    c.paint(np.ones_like(c.patch, bool), c.pick(('dry_grass', 'bare_soil')))
    c.paint(c.region(c.uniform(0.1, 0.5)), c.pick(('scree', 'dry_grass')))


def annual_crop(c: Canvas) -> None:
  farmland(c, CROPS if c.chance(0.8) else (*CROPS, 'meadow'))
  if c.chance(0.3):
    c.paint(c.region(c.uniform(0.02, 0.2)), c.pick(TREES))
  if c.chance(0.25):
    settle.farmstead(c)


def permanent_crop(c: Canvas) -> None:
  names = ('orchard', 'olive_grove')
  names = names if c.chance(0.5) else (c.pick(names),)
  others = ('meadow', 'fallow') if c.chance(0.35) else ()
  farmland(c, names * 3 + others)
  if c.chance(0.25):
    c.paint(c.region(c.uniform(0.02, 0.2)), c.pick((*TREES, 'meadow')))
  if c.chance(0.2):
    settle.farmstead(c)


def pasture(c: Canvas) -> None:
  """Large grassy paddocks, hedges, single trees."""
  cells = c.parcels(c.path(bend=0.03), (80, 220), (60, 160))
  c.paint_cells(cells, GREENS if c.chance(0.5) else (c.pick(GREENS),))
  if c.chance(0.6):
    hedge = (cells.edge < c.px(3)) & (c.fields[2] > c.uniform(-1, 0.5))
    c.paint(hedge, c.pick(TREES))
  if c.chance(0.6):
    c.paint(c.fields[2] > c.uniform(1.9, 2.6), c.pick(TREES))
  if c.chance(0.3):
    c.paint(c.region(c.uniform(0.02, 0.15)), 'bare_soil')
  c.steepness = c.uniform(1, 8)


def forest(c: Canvas) -> None:
  """Stands of one or two kinds, clearings, a track."""
  c.paint(np.ones_like(c.patch, bool), c.pick(TREES))
  c.paint(c.region(c.uniform(0.1, 0.6)), c.pick(TREES))
  if c.chance(0.6):
    c.paint(c.region(c.uniform(0.02, 0.25), 1), c.pick((*GREENS, 'bare_soil')))
  if c.chance(0.4):
    _, across = c.path(bend=0.15).coordinates(c.x, c.y)
    c.paint(np.abs(across) < c.px(2.2), 'track')
  c.steepness = c.uniform(2, 15)


def wetland(c: Canvas) -> None:
  """Reed and bog around winding pools."""
  c.paint(np.ones_like(c.patch, bool), c.pick(('reed', 'bog')))
  c.paint(c.region(c.uniform(0.2, 0.6)), c.pick(('reed', 'bog')))
  if c.chance(0.5):
    c.paint(c.region(c.uniform(0.05, 0.3), 1), c.pick((*GREENS, *TREES)))
  # From many small pools to a few winding arms of open water.
  small = c.rng.random()
  pools = small * c.fields[2] + 1.1 * (1 - small) * c.coarse[2]
  pools += 0.35 * c.fields[3]
  if c.chance(0.4):
    pools = 0.9 - 2 * np.abs(pools)
  c.shore = (c.uniform(0.3, 1.1) - pools) * 6.0
  c.paint(c.shore <= 0, c.pick(('clear_water', 'silty_water')))
  c.steepness = 0.3


def river(c: Canvas) -> None:
  countryside(c)
  width = c.uniform(14, 55)
  bend = c.uniform(0.02, 0.12) * c.size
  path = c.path(bend=0.1)
  along, across = path.coordinates(c.x, c.y)
  turns = 2 * np.pi / (c.uniform(0.7, 1.6) * c.size)
  phase = c.uniform(0, 2 * np.pi)
  middle = bend * np.sin(along * turns + phase)
  slope = bend * turns * np.cos(along * turns + phase)
  across = (across - middle) / np.sqrt(1 + slope**2)
  wobble = 2.0 * c.fields[3] + 2.5 * c.coarse[2]
  c.shore = np.abs(across) * c.gsd_m - width / 2 + wobble
  if c.chance(0.7):
    bank = c.shore < c.uniform(3, 25)
    c.paint(bank, c.pick((*TREES, 'reed', 'meadow', 'bare_soil')))
  c.paint(c.shore <= 0, c.pick(('silty_water', 'clear_water')))
  if c.chance(0.5):
    settle.ships(c, lengths=(12, 35), most=3)


def lake(c: Canvas) -> None:
  countryside(c)
  depth = 0.4 * c.coarse[0] + 0.3 * c.coarse[1] + 0.1 * c.fields[3]
  radius = np.hypot(c.x - c.size / 2, c.y - c.size / 2) / (c.size / 2)
  reach = c.uniform(0.6, 1.1)
  c.shore = (1.6 * (radius - reach) + depth) * c.size * c.gsd_m * 0.14
  if c.chance(0.8):
    bank = c.shore < c.uniform(2, 18)
    c.paint(bank, c.pick((*TREES, 'reed', 'meadow', 'dry_sand')))
  c.paint(c.shore <= 0, c.pick(('clear_water', 'clear_water', 'silty_water')))
  if c.chance(0.5):
    settle.ships(c, lengths=(8, 25), most=5)


def beach(c: Canvas) -> None:
  """Sea, surf-wet sand, dry sand, dunes, and what lies behind."""
  countryside(c)
  _, across = c.path(bend=0.12, offset=0.3).coordinates(c.x, c.y)
  coast = across * c.gsd_m + 5 * c.coarse[2] + 1.5 * c.fields[3]
  width = c.uniform(15, 60)
  if c.chance(0.6):
    dunes = coast < width + c.uniform(10, 40)
    c.paint(dunes, c.pick(('dry_grass', 'dry_grass', 'conifer')))
  if c.chance(0.3):
    road = np.abs(coast - width - 12) < 4
    c.paint(road, 'asphalt_road')
  c.shore = coast
  c.paint(coast <= width, 'dry_sand')
  c.paint(coast <= c.uniform(3, 8), 'wet_sand')
  c.paint(coast <= 0, c.pick(('clear_water', 'silty_water')))
  if c.chance(0.5):
    settle.ships(c, lengths=(10, 40), most=3)


def snow(c: Canvas) -> None:
  """A mountain side: snow above a line that is higher on sunny slopes."""
  c.steepness = c.uniform(12, 30)
  c.base = c.uniform(1500, 3000)
  c.paint(np.ones_like(c.patch, bool), c.pick(('scree', 'dry_grass')))
  altitude = c.relief + 0.12 * c.fields[3]
  low = altitude < c.uniform(-2.2, -0.8)
  c.paint(low, c.pick(('conifer', 'meadow', 'scree')))
  line = c.uniform(-1.8, 0.7)
  rocks = c.fields[2] > c.uniform(1.2, 2.6)
  c.paint((altitude > line) & ~rocks, 'snowpack')
