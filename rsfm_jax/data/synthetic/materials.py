"""What the ground is made of: land-cover classes and their materials.

A land-cover class is what a map says (`crop`); a material is what a sensor
sees of it (`winter wheat`). A material mixes endmember spectra between a
dormant and a peak state; the season and the texture move it between the two.
"""

import enum
from typing import NamedTuple

import numpy as np

from rsfm_jax.data.synthetic import spectra


class LandCover(enum.IntEnum):
  """Codes of the `landcover` array."""

  WATER = 0
  FOREST = 1
  CROP = 2
  ORCHARD = 3
  GRASS = 4
  BARE_SOIL = 5
  URBAN = 6  # Gardens, yards and squares of a built-up block.
  BUILDING = 7
  ROAD = 8
  WETLAND = 9
  SNOW = 10
  BEACH = 11


class Cycle(enum.IntEnum):
  """How greenness runs through the year."""

  NONE = 0
  EVERGREEN = 1
  DECIDUOUS = 2
  GRASS = 3
  WINTER_CROP = 4
  SUMMER_CROP = 5


class Texture(enum.IntEnum):
  """Index of the texture field that a material shows."""

  FINE = 0
  CROWNS = 1
  PATCHES = 2
  MOTTLE = 3
  ROWS = 4
  TREES_IN_GRID = 5


class Material(NamedTuple):
  """One material.

  Attributes:
    cover: the land-cover class it belongs to.
    dormant: endmember weights without green cover; what is missing to 1 is
      shade.
    peak: endmember weights at full green cover; None when the same.
    cycle: course of greenness.
    texture: which field modulates it.
    thinning: how strongly the texture moves the green cover, 0..1.
    relief: how strongly the texture moves the brightness.
    height: canopy height in metres.
  """

  cover: LandCover
  dormant: dict[str, float]
  peak: dict[str, float] | None = None
  cycle: Cycle = Cycle.NONE
  texture: Texture = Texture.FINE
  thinning: float = 0.0
  relief: float = 0.05
  height: float = 0.0


_C, _T, _L = Cycle, Texture, LandCover

# fmt: off
MATERIALS: dict[str, Material] = {
    'clear_water': Material(_L.WATER, {'water': 1}, relief=0.06),
    'silty_water': Material(_L.WATER, {'silt': 0.8, 'water': 0.2}, relief=0.05),
    'conifer': Material(
        _L.FOREST, {'soil': 0.2, 'straw': 0.15}, {'needle': 0.95},
        _C.EVERGREEN, _T.CROWNS, 0.1, 0.22, 15),
    'broadleaf': Material(
        _L.FOREST, {'straw': 0.4, 'soil': 0.2}, {'leaf': 0.72},
        _C.DECIDUOUS, _T.CROWNS, 0.1, 0.2, 13),
    'winter_crop': Material(
        _L.CROP, {'soil': 0.85, 'straw': 0.15}, {'leaf': 0.9},
        _C.WINTER_CROP, _T.ROWS, 0.55, 0.05, 0.6),
    'summer_crop': Material(
        _L.CROP, {'soil': 1}, {'leaf': 0.85, 'soil': 0.1},
        _C.SUMMER_CROP, _T.ROWS, 0.8, 0.05, 1.2),
    'fallow': Material(
        _L.CROP, {'soil': 0.9}, {'soil': 0.6, 'straw': 0.25, 'leaf': 0.15},
        _C.GRASS, _T.ROWS, 0.2, 0.09),
    'stubble': Material(
        _L.CROP, {'straw': 0.65, 'soil': 0.35}, None,
        _C.NONE, _T.ROWS, 0.0, 0.12),
    'orchard': Material(
        _L.ORCHARD, {'soil': 0.55, 'straw': 0.35}, {'leaf': 0.75},
        _C.DECIDUOUS, _T.TREES_IN_GRID, 0.95, 0.05, 4),
    'olive_grove': Material(
        _L.ORCHARD, {'soil': 0.8, 'straw': 0.2}, {'needle': 0.7, 'leaf': 0.15},
        _C.EVERGREEN, _T.TREES_IN_GRID, 0.95, 0.05, 4),
    'meadow': Material(
        _L.GRASS, {'straw': 0.55, 'soil': 0.15, 'leaf': 0.2},
        {'leaf': 0.75, 'straw': 0.15}, _C.GRASS, _T.MOTTLE, 0.15, 0.04, 0.3),
    'dry_grass': Material(
        _L.GRASS, {'straw': 0.75, 'soil': 0.2},
        {'leaf': 0.35, 'straw': 0.5}, _C.GRASS, _T.PATCHES, 0.4, 0.07, 0.4),
    'bare_soil': Material(_L.BARE_SOIL, {'soil': 1}, None, _C.NONE,
                          _T.MOTTLE, 0, 0.12),
    'scree': Material(_L.BARE_SOIL, {'rock': 1}, None, _C.NONE,
                      _T.PATCHES, 0, 0.18, 0.5),
    'garden': Material(
        _L.URBAN, {'straw': 0.45, 'soil': 0.25, 'leaf': 0.1},
        {'leaf': 0.75, 'straw': 0.1, 'concrete': 0.05},
        _C.GRASS, _T.PATCHES, 0.45, 0.12, 0.4),
    'pavement': Material(_L.URBAN, {'concrete': 0.6, 'asphalt': 0.4},
                         texture=_T.MOTTLE, relief=0.06),
    'yard': Material(_L.URBAN, {'asphalt': 0.8, 'concrete': 0.25},
                     texture=_T.MOTTLE, relief=0.1),
    'tile_roof': Material(_L.BUILDING, {'tile': 1}, relief=0.04),
    'dark_roof': Material(_L.BUILDING, {'asphalt': 0.9}, relief=0.04),
    'flat_roof': Material(_L.BUILDING, {'concrete': 0.9}, relief=0.04),
    'metal_roof': Material(_L.BUILDING, {'metal': 0.85}, relief=0.03),
    'blue_roof': Material(_L.BUILDING, {'blue_paint': 1}, relief=0.03),
    'asphalt_road': Material(_L.ROAD, {'asphalt': 1, 'concrete': 0.1},
                             relief=0.03),
    'concrete_road': Material(_L.ROAD, {'concrete': 0.7, 'asphalt': 0.2},
                              relief=0.03),
    'track': Material(_L.ROAD, {'soil': 0.8, 'sand': 0.2}, relief=0.05),
    'reed': Material(
        _L.WETLAND, {'straw': 0.75, 'silt': 0.15},
        {'leaf': 0.7, 'silt': 0.1, 'straw': 0.1},
        _C.GRASS, _T.PATCHES, 0.5, 0.1, 1.5),
    'bog': Material(
        _L.WETLAND, {'water': 0.35, 'soil': 0.4, 'straw': 0.15},
        {'leaf': 0.6, 'water': 0.2, 'straw': 0.1},
        _C.GRASS, _T.CROWNS, 0.6, 0.1, 0.5),
    'snowpack': Material(_L.SNOW, {'snow': 0.92}, texture=_T.MOTTLE,
                         relief=0.03),
    'dry_sand': Material(_L.BEACH, {'sand': 1}, texture=_T.MOTTLE,
                         relief=0.05),
    'wet_sand': Material(_L.BEACH, {'sand': 0.45, 'silt': 0.3},
                         texture=_T.MOTTLE, relief=0.05),
    'ship': Material(_L.WATER, {'metal': 0.9}, relief=0.1),
    'dark_ship': Material(_L.WATER, {'tile': 0.8, 'metal': 0.2}, relief=0.1),
    'white_car': Material(_L.ROAD, {'metal': 1.2}, relief=0.0),
    'dark_car': Material(_L.ROAD, {'asphalt': 0.35}, relief=0.0),
    'red_car': Material(_L.ROAD, {'tile': 1.2}, relief=0.0),
    'blue_car': Material(_L.ROAD, {'blue_paint': 1}, relief=0.0),
    'tank': Material(_L.BUILDING, {'metal': 1}, relief=0.02),
}
# fmt: on

INDEX = {name: i for i, name in enumerate(MATERIALS)}


def _weights(mixture: dict[str, float]) -> list[float]:
  return [mixture.get(name, 0.0) for name in spectra.ENDMEMBERS]


_ROWS = list(MATERIALS.values())

# Columns of the table above, indexed by material number.
COVER = np.array([row.cover for row in _ROWS], np.uint8)
DORMANT = np.array([_weights(r.dormant) for r in _ROWS], np.float32)
PEAK = np.array([_weights(r.peak or r.dormant) for r in _ROWS], np.float32)
CYCLE = np.array([row.cycle for row in _ROWS], np.int8)
TEXTURE = np.array([row.texture for row in _ROWS], np.int8)
THINNING = np.array([row.thinning for row in _ROWS], np.float32)
RELIEF = np.array([row.relief for row in _ROWS], np.float32)
HEIGHT = np.array([row.height for row in _ROWS], np.float32)
