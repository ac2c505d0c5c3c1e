"""The packing jobs of co-registered real samples, on the samples themselves."""

import h5py
import numpy as np
import pytest
import rasterio
from rasterio import transform

from rsfm_jax.data import pack
from rsfm_jax.data import real_places
from rsfm_jax.data import store as stores
from rsfm_jax.data import tiles
from rsfm_jax.sensors import catalogue

S1, S2 = 'sentinel1_grd', 'sentinel2_skysense'


@pytest.fixture(scope='module')
def made(shared, tmp_path_factory):
  """Packs a store on first use: made('ssl4eo')."""
  root, jobs = tmp_path_factory.mktemp('places'), real_places.jobs(str(shared))

  def get(name):
    name = f'places_{name}'
    if not (root / name).exists():
      assert not pack.pack(jobs[name], root / name).bad
    return stores.Store(root / name)

  return get


def tile(store, size=64, dates=2, sensors=(S2, S1), **options):
  """The first batch of one tile of every sample, in order."""
  contracts = tuple(map(catalogue.get, sensors))
  (batch,) = tiles.evaluation_batches(
    store,
    'train',
    contracts,
    len(store),
    tile=size,
    dates=dict.fromkeys(sensors[-2:], dates),
    statistics={s: store.statistics_of(s) for s in sensors},
    missing_sensors='mask',
    factors={S2: 1, S1: 1} | options,
  )
  return batch


def test_clear_and_cloudy_images_of_one_place_are_its_dates(made, shared):
  store = made('sen12mscr')
  assert store.column('id') == [
    'ROIs1868_summer_135_p211',
    'ROIs1868_summer_135_p239',
    'ROIs2017_winter_112_p797',
  ]
  arrays = store.read(2)
  assert arrays[f'{S2}/series'].shape == (2, 256, 256, 10)
  assert arrays[f'{S1}/image'].shape == (256, 256, 2)
  triplet = shared / 'data/sen12mscr/triplets'
  for date, folder in enumerate(('s2_cloudfree', 's2_cloudy')):
    with rasterio.open(triplet / folder / 'ROIs2017_winter_112_p797.tif') as r:
      image = np.moveaxis(r.read([2, 3, 4, 5, 6, 7, 8, 9, 12, 13]), 0, -1)
    np.testing.assert_array_equal(arrays[f'{S2}/series'][date], image)
  assert arrays[f'{S2}/days'].tolist() == [-1, -1]
  batch = tile(store)
  assert batch[S2]['date_valid'].all()
  assert batch[S1]['valid'].tolist() == [False, False, True]
  assert batch[S1]['date_valid'].tolist() == [[0, 0], [0, 0], [1, 0]]
  assert (batch['place']['region'] >= 0).all()


def test_ssl4eo_is_one_place_on_the_grid_of_its_10_m_bands(made, shared):
  store = made('ssl4eo')
  arrays = store.read(0)
  assert len(store) == 1 and store.column('date') == ['2020-06-04']
  assert arrays[f'{S2}/days'].tolist() == [155, 225]
  assert arrays[f'{S1}/days'].tolist() == [158, 246]
  folder = shared / 'data/ssl4eo_s12_sample/s1/0000200'
  path = next(folder.glob('*20200607*')) / 'VV.tif'
  # Radar is what lies there on the ground: the pixel under each 10 m pixel.
  first = shared / 'data/ssl4eo_s12_sample/s2a/0000200'
  fine = next(first.glob('20200604*')) / 'B2.tif'
  rows = columns = np.arange(20, 240, 20)
  with rasterio.open(fine) as grid, rasterio.open(path) as radar:
    x, y = grid.xy(*np.meshgrid(rows, columns, indexing='ij'))
    row, column = transform.rowcol(radar.transform, np.ravel(x), np.ravel(y))
    expected = radar.read(1)[row, column]
  found = arrays[f'{S1}/image'][..., 0][np.ix_(rows, columns)]
  np.testing.assert_array_equal(found.ravel(), expected)
  assert 0.97 < arrays[f'{S1}/series_valid'].mean() < 1  # It lies aside.
  batch = tile(store)
  assert batch[S2]['day'].tolist() == [[155, 225]]
  assert batch[S1]['pixel_valid'].all() and batch[S1]['date_valid'].all()


def test_bigearthnet_pairs_have_both_sensors_and_a_date(made):
  store = made('bigearthnet')
  assert len(store) == 4
  batch = tile(store)
  assert batch[S1]['valid'].all() and batch[S2]['valid'].all()
  assert batch[S2]['day'][:, 0].tolist() == [167, 354, 34, 163]
  assert batch[S2]['image'].shape == (4, 2, 64, 64, 10)


def test_files_of_10_and_20_m_make_one_series(made, shared):
  store = made('worldcereal_patch')
  arrays = store.read(0)
  series, radar = arrays[f'{S2}/series'], arrays[f'{S1}/series']
  assert series.shape == (118, 64, 64, 10) and radar.shape == (159, 64, 64, 2)
  folder = shared / 'data/worldcereal_s1s2_timeseries/patches'
  for kind, band, channel in (('10m', 'B08', 6), ('20m', 'B8A', 7)):
    with h5py.File(next(folder.glob(f'*/S2_L2A_{kind}_*.nc'))) as file:
      image = file[band][:]
    scale = 64 // image.shape[-1]
    np.testing.assert_array_equal(series[:, ::scale, ::scale, channel], image)
    np.testing.assert_array_equal(
      series[:, scale - 1 :: scale, scale - 1 :: scale, channel], image
    )
  days = arrays[f'{S2}/days']
  assert days[0] == 215 and days[-1] == 695  # 4 August 2017, 27 November 2018.
  assert (np.diff(days) > 0).all()
  assert -20 < radar[..., 1].mean() < radar[..., 0].mean() < -5
  longitude, latitude = store.column('lonlat')[0]
  assert 3.02 < longitude < 3.03 and 50.81 < latitude < 50.82
  batch = tile(store, dates=4)
  assert batch[S2]['day'].max() <= 365 and batch[S2]['date_valid'].all()


def test_the_cube_lacks_two_months_and_one_band(made):
  store = made('worldcereal_cube')
  arrays = store.read(0)
  assert arrays[f'{S2}/series'].shape == (10, 100, 100, 10)
  assert arrays[f'{S1}/series'].shape == (12, 100, 100, 2)
  assert 'B8A' not in store.column('bands')[0][S2]
  radar = arrays[f'{S1}/series'].mean((0, 1, 2))
  assert -14 < radar[0] < -6 and -22 < radar[1] < -13  # dB of farmland.
  batch = tile(store)
  assert batch[S2]['band_valid'].sum() == 9
  assert (batch[S2]['image'][..., 7] == 0).all()


def test_tree_samples_have_aerial_colours_over_six_pixels(made):
  store = made('treesatai')
  arrays = store.read(0)
  assert arrays['opt/image'].shape == (300, 300, 3)
  assert arrays[f'{S2}/series'].shape == (146, 6, 6, 10)
  assert arrays[f'{S1}/series'].shape == (146, 6, 6, 2)  # 60 + 86 of 2 orbits.
  assert (np.diff(arrays[f'{S1}/days']) >= 0).all()
  # A forest on days without clouds: little red, much infrared.
  series = arrays[f'{S2}/series']
  clear = series[series[..., 0].mean((1, 2)) < 400].mean((0, 1, 2))
  assert clear[6] > 2 * clear[2]
  batch = tile(
    store, 300, dates=3, sensors=('opt', S2, S1), opt=1, **{S2: 50, S1: 50}
  )
  assert batch['opt']['image'].shape == (1, 1, 300, 300, 3)
  assert batch[S1]['image'].shape == (1, 3, 6, 6, 2)
  assert batch['opt']['day'].tolist() == [[-1]]
