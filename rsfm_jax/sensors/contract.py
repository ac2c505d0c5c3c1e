"""What a sensor is: bands by name, units, scale, nodata, statistics.

The contract travels with the data, the checkpoint and the exported graph.
Data is matched to a model by band name and never by position.
"""

from collections.abc import Mapping
import dataclasses
import enum
from typing import Any

from rsfm_jax.core import choices


class Kind(enum.StrEnum):
  """How a sensor sees: decides crops, resampling and display."""

  OPTICAL = 'optical'
  MULTISPECTRAL = 'multispectral'
  SAR_COMPLEX = 'sar_complex'
  SAR_AMPLITUDE = 'sar_amplitude'
  ELEVATION = 'elevation'


class Units(enum.StrEnum):
  """The unit of stored pixel values."""

  DN = 'dn'  # Digital numbers; `Sensor.scale` and `offset` make physics of it.
  REFLECTANCE = 'reflectance'  # 0..1, top of atmosphere or surface.
  DB = 'db'  # 10 log10 of power.
  LINEAR_POWER = 'linear_power'
  LINEAR_AMPLITUDE = 'linear_amplitude'
  COMPLEX = 'complex'  # In-phase and quadrature channels, amplitude scale.
  UINT8 = 'uint8'  # Display values 0..255.
  METRES = 'metres'
  KELVIN = 'kelvin'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Band:
  """One channel.

  Attributes:
    name: the name in the sensor's own convention, e.g. 'B04' or 'HH_I'.
    units: unit of the stored values.
    wavelength_nm: centre wavelength in nm; optical bands only.
    bandwidth_nm: full width at half maximum in nm; optical bands only.
    polarisation: 'HH', 'HV', 'VH' or 'VV'; SAR bands only.
    common_name: the STAC common name ('red', 'nir', ...), by which bands of
      different sensors can be matched when the names differ.
  """

  name: str
  units: Units
  wavelength_nm: float | None = None
  bandwidth_nm: float | None = None
  polarisation: str | None = None
  common_name: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sensor:
  """A contract between data and model.

  Attributes:
    name: key in the catalogue.
    kind: how it sees.
    bands: channels in storage order.
    gsd_m: ground sampling distance in metres, None when it varies.
    scale: physical = stored * scale + offset.
    offset: see `scale`.
    nodata: stored value that means "nothing here", or None.
    statistics_key: which statistics normalise this sensor.
  """

  name: str
  kind: Kind
  bands: tuple[Band, ...]
  gsd_m: float | None = None
  scale: float = 1.0
  offset: float = 0.0
  nodata: float | None = None
  statistics_key: str = ''

  def __post_init__(self):
    duplicates = {n for n in self.band_names if self.band_names.count(n) > 1}
    if duplicates:
      raise ValueError(f'{self.name}: bands appear twice: {duplicates}.')

  @property
  def band_names(self) -> tuple[str, ...]:
    return tuple(band.name for band in self.bands)

  @property
  def units(self) -> Units:
    """The unit of all bands.

    Raises:
      ValueError: the bands do not share one unit.
    """
    units = {band.units for band in self.bands}
    if len(units) != 1:
      raise ValueError(f'{self.name}: bands have several units: {units}.')
    return units.pop()

  def select(self, bands: tuple[str, ...], *, name: str = '') -> 'Sensor':
    """The same sensor with some of its bands, in the given order.

    Raises:
      ValueError: a band that the sensor does not have.
    """
    by_name = {band.name: band for band in self.bands}
    for band in bands:
      choices.check(band, by_name, key=f'band of {self.name}')
    return dataclasses.replace(
      self, name=name or self.name, bands=tuple(by_name[b] for b in bands)
    )

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, value: Mapping[str, Any]) -> 'Sensor':
    """Inverse of `to_json`; an unknown key is an error that names it.

    Raises:
      ValueError: unknown or missing keys.
    """
    try:
      value = dict(value)
      kind = choices.check(value['kind'], [k.value for k in Kind], key='kind')
      bands = tuple(_band(band) for band in value['bands'])
      return cls(**(value | {'kind': Kind(kind), 'bands': bands}))
    except KeyError as error:
      raise ValueError(f'not a sensor contract: {error} is missing.') from error
    except (TypeError, ValueError) as error:
      raise ValueError(f'not a sensor contract: {error}') from error


def _band(value: Mapping[str, Any]) -> Band:
  name = value['name']
  if 'units' not in value:
    raise ValueError(f"band {name} is not whole: 'units' is missing.")
  allowed = [unit.value for unit in Units]
  units = choices.check(value['units'], allowed, key=f'units of {name}')
  return Band(**(dict(value) | {'units': Units(units)}))
