"""Places: scenes of the same ground become one sample of several dates."""

import json

import h5py
import numpy as np
import pytest

from rsfm_jax.data import pack
from rsfm_jax.data import readers
from rsfm_jax.data import recipe as recipes
from rsfm_jax.data import splits
from rsfm_jax.data import store as stores
from rsfm_jax.sensors import catalogue
from tests.data import scene_files

S1, S2 = 'sentinel1_grd', 'sentinel2_skysense'
BANDS = catalogue.get(S2).band_names


def layer(kind, sensor=S2, *, store_as=S2, layout=None, **options):
  """Scenes 'PLACE/KIND_DATE'; nodata is 0 for S2."""
  scene = {
    'layout': layout or readers.Layout(resampling='nearest'),
    'missing_bands': options.pop('missing_bands', 'error'),
  }
  return recipes.Layer(
    recipe=recipes.Recipe(sensor=sensor, store_as=store_as, **scene),
    pattern=f'*/{kind}_*',
    place=r'^([^/]+)/',
    **options,
  )


def radar(**options):
  return layer('s1', S1, store_as=S1, **options)


def write(path, *, size=8, value=None, **options):
  image = scene_files.digital_numbers(10, size, size)
  if value is not None:
    image[:] = value
  scene_files.write_tiff(path, image, names=BANDS, **options)
  return np.moveaxis(image, 0, -1)


def write_radar(path, *, size=8, **options):
  """dB that tell row and column."""
  rows, columns = np.indices((size, size), np.float32)
  image = -1 - np.stack([rows, columns])
  scene_files.write_tiff(path, image, names=('VV', 'VH'), **options)
  return np.moveaxis(image, 0, -1)


def packed(source, *layers, name='store', **options):
  job = pack.Job(
    source=str(source), recipe=recipes.Places(layers=layers, **options)
  )
  folder = source.parent / name
  report = pack.pack(job, folder)
  assert pack.is_done(job, folder)
  return stores.Store(folder), report


def test_scenes_of_a_place_become_a_series_in_order_of_time(tmp_path):
  root = tmp_path / 'scenes'
  late = write(root / 'b/s2_20210105.tif', value=700)
  early = write(root / 'b/s2_20200301.tif', value=500)
  signal = write_radar(root / 'b/s1_20191231.tif')
  write(root / 'a/s2_20200301.tif')
  store, _ = packed(root, layer('s2'), radar())
  assert store.column('id') == ['a', 'b']
  assert set(store.sensors) == {S2, S1}
  assert not any(name.startswith(S1) for name in store.read(0))
  arrays = store.read(1)
  np.testing.assert_array_equal(arrays[f'{S2}/series'], [early, late])
  np.testing.assert_array_equal(arrays[f'{S2}/image'], early)
  np.testing.assert_array_equal(arrays[f'{S1}/image'], signal)
  assert f'{S1}/series' not in arrays
  # Days count from 1 January of the year of the first image of all sensors.
  assert store.column('date') == ['2020-03-01', '2019-12-31']
  assert arrays[f'{S1}/days'].tolist() == [364]
  assert arrays[f'{S2}/days'].tolist() == [365 + 60, 365 + 366 + 4]
  assert None not in store.column('lonlat')


def test_unknown_dates_come_last_in_the_order_of_names(tmp_path):
  root = tmp_path / 'scenes'
  write(root / 'a/s2_clear.tif', value=500)
  write(root / 'a/s2_cloudy.tif', value=600)
  write(root / 'a/s2_20200102.tif', value=700)
  store, _ = packed(root, layer('s2'))
  arrays = store.read(0)
  assert arrays[f'{S2}/series'][:, 0, 0, 0].tolist() == [700, 500, 600]
  assert arrays[f'{S2}/days'].tolist() == [1, -1, -1]


def test_empty_dates_are_left_out_and_half_ones_masked(tmp_path):
  root = tmp_path / 'scenes'
  write(root / 'a/s2_20200101.tif', value=0)
  write(root / 'a/s2_20200102.tif', value=500)
  image = scene_files.digital_numbers(10, 8, 8)
  image[:, :2] = 0
  scene_files.write_tiff(root / 'a/s2_20200103.tif', image, names=BANDS)
  write(root / 'b/s2_20200101.tif', value=0)
  store, report = packed(root, layer('s2'))
  assert store.column('id') == ['a'] and report.nodata == 2
  arrays = store.read(0)
  assert arrays[f'{S2}/days'].tolist() == [1, 2]
  assert f'{S2}/valid' not in arrays
  assert arrays[f'{S2}/series_valid'].sum((1, 2)).tolist() == [64, 48]


def test_a_layer_is_warped_to_the_grid_of_the_first(tmp_path):
  root = tmp_path / 'scenes'
  write(root / 'a/s2_20200101.tif')
  aside = write_radar(root / 'a/s1_20200101.tif', origin=(500010, 5000020))
  with pytest.raises(ValueError, match='not the same ground to a pixel'):
    packed(root, layer('s2'), radar())
  store, _ = packed(root, layer('s2'), radar(grid='first'), name='warped')
  arrays = store.read(0)
  found, valid = arrays[f'{S1}/image'], arrays[f'{S1}/valid']
  # 10 m to the east and 20 m to the north are a column and two rows.
  np.testing.assert_array_equal(found[:6, 1:], aside[2:, :7])
  assert valid[:6, 1:].all() and valid.sum() == 42
  assert np.isfinite(found).all()


def test_sizes_that_are_no_whole_pixels_of_each_other_are_refused(tmp_path):
  root = tmp_path / 'scenes'
  write(root / 'a/s2_20200101.tif')
  write_radar(root / 'a/s1_20200101.tif', size=6, crs=None)
  with pytest.raises(ValueError, match='not whole pixels of each other'):
    packed(root, layer('s2'), radar())


def write_cube(path, bands, *, size, days):
  path.parent.mkdir(parents=True, exist_ok=True)
  ramp = np.arange(len(days) * size**2).reshape(-1, size, size)
  images = {band: 500 + 10 * BANDS.index(band) + ramp for band in bands}
  with h5py.File(path, 'w') as file:
    for band, image in images.items():
      file[band] = image.astype(np.uint16)
    file['t'] = np.array(days)
    file['t'].attrs['units'] = 'days since 2019-12-31'
  return images


def cubes(root, days=(1, 5), coarse_days=(1, 5)):
  fine = write_cube(root / 'a/fine_.nc', BANDS[:3], size=4, days=days)
  coarse = write_cube(
    root / 'a/coarse_.nc', BANDS[3:9], size=2, days=coarse_days
  )
  return fine, coarse


def cube_layers(repeat=2):
  return (
    layer('fine', times='t', missing_bands='mask'),
    layer(
      'coarse', times='t', missing_bands='mask', adds='bands', repeat=repeat
    ),
  )


def test_coarse_bands_of_another_file_are_repeated(tmp_path):
  fine, coarse = cubes(tmp_path / 'scenes')
  store, _ = packed(tmp_path / 'scenes', *cube_layers())
  arrays = store.read(0)
  series = arrays[f'{S2}/series']
  np.testing.assert_array_equal(series[..., 1], fine[BANDS[1]])
  expected = np.kron(coarse[BANDS[5]], np.ones((1, 2, 2), int))
  np.testing.assert_array_equal(series[..., 5], expected)
  assert (series[..., 9] == 0).all()
  assert store.column('bands') == [{S2: list(BANDS[:9])}]
  assert arrays[f'{S2}/days'].tolist() == [0, 4]


def test_dates_that_lack_the_further_bands_are_left_out(tmp_path):
  cubes(tmp_path / 'scenes', days=(1, 3, 5), coarse_days=(3, 5))
  store, report = packed(tmp_path / 'scenes', *cube_layers())
  assert store.read(0)[f'{S2}/days'].tolist() == [2, 4]
  assert report.nodata == 1


def test_bands_of_other_sizes_or_without_times_are_refused(tmp_path):
  cubes(tmp_path / 'scenes')
  with pytest.raises(ValueError, match=r'\(2, 2\).*\(4, 4\) pixels; set repe'):
    packed(tmp_path / 'scenes', *cube_layers(repeat=1))
  cubes(tmp_path / 'more/scenes', coarse_days=(1, 1))
  with pytest.raises(ValueError, match='each their own time'):
    packed(tmp_path / 'more/scenes', *cube_layers())


def test_a_scene_that_names_no_place_is_refused(tmp_path):
  write(tmp_path / 'scenes/s2_20200101.tif')
  one = recipes.Layer(
    recipe=recipes.Recipe(sensor=S2), pattern='s2*', place=r'/(\d+)/'
  )
  with pytest.raises(ValueError, match='is not in .s2_20200101'):
    packed(tmp_path / 'scenes', one)


def test_recipes_that_cannot_be_are_refused():
  with pytest.raises(ValueError, match='needs a group'):
    recipes.Layer(recipe=recipes.Recipe(sensor=S2), pattern='*', place='a')
  with pytest.raises(ValueError, match='no chips'):
    recipes.Layer(
      recipe=recipes.Recipe(sensor=S2, chip=8), pattern='*', place='(a)'
    )
  with pytest.raises(ValueError, match='location'):
    recipes.Places(layers=(layer('s2'),), split=splits.Policy(kind='location'))


def test_the_note_holds_the_layers(tmp_path):
  write(tmp_path / 'scenes/a/s2_20200101.tif')
  packed(tmp_path / 'scenes', layer('s2'))
  note = json.loads((tmp_path / 'store/pack.json').read_text())
  assert note['job']['recipe']['layers'][0]['pattern'] == '*/s2_*'
