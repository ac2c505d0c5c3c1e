"""Published data sets: their metadata, and a tiny copy of each."""

import dataclasses

import numpy as np
import pytest

from rsfm_jax.data import pack
from rsfm_jax.data import splits
from rsfm_jax.data import store as stores
from rsfm_jax.data.datasets import registry
from tests.data.datasets import copies

# Published numbers of scenes; where each is from stands in its module.
SIZES = {
  'bigearthnet_s1': (269695, 123723, 125866),
  'bigearthnet_s2': (269695, 123723, 125866),
  'dior': (5862, 5863, 11738),
  'dior_r': (5862, 5863, 11738),
  'eurosat_ms': (16200, 5400, 5400),
  'eurosat_rgb': (16200, 5400, 5400),
  'fmow_sentinel': (712874, 84939, 84966),
  'levir_cd': (445, 64, 128),
  'loveda': (2522, 1669, 0),
  'm-brick-kiln': (15063, 999, 999),
  'm-eurosat@corrected': (2000, 1000, 1000),
  'm-eurosat@published': (2000, 1000, 1000),
  'm-so2sat': (19992, 986, 986),
  'oscd': (14, 0, 10),
  'potsdam': (24, 0, 14),
  'sen1floods11_s1': (252, 89, 90),
  'sen1floods11_s2': (252, 89, 90),
  'vaihingen': (16, 0, 17),
}
TOTALS = {
  'aid': 10000,
  'pastis': 2433,
  'resisc45': 31500,
  'so2sat_s2': 400673,
  'ucmerced': 2100,
}
CLASSES = {
  'aid': 30,
  'bigearthnet_s2': 19,
  'dfc2020_s2': 10,
  'dior': 20,
  'dynamic_earthnet': 7,
  'eurosat_rgb': 10,
  'fair1m': 37,
  'fmow_sentinel': 62,
  'isaid': 16,
  'levir_cd': 2,
  'loveda': 7,
  'mstar': 10,
  'pastis': 19,
  'potsdam': 6,
  'resisc45': 45,
  'so2sat_s2': 17,
  'ucmerced': 21,
}
# Parts of data sets, see `real_test`.
SAMPLES = {
  *('chesapeake', 'chesapeake_old', 'chesapeake_rgbn', 'dubai'),
  *('fuel_moisture', 'mstar', 'neon_height', 'neon_trees', 'oscd_crops'),
}
# {data set: task}, whose copies are in `boxes_test`.
BOXES = {
  'dior': 'boxes',
  'dior_r': 'oriented_boxes',
  'fair1m': 'oriented_boxes',
}
# {data set: id of a sample of its copy, the split, and label or codes}.
LABELLED = {
  'eurosat_rgb': ('River/River_2', 'val', 'River'),
  'eurosat_ms': ('SeaLake_3', 'test', 'SeaLake'),
  'ucmerced': ('beach/beach00', 'train', 'beach'),
  'resisc45': ('palace/palace_700', 'val', 'palace'),
  'fmow_sentinel': ('test_gt/zoo/zoo_9/zoo_9_3', 'test', 'zoo'),
  'so2sat_s2': ('validation/0000001', 'val', 'Low plants'),
}
MASKED = {
  'oscd': ('rio', 'test', (0, 1)),
  'levir_cd': ('val_2', 'val', (0, 1)),
  'potsdam': ('2_10', 'train', (0, 4)),
  'vaihingen': ('area38', 'test', (1, 5)),
  'isaid': ('val/P0003', 'val', (0, 15)),
  'loveda': ('Val/Rural/12', 'val', (255, 6)),
  'sen1floods11_s2': ('India_2', 'val', (255, 1)),
  'sen1floods11_s1': ('USA_3', 'test', (255, 1)),
  'dfc2020_s2': ('test_0_p1', 'train', (255, 9)),
  'dfc2020_s1': ('validation_0_p609', 'test', (255, 9)),
  'pastis': ('40562', 'test', (255, 18)),
  'dynamic_earthnet': ('3_4_13/2018-01', 'val', (2, 6)),
}


def pack_copy(name, folder, *, maker=None, extent='part', **changes):
  """The store of a tiny copy."""
  root = folder / 'copy'
  if not root.exists():
    (maker or getattr(copies, name))(root)
  one = registry.get(name)
  how = dataclasses.replace(one.recipe, split=splits.Policy(kind='table'))
  job = pack.Job(
    name=name,
    dataset=name,
    source=str(root),
    extent=extent,
    recipe=dataclasses.replace(how, **changes),
  )
  pack.pack(job, folder / 'store', on_bad='stop')
  return stores.Store(folder / 'store')


def row(store, id_):
  return store.column('id').index(id_)


@pytest.mark.parametrize('name', SIZES)
def test_published_sizes_are_held(name):
  counts = registry.get(name).counts
  assert tuple(counts.get(s, 0) for s in splits.NAMES) == SIZES[name]


def test_sizes_that_were_not_found_are_not_asserted():
  for name in set(registry.names()) - SAMPLES:
    one = registry.get(name)
    assert bool(one.counts) == (name in SIZES), name
    total = TOTALS.get(name.removesuffix('_jpg'), 0)
    assert one.total == total and one.source, name


@pytest.mark.parametrize('name', CLASSES)
def test_classes_are_as_many_as_published_and_all_different(name):
  names = registry.get(name).names
  assert len(set(names)) == len(names) == CLASSES[name]


@pytest.mark.parametrize('name', LABELLED)
def test_a_copy_gives_labels_and_splits(name, tmp_path):
  store = pack_copy(name, tmp_path)
  id_, split, label = LABELLED[name]
  i = row(store, id_)
  assert store.column('split')[i] == split
  assert store.classes[store.column('label')[i]] == label
  assert len(store) == (6 if name == 'so2sat_s2' else 3)
  sensor = registry.get(name).recipe.target
  assert store.read(i)[f'{sensor.name}/image'].shape[-1] == len(sensor.bands)


@pytest.mark.parametrize('name', MASKED)
def test_a_copy_gives_masks_and_splits(name, tmp_path):
  store = pack_copy(name, tmp_path)
  one = registry.get(name)
  id_, split, (above, below) = MASKED[name]
  i = row(store, id_)
  assert store.column('split')[i] == split
  arrays = store.read(i)
  mask = arrays[one.recipe.mask.name]
  image = arrays[f'{one.recipe.target.name}/image']
  assert mask.shape == image.shape[:2] and mask.dtype == np.uint8
  expected = copies.halves(above, below, len(mask))
  np.testing.assert_array_equal(mask, expected)
  assert store.classes == list(one.names)
  after = arrays.get(f'{one.recipe.target.name}/after')
  assert (after is not None) == (one.task == 'change')
  if after is not None:
    assert after.shape == image.shape and (after != image).any()


@pytest.mark.parametrize('name', BOXES)
def test_the_task_tells_turned_boxes_from_upright_ones(name):
  assert registry.get(name).task == BOXES[name]


def test_every_published_data_set_has_a_copy():
  done = {*LABELLED, *MASKED, *BOXES, 'aid', 'bigearthnet_s1', 'bigearthnet_s2'}
  done |= {n for n in registry.names() if n.startswith('m-')}
  assert set(registry.names()) - done == SAMPLES | {'ucmerced_jpg'}


def test_eurosat_reads_the_last_band_as_b8a(tmp_path):
  store = pack_copy('eurosat_ms', tmp_path)
  name = registry.get('eurosat_ms').recipe.target.name
  image = store.read(row(store, 'Forest_1'))[f'{name}/image']
  stored = copies.scene_files.digital_numbers(13, 16, 16, seed=1)
  bands = store.sensors[name].band_names
  np.testing.assert_array_equal(image[..., bands.index('B8A')], stored[12])
  np.testing.assert_array_equal(image[..., bands.index('B09')], stored[8])


def test_aid_is_drawn_by_name(tmp_path):
  store = pack_copy('aid', tmp_path)
  assert set(store.column('split')) <= {'train', 'val', 'test'}
  assert 25 <= store.column('split').count('train') < 40


def test_bigearthnet_has_bits_of_nineteen_classes(tmp_path):
  store = pack_copy('bigearthnet_s2', tmp_path)
  names = store.classes
  found = [
    {names[k] for k in np.flatnonzero(bits)} for bits in store.column('label')
  ]
  assert found == [
    {'Arable land', 'Marine waters'},
    {'Pastures'},
    {'Transitional woodland, shrub', 'Inland waters'},
  ]
  assert store.column('split') == ['train', 'val', 'test']
  assert store.column('date')[0] == '2017-06-13'


def test_bigearthnet_s1_is_listed_by_the_second_column(tmp_path):
  store = pack_copy('bigearthnet_s1', tmp_path)
  assert store.column('split') == ['train', 'val', 'test']
  assert store.classes[int(np.argmax(store.column('label')[0]))] == (
    'Coastal wetlands'
  )


@pytest.mark.parametrize(
  'name, expected',
  [
    (
      'm-eurosat@published',
      {'B8A': 900, 'B09': 1000, 'B10': 1100, 'B12': 1300},
    ),
    (
      'm-eurosat@corrected',
      {'B09': 900, 'B10': 1000, 'B11': 1100, 'B8A': 1300},
    ),
  ],
)
def test_geobench_reads_arrays_by_the_bands_asked_for(name, expected, tmp_path):
  store = pack_copy(name, tmp_path, maker=copies.geobench('m-eurosat', 10))
  assert store.column('split') == ['train', 'val', 'test']
  assert store.column('label') == [0, 9, 9]
  bands = store.sensors['sentinel2_l1c'].band_names
  image = store.read(0)['sentinel2_l1c/image']
  got = {band: int(image[0, 0, bands.index(band)]) for band in expected}
  assert got == expected


def test_geobench_reads_the_reflectance_of_so2sat(tmp_path):
  maker = copies.geobench('m-so2sat', 17, scale=1e-4)
  store = pack_copy('m-so2sat', tmp_path, maker=maker)
  assert store.column('label') == [0, 16, 16]
  sensor = store.sensors['sentinel2_skysense']
  image = store.read(0)['sentinel2_skysense/image']
  # Of the thirteen bands those that So2Sat has, as digital numbers.
  assert sensor.band_names[:2] == ('B02', 'B03') and image.shape == (8, 8, 10)
  np.testing.assert_array_equal(image[0, 0, :2], [200, 300])


def test_pastis_has_a_series_with_its_days(tmp_path):
  store = pack_copy('pastis', tmp_path)
  arrays = store.read(0)
  name = 'sentinel2_skysense'
  assert arrays[f'{name}/series'].shape == (3, 16, 16, 10)
  np.testing.assert_array_equal(
    arrays[f'{name}/series'][0], arrays[f'{name}/image']
  )
  raw = np.load(tmp_path / 'copy/PASTIS-R/DATA_S2/S2_10000.npy')
  np.testing.assert_array_equal(
    arrays[f'{name}/series'][2], raw[2].transpose(1, 2, 0)
  )
  # 17 September, 2 October, 5 January of the year after, from 1 January on.
  np.testing.assert_array_equal(arrays[f'{name}/days'], [259, 274, 369])
  assert store.column('date')[0] == '2018-09-17'


def test_so2sat_reflectance_becomes_digital_numbers(tmp_path):
  store = pack_copy('so2sat_s2', tmp_path)
  image = store.read(row(store, 'training/0000000'))['sentinel2_skysense/image']
  with copies.h5py.File(tmp_path / 'copy/training.h5') as file:
    raw = file['sen2'][0]
  assert image.dtype == np.uint16
  np.testing.assert_allclose(image, raw * 1e4, atol=0.51)


def test_the_list_names_all_of_them():
  text = registry.markdown()
  for name in registry.names():
    assert f'| {name} |' in text
  with pytest.raises(ValueError, match='Did you mean "levir_cd"'):
    registry.get('levircd')
