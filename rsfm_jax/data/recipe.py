"""How scenes become samples: one frozen description per store."""

import dataclasses
import re
from typing import Literal

from rsfm_jax.core import choices
from rsfm_jax.data import annotations
from rsfm_jax.data import chips
from rsfm_jax.data import masks
from rsfm_jax.data import readers
from rsfm_jax.data import splits
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import contract


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
  """How scenes become samples.

  Attributes:
    sensor: contract of the files, or its key in the catalogue.
    store_as: key of the contract of the store; '' for that of the files.
      Bands are matched by name and units are converted.
    layout: how the bands lie in the files.
    chip: edge of a chip in pixels; None keeps scenes whole.
    stride: pixels from chip to chip; None for `chip`.
    cut: 'tile' or one chip from the 'centre'.
    max_nodata: a chip with a larger share of nodata is skipped.
    split: how chips are divided into splits.
    bands_as: 'channels' of one sample, or 'samples': every band becomes one
      sample of a sensor that has a single band.
    boxes: what the annotations of the scenes hold, where they have some.
    frames_as: 'samples', or 'series': the frames of a file are the dates of
      one sample, of which `image` is the first.
    mask: what the masks of the scenes hold, where they have one.
    missing_bands: 'error', or 'mask' to store zeros and note the bands.
    processing_baseline: of Sentinel-2 DN, e.g. '05.09'; '' for harmonised.
    licence: noted with every sample.
  """

  sensor: str | contract.Sensor
  store_as: str = ''
  layout: readers.Layout = readers.Layout()
  chip: int | None = None
  stride: int | None = None
  cut: chips.Cut = 'tile'
  max_nodata: float = 0.5
  split: splits.Policy = splits.Policy()
  bands_as: Literal['channels', 'samples'] = 'channels'
  boxes: annotations.Annotations | None = None
  frames_as: Literal['samples', 'series'] = 'samples'
  mask: masks.Mask | None = None
  missing_bands: Literal['error', 'mask'] = 'error'
  processing_baseline: str = ''
  licence: str = ''

  def __post_init__(self):
    kinds = ('channels', 'samples')
    choices.check(self.bands_as, kinds, key='bands_as')
    choices.check(self.frames_as, ('samples', 'series'), key='frames_as')
    choices.check(self.missing_bands, ('error', 'mask'), key='missing_bands')
    if not 0 <= self.max_nodata <= 1:
      raise ValueError(f'max_nodata={self.max_nodata} must be within 0..1.')
    if self.bands_as == 'samples' and len(self.target.bands) != 1:
      raise ValueError(
        f'bands_as=samples needs a store_as with one band; {self.target.name}'
        f' has {self.target.band_names}.'
      )

  @property
  def source(self) -> contract.Sensor:
    if isinstance(self.sensor, contract.Sensor):
      return self.sensor
    return catalogue.get(self.sensor)

  @property
  def target(self) -> contract.Sensor:
    return catalogue.get(self.store_as) if self.store_as else self.source

  @property
  def sensors(self) -> dict[str, contract.Sensor]:
    """Of the store, by name."""
    return {self.target.name: self.target}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
  """What one kind of scenes adds to the samples of a place.

  Attributes:
    recipe: how such a scene becomes one image, or a file of frames one image
      each; it may be cut to one chip from the centre.
    pattern: shell pattern of paths within the source.
    place: regular expression that is searched in the scene's id; its groups,
      joined by '_', name the place.
    times: data set of an HDF5 file that holds the time of every frame, in
      units of a CF time axis or as names with a date; '' takes the date that
      the scene's name has.
    adds: 'dates' to those of the sensor, or 'bands' to the frames of equal
      time that layers above gave it.
    grid: 'own', or 'first' warps a GeoTIFF to the grid of the place's first
      scene.
    repeat: along both axes; every pixel becomes repeat x repeat equal ones.
  """

  recipe: Recipe
  pattern: str
  place: str
  times: str = ''
  adds: Literal['dates', 'bands'] = 'dates'
  grid: Literal['own', 'first'] = 'own'
  repeat: int = 1

  def __post_init__(self):
    choices.check(self.adds, ('dates', 'bands'), key='adds')
    choices.check(self.grid, ('own', 'first'), key='grid')
    if self.repeat < 1:
      raise ValueError(f'repeat={self.repeat} must be at least 1.')
    if not re.compile(self.place).groups:
      raise ValueError(f'place={self.place!r} needs a group, in brackets.')
    if self.recipe.bands_as != 'channels' or (
      self.recipe.chip is not None and self.recipe.cut != 'centre'
    ):
      raise ValueError(
        f'layer {self.pattern!r}: a scene is one image of a place, so '
        "bands_as='channels' and no chips, but for one from the centre."
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Places:
  """How scenes of the same ground become one sample (see `places`).

  Attributes:
    layers: the finest sensor need not be the first.
    split: how places are divided; 'location' knows chips only.
  """

  layers: tuple[Layer, ...]
  split: splits.Policy = splits.Policy()

  def __post_init__(self):
    if not self.layers or self.split.kind in ('location', 'table'):
      raise ValueError(
        f'a place needs layers (now {len(self.layers)}) and a split by name '
        f'or at random (now {self.split.kind}).'
      )

  @property
  def sensors(self) -> dict[str, contract.Sensor]:
    """Of the store, by name."""
    targets = (layer.recipe.target for layer in self.layers)
    return {target.name: target for target in targets}

  @property
  def chip(self) -> None:
    """Places are kept whole."""

  @property
  def max_nodata(self) -> float:
    return max(layer.recipe.max_nodata for layer in self.layers)
