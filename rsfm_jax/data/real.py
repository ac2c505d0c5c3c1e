"""The packing jobs of the four-sensor store of real samples, as a table.

One store per data set and sensor, named '<sensor>_<data set>', so that a
config lists `sources` per sensor and a labelled store is probed by its own
splits. What each folder holds is in the README of the samples.

Scenes that are not labelled as a whole are cut to 64 pixels: a loader then
crops a similar share of the ground from every store.
"""

from collections.abc import Mapping
import pathlib

from rsfm_jax.data import pack
from rsfm_jax.data import readers
from rsfm_jax.data import recipe
from rsfm_jax.data import splits
from rsfm_jax.data.datasets import eurosat
from rsfm_jax.data.datasets import mstar

_CHIP = 64
_TABLE = splits.Policy(kind='table')
_COPERNICUS = 'Copernicus Sentinel data'


def jobs(shared: str) -> Mapping[str, pack.Job]:
  """{store: job}; `shared` is the folder that holds `data`.

  Raises:
    ValueError: the folder is not there.
  """
  data = pathlib.Path(shared) / 'data'
  if not data.is_dir():
    raise ValueError(f'--shared {shared}: {data} is not a folder.')
  return {
    f'{sensor}_{name}': job
    for sensor, make in (
      ('opt', _opt),
      ('ms', _ms),
      ('sar_l1', _sar_l1),
      ('sar_l2', _sar_l2),
    )
    for name, job in make(data).items()
  }


def _opt(data: pathlib.Path) -> dict[str, pack.Job]:
  rgb, ucmerced = data / 'eurosat_rgb', data / 'ucmerced_rgb_jpg'
  naip = ('red', 'green', 'blue', 'nir')
  patches = {
    'source': str(data / 'chesapeake_naip_landsat_lc'),
    'pattern': '*.npz',
  }
  return {
    'eurosat': pack.Job(
      name='eurosat_rgb',
      source=str(rgb / 'images.zip'),
      table=str(rgb / 'splits.csv'),
      recipe=recipe.Recipe(sensor='opt', split=_TABLE, licence='MIT'),
    ),
    # A few images are smaller than 256: one size for all, from the centre.
    'ucmerced': pack.Job(
      name='ucmerced',
      source=str(ucmerced / 'images'),
      table=str(ucmerced / 'splits.csv'),
      recipe=recipe.Recipe(
        sensor='opt',
        chip=240,
        cut='centre',
        split=_TABLE,
        licence='public domain',
      ),
    ),
    # Channels of the patches: NAIP of two years, then labels and Landsat.
    **{
      f'naip_{year}': pack.Job(
        name=f'chesapeake_naip_{year}',
        recipe=recipe.Recipe(
          sensor='naip',
          store_as='opt',
          layout=readers.Layout(
            bands=('',) * skip + naip + ('',) * (25 - skip),
            axes='NCHW',
          ),
          chip=_CHIP,
          licence='public domain',
        ),
        **patches,
      )
      for year, skip in (('new', 0), ('old', 4))
    },
  }


def _ms(data: pathlib.Path) -> dict[str, pack.Job]:
  oscd = data / 'oscd_s2_change'
  cereal = data / 'worldcereal_s1s2_timeseries'
  bands = ('B02', 'B03', 'B04', 'B08')

  def job(name, folder, sensor, pattern, *, table='', stride=_CHIP, **options):
    return pack.Job(
      name=name,
      source=str(folder),
      pattern=pattern,
      table=table,
      recipe=recipe.Recipe(
        sensor=sensor,
        store_as='ms',
        chip=_CHIP,
        stride=stride,
        licence=_COPERNICUS,
        **options,
      ),
    )

  l1c, l2a = 'sentinel2_l1c', 'sentinel2_l2a'
  cube = tuple((band, f'S2-L2A-{band}') for band in bands)
  return {
    'oscd': job(
      'oscd',
      oscd,
      l1c,
      '*/B*.tif',
      table=str(oscd / 'splits.csv'),
      split=_TABLE,
    ),
    'ssl4eo_l1c': job('ssl4eo_s2c', data / 'ssl4eo_s12_sample/s2c', l1c, '*'),
    'ssl4eo_l2a': job('ssl4eo_s2a', data / 'ssl4eo_s12_sample/s2a', l2a, '*'),
    'sen12mscr': job('sen12mscr', data / 'sen12mscr', l1c, '*/s2_*.tif'),
    'bigearthnet': job(
      'bigearthnet', data / 'bigearthnet_s1s2_pairs', l2a, '*/S2/*.tif'
    ),
    'eurosat': job(
      'eurosat_ms',
      data / 'eurosat_ms_samples/tif_original',
      l1c,
      '*.tif',
      layout=readers.Layout(bands=eurosat.BANDS),
    ),
    'worldcereal_patch': job(
      'worldcereal_patch', cereal / 'patches', l2a, '*/S2_L2A_10m_*.nc'
    ),
    'worldcereal_cube': job(
      'worldcereal_cube',
      cereal,
      l2a,
      'monthly_cube_*.nc',
      layout=readers.Layout(datasets=cube, nodata=65535),
    ),
  }


def _sar_l1(data: pathlib.Path) -> dict[str, pack.Job]:
  """Overlapping chips: six scenes are few, and every crop has its speckle."""

  def job(pattern, bands, axes, chip):
    return pack.Job(
      name='slc_complex_samples',
      source=str(data / 'slc_complex_samples'),
      pattern=pattern,
      recipe=recipe.Recipe(
        sensor='sar_l1',
        layout=readers.Layout(bands=bands, axes=axes),
        chip=chip,
        stride=chip // 2,
        licence='Apache-2.0 / MIT',
      ),
    )

  quad = ('HH', 'HV', 'VH', 'VV')
  # The polarisation of the MERLIN tile is not documented; DEFAULT HH.
  return {
    'single_pol': job('[!a]*.npy', ('HH',), 'HW', _CHIP),
    'quad_pol': job('alos_*.npy', quad, 'CHW', 48),
  }


def _sar_l2(data: pathlib.Path) -> dict[str, pack.Job]:
  vehicles = data / 'mstar_soc_jpeg'
  cereal = data / 'worldcereal_s1s2_timeseries/patches'

  def job(name, folder, pattern, **options):
    options = {'chip': _CHIP, 'licence': _COPERNICUS} | options
    return pack.Job(
      name=name,
      source=str(folder),
      pattern=pattern,
      recipe=recipe.Recipe(
        sensor='sentinel1_grd',
        store_as='sar_l2',
        bands_as='samples',
        **options,
      ),
    )

  return {
    'ssl4eo': job('ssl4eo_s1', data / 'ssl4eo_s12_sample/s1', '*'),
    'bigearthnet': job(
      'bigearthnet', data / 'bigearthnet_s1s2_pairs', '*/S1/*.tif'
    ),
    'sen12mscr': job('sen12mscr', data / 'sen12mscr', '*/s1/*.tif'),
    'worldcereal': job(
      'worldcereal_s1',
      cereal,
      '*/S1_GRD*.nc',
      chip=None,
      layout=readers.Layout(values='scaled'),
    ),
    # One size from the centre: the size of a chip would give its class away.
    'mstar': pack.Job(
      name='mstar',
      source=str(vehicles / 'images.zip'),
      table=str(vehicles / 'splits.csv'),
      recipe=recipe.Recipe(
        sensor=mstar.SENSOR,
        store_as='sar_l2',
        chip=128,
        cut='centre',
        split=_TABLE,
        licence='CC BY-NC 4.0',
      ),
    ),
  }
