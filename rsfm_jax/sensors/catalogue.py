"""The sensors this code base knows, by name.

Sentinel-2 centre wavelengths and bandwidths are those of Sentinel-2A (ESA
Sentinel-2 user guide, spectral bands of MSI); Sentinel-2B and 2C differ by a
few nm. Landsat values are the OLI band limits of the USGS Landsat 8 handbook.
Common names follow the STAC electro-optical extension.

Others are told by `RSFM_SENSORS`: JSON files, separated as in `PATH`, of one
contract or a list, with the fields of `contract.Sensor`.
"""

import dataclasses
import functools
import os
import pathlib
import re

from rsfm_jax.core import choices
from rsfm_jax.core import files
from rsfm_jax.sensors import contract

Band = contract.Band
Kind = contract.Kind
Sensor = contract.Sensor
Units = contract.Units


def _sentinel2(units: Units) -> dict[str, Band]:
  """The 13 bands of the multi-spectral instrument, by name."""
  rows = (
    ('B01', 442.7, 21.0, 'coastal'),
    ('B02', 492.4, 66.0, 'blue'),
    ('B03', 559.8, 36.0, 'green'),
    ('B04', 664.6, 31.0, 'red'),
    ('B05', 704.1, 15.0, 'rededge071'),
    ('B06', 740.5, 15.0, 'rededge075'),
    ('B07', 782.8, 20.0, 'rededge078'),
    ('B08', 832.8, 106.0, 'nir'),
    ('B8A', 864.7, 21.0, 'nir08'),
    ('B09', 945.1, 20.0, 'nir09'),
    ('B10', 1373.5, 31.0, 'cirrus'),
    ('B11', 1613.7, 91.0, 'swir16'),
    ('B12', 2202.4, 175.0, 'swir22'),
  )
  return {
    name: Band(
      name=name,
      units=units,
      wavelength_nm=centre,
      bandwidth_nm=width,
      common_name=common,
    )
    for name, centre, width, common in rows
  }


def _landsat() -> tuple[Band, ...]:
  """OLI bands of Collection 2 Level-2, from their limits in nm."""
  rows = (
    ('B1', 435, 451, 'coastal'),
    ('B2', 452, 512, 'blue'),
    ('B3', 533, 590, 'green'),
    ('B4', 636, 673, 'red'),
    ('B5', 851, 879, 'nir08'),
    ('B6', 1566, 1651, 'swir16'),
    ('B7', 2107, 2294, 'swir22'),
  )
  return tuple(
    Band(
      name=name,
      units=Units.DN,
      wavelength_nm=(low + high) / 2,
      bandwidth_nm=float(high - low),
      common_name=common,
    )
    for name, low, high, common in rows
  )


def _colours(*names: str) -> tuple[Band, ...]:
  """8-bit bands named by colour; cameras differ, so no wavelengths."""
  return tuple(Band(name=n, units=Units.UINT8, common_name=n) for n in names)


def _planetscope() -> Sensor:
  """Surface reflectance of PlanetScope, as Planet Fusion and DynamicEarthNet.

  Band limits in nm of the first generation (PS2), Planet's specifications.
  """
  rows = (
    ('red', 590, 670),
    ('green', 500, 590),
    ('blue', 455, 515),
    ('nir', 780, 860),
  )
  return Sensor(
    name='planetscope',
    kind=Kind.MULTISPECTRAL,
    bands=tuple(
      Band(
        name=name,
        units=Units.DN,
        wavelength_nm=(low + high) / 2,
        bandwidth_nm=float(high - low),
        common_name=name,
      )
      for name, low, high in rows
    ),
    gsd_m=3.0,
    scale=1e-4,
    nodata=0.0,
    statistics_key='planetscope',
  )


def _sentinel2_sensor(name: str, *, without: tuple[str, ...] = ()) -> Sensor:
  bands = _sentinel2(Units.DN)
  return Sensor(
    name=name,
    kind=Kind.MULTISPECTRAL,
    bands=tuple(b for n, b in bands.items() if n not in without),
    gsd_m=10.0,
    scale=1e-4,
    nodata=0.0,
    statistics_key=name,
  )


def _ringmoe() -> tuple[Sensor, ...]:
  """RingMoE's four modalities (facts/ringmoe.md 1).

  Pixel sizes vary. The band order of `ms` is NOT FOUND in the paper; DEFAULT
  Sentinel-2 B02, B03, B04, B08. `sar_l1` interleaves real and imaginary parts
  of HH, HV, VH, VV (interleaving: inference of the facts).
  """
  ms = tuple(
    dataclasses.replace(band, name=band.common_name)
    for name, band in _sentinel2(Units.REFLECTANCE).items()
    if name in ('B02', 'B03', 'B04', 'B08')
  )
  sar_l1 = tuple(
    Band(name=f'{p}_{part}', units=Units.COMPLEX, polarisation=p)
    for p in ('HH', 'HV', 'VH', 'VV')
    for part in ('I', 'Q')
  )
  return (
    Sensor(
      name='opt',
      kind=Kind.OPTICAL,
      bands=_colours('red', 'green', 'blue'),
      statistics_key='opt',
    ),
    Sensor(
      name='sar_l1',
      kind=Kind.SAR_COMPLEX,
      bands=sar_l1,
      statistics_key='sar_l1',
    ),
    Sensor(
      name='sar_l2',
      kind=Kind.SAR_AMPLITUDE,
      bands=(Band(name='amplitude', units=Units.DB),),
      statistics_key='sar_l2',
    ),
    Sensor(
      name='ms',
      kind=Kind.MULTISPECTRAL,
      bands=ms,
      statistics_key='ms',
    ),
  )


def _groups() -> tuple[Sensor, ...]:
  """Sentinel-2's bands and Sentinel-1's polarisations in groups (MAPEX-style).

  Which sensors MAPEX has is NOT FOUND. DEFAULT: the groups in which its authors
  read another data set (facts/mapex.md 2). Band matching cuts them out of any
  store of the whole sensor.
  """
  radar = _sentinel1()
  return (
    _sentinel2_sensor('s2_rgb').select(('B04', 'B03', 'B02')),
    _sentinel2_sensor('s2_rededge').select(('B05', 'B06', 'B07')),
    _sentinel2_sensor('s2_nir').select(('B08',)),
    _sentinel2_sensor('s2_swir').select(('B11', 'B12', 'B8A')),
    radar.select(('VV',), name='s1_vv'),
    radar.select(('VH',), name='s1_vh'),
  )


def _sentinel1() -> Sensor:
  return Sensor(
    name='sentinel1_grd',
    kind=Kind.SAR_AMPLITUDE,
    bands=tuple(
      Band(name=p, units=Units.DB, polarisation=p) for p in ('VV', 'VH')
    ),
    gsd_m=10.0,
    statistics_key='sentinel1_grd',
  )


def _others() -> tuple[Sensor, ...]:
  landsat8 = Sensor(
    name='landsat8',
    kind=Kind.MULTISPECTRAL,
    bands=_landsat(),
    gsd_m=30.0,
    scale=2.75e-5,
    offset=-0.2,
    nodata=0.0,
    statistics_key='landsat',
  )
  return (
    _sentinel2_sensor('sentinel2_l1c'),
    _sentinel2_sensor('sentinel2_l2a', without=('B10',)),
    _sentinel2_sensor('sentinel2_skysense', without=('B01', 'B09', 'B10')),
    _sentinel1(),
    Sensor(
      name='rgb_aerial',
      kind=Kind.OPTICAL,
      bands=_colours('red', 'green', 'blue'),
      statistics_key='rgb_aerial',
    ),
    Sensor(
      name='naip',
      kind=Kind.MULTISPECTRAL,
      bands=_colours('red', 'green', 'blue', 'nir'),
      gsd_m=1.0,
      statistics_key='naip',
    ),
    Sensor(  # As ISPRS Potsdam and Vaihingen come: colour infrared.
      name='irrg_aerial',
      kind=Kind.OPTICAL,
      bands=_colours('nir', 'red', 'green'),
      statistics_key='irrg_aerial',
    ),
    _planetscope(),
    landsat8,
    dataclasses.replace(landsat8, name='landsat9'),
    Sensor(
      name='dem',
      kind=Kind.ELEVATION,
      bands=(Band(name='elevation', units=Units.METRES),),
      nodata=-9999.0,
      statistics_key='dem',
    ),
  )


_SENSORS = {s.name: s for s in _ringmoe() + _others() + _groups()}


OWN = 'RSFM_SENSORS'


def names() -> tuple[str, ...]:
  """Every sensor name, RingMoE's four first in their model order.

  Raises:
    ValueError: a file of RSFM_SENSORS that holds no contracts.
  """
  return tuple(_all())


def get(name: str) -> Sensor:
  """The contract called `name`.

  Raises:
    ValueError: no such sensor; the message suggests the nearest name.
  """
  if name in _SENSORS:  # No file is read for these.
    return _SENSORS[name]
  known = _all()
  if name not in known:
    raise ValueError(
      f'sensor={name!r} is not known; choose one of {list(known)}, or tell '
      f'yours by {OWN} (docs/your_data.md).{choices.suggest(name, known)}'
    )
  return known[name]


def _all() -> dict[str, Sensor]:
  return _SENSORS | _own(os.environ.get(OWN, ''))


@functools.lru_cache(maxsize=8)
def _own(paths: str) -> dict[str, Sensor]:
  found: dict[str, Sensor] = {}
  for path in filter(None, paths.split(os.pathsep)):
    if not pathlib.Path(path).is_file():
      raise ValueError(f'{OWN}: {path} is not a file.')
    told = files.read_json(path)
    for value in told if isinstance(told, list) else [told]:
      try:
        sensor = contract.Sensor.from_json(value)
        _check(sensor, _SENSORS | found)
      except ValueError as error:
        raise ValueError(f'{OWN}: {path}: {error}') from error
      found[sensor.name] = sensor
  return found


def _check(sensor: Sensor, others: dict[str, Sensor]) -> None:
  if not re.fullmatch(r'[a-z][a-z0-9_]*', sensor.name):
    raise ValueError(
      f'name={sensor.name!r} must be of lower-case letters, digits and "_": '
      'parameters and arrays are called by it.'
    )
  if sensor.name in others:
    raise ValueError(f'{sensor.name} is a sensor already; choose another name.')
  if not sensor.bands:
    raise ValueError(f'{sensor.name} has no bands.')
