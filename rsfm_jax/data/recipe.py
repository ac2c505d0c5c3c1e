"""How scenes become samples: one frozen description per store."""

import dataclasses
from typing import Literal

from rsfm_jax.core import choices
from rsfm_jax.data import chips
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
  missing_bands: Literal['error', 'mask'] = 'error'
  processing_baseline: str = ''
  licence: str = ''

  def __post_init__(self):
    kinds = ('channels', 'samples')
    choices.check(self.bands_as, kinds, key='bands_as')
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
