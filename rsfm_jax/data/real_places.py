"""The packing jobs of co-registered real samples: sensors, dates, one place.

One store per data set, named 'places_<data set>'. Sentinel-2 is stored in the
ten bands of `sentinel2_skysense`, DN on a 10 m grid; Sentinel-1 as VV and VH
in dB. Coarser bands are brought to 10 m by repeating their pixels, those of
GeoTIFFs by the nearest pixel on the ground. Clouds are left as they are. What
each folder holds is in the README of the samples.
"""

from collections.abc import Mapping
import pathlib

from rsfm_jax.data import pack
from rsfm_jax.data import readers
from rsfm_jax.data import recipe
from rsfm_jax.sensors import contract

_S1, _S2 = 'sentinel1_grd', 'sentinel2_skysense'
_COPERNICUS = 'Copernicus Sentinel data'
_AS_IS = readers.Layout()
_NEAREST = readers.Layout(resampling='nearest')
_CUBE_BANDS = ('B02', 'B03', 'B04', 'B05', 'B06', 'B07', 'B08', 'B11', 'B12')


def jobs(shared: str) -> Mapping[str, pack.Job]:
  """{store: job}; `shared` is the folder that holds `data`.

  Raises:
    ValueError: the folder is not there.
  """
  data = pathlib.Path(shared) / 'data'
  if not data.is_dir():
    raise ValueError(f'--shared {shared}: {data} is not a folder.')
  cereal = data / 'worldcereal_s1s2_timeseries'
  return {
    f'places_{name}': pack.Job(
      name=name, source=str(folder), recipe=recipe.Places(layers=layers)
    )
    for name, folder, layers in (
      ('sen12mscr', data / 'sen12mscr', _sen12mscr()),
      ('ssl4eo', data / 'ssl4eo_s12_sample', _ssl4eo()),
      ('bigearthnet', data / 'bigearthnet_s1s2_pairs', _bigearthnet()),
      ('worldcereal_patch', cereal / 'patches', _worldcereal_patch()),
      ('worldcereal_cube', cereal, _worldcereal_cube()),
      ('treesatai', data / 'treesatai_ts_sample', _treesatai()),
    )
  }


def _layer(
  pattern: str,
  place: str,
  sensor: str | contract.Sensor,
  store_as: str,
  *,
  layout: readers.Layout = _AS_IS,
  licence: str = _COPERNICUS,
  missing_bands: str = 'error',
  chip: int | None = None,
  **options,
) -> recipe.Layer:
  return recipe.Layer(
    pattern=pattern,
    place=place,
    recipe=recipe.Recipe(
      sensor=sensor,
      store_as=store_as,
      layout=layout,
      licence=licence,
      missing_bands=missing_bands,
      chip=chip,
      cut='tile' if chip is None else 'centre',
    ),
    **options,
  )


def _sen12mscr() -> tuple[recipe.Layer, ...]:
  """A clear and a cloudy image of days that the names do not tell; L1C."""
  place = r'(ROIs\d+_[a-z]+)_(?:s2_)?(?:cloudy_)?(\d+_p\d+)'
  return (
    _layer('*/s2_clo*/*.tif', place, 'sentinel2_l1c', _S2, licence='CC BY 4.0'),
    _layer('*/s1/*.tif', place, _S1, _S1),
  )


def _ssl4eo() -> tuple[recipe.Layer, ...]:
  """L2A; its Sentinel-1 files lie up to 45 m aside, and are warped."""
  place = r'/(\d{7})/'
  options = {'layout': _NEAREST, 'licence': 'CC BY 4.0', 'grid': 'first'}
  return (
    _layer('s2a/*', place, 'sentinel2_l2a', _S2, **options),
    _layer('s1/*', place, _S1, _S1, **options),
  )


def _bigearthnet() -> tuple[recipe.Layer, ...]:
  place = r'^([^/]+)/S[12]/'
  return (
    _layer('*/S2/*.tif', place, 'sentinel2_l2a', _S2, layout=_NEAREST),
    _layer('*/S1/*.tif', place, _S1, _S1),
  )


def _worldcereal_patch() -> tuple[recipe.Layer, ...]:
  """Bands of 10 m, of 20 m and radar in a file each, years 2017 and 2018."""
  place = r'^([^/]+)/'
  fine = {'times': 'timestamp', 'missing_bands': 'mask'}
  coarse = {'times': 'timestamp', 'repeat': 2}
  return (
    _layer('*/S2_L2A_10m_*.nc', place, _S2, _S2, **fine),
    _layer(
      '*/S2_L2A_20m_*.nc',
      place,
      _S2,
      _S2,
      adds='bands',
      missing_bands='mask',
      **coarse,
    ),
    _layer(
      '*/S1_GRD*.nc',
      place,
      _S1,
      _S1,
      layout=readers.Layout(values='scaled'),
      **coarse,
    ),
  )


def _worldcereal_cube() -> tuple[recipe.Layer, ...]:
  """Monthly composites without B8A, dated by the first of their month.

  Radar is dB = 20 log10(DN) - 83, the coding of the sources of WorldCereal, so
  an amplitude with a scale.
  """
  place, pattern = r'^(monthly_cube.*)', 'monthly_cube_*.nc'
  radar = contract.Sensor(
    name='worldcereal_s1',
    kind=contract.Kind.SAR_AMPLITUDE,
    bands=tuple(
      contract.Band(name=name, units=contract.Units.DN, polarisation=name)
      for name in ('VV', 'VH')
    ),
    gsd_m=10.0,
    scale=10 ** (-83 / 20),
    nodata=65535,
  )

  def layout(kind, bands):
    datasets = tuple((band, f'{kind}-{band}') for band in bands)
    return readers.Layout(datasets=datasets, nodata=65535)

  return (
    _layer(
      pattern,
      place,
      _S2,
      _S2,
      layout=layout('S2-L2A', _CUBE_BANDS),
      times='t',
      missing_bands='mask',
    ),
    _layer(
      pattern,
      place,
      radar,
      _S1,
      layout=layout('S1-SIGMA0', ('VV', 'VH')),
      times='t',
    ),
  )


def _treesatai() -> tuple[recipe.Layer, ...]:
  """Aerial colours of 0.2 m, 60 m across, over 6 x 6 pixels of the satellites.

  Neither order of bands is documented in the sample. The bands of Sentinel-2
  ascend by their values; of the aerial ones the first is near infrared and the
  third is strongest in the shade, so blue: the order is taken for infrared,
  green, blue, red. Nor is it known where in the aerial image's 60.8 m the 60 m
  of the satellites lie: DEFAULT the centre.
  """
  place = r'^([^/]+)$'
  power = contract.Sensor(
    name='sentinel1_power',
    kind=contract.Kind.SAR_AMPLITUDE,
    bands=tuple(
      contract.Band(
        name=name, units=contract.Units.LINEAR_POWER, polarisation=name
      )
      for name in ('VV', 'VH')
    ),
    gsd_m=10.0,
  )

  def series(key, sensor, store_as):
    return _layer(
      '*.h5',
      place,
      sensor,
      store_as,
      layout=readers.Layout(key=f'{key}-data', axes='NCHW'),
      times=f'{key}-products',
      licence='CC BY 4.0',
    )

  return (
    _layer(
      '*.tif',
      place,
      'naip',
      'opt',
      layout=readers.Layout(bands=('nir', 'green', 'blue', 'red')),
      licence='CC BY 4.0',
      chip=300,
    ),
    series('sen-2', _S2, _S2),
    series('sen-1-asc', power, _S1),
    series('sen-1-des', power, _S1),
  )
