"""Data sets on the real samples: masks, boxes, pairs, series and values."""

import argparse

import numpy as np
from PIL import Image
import pytest
import rasterio

from rsfm_jax.cli import data_pack
from rsfm_jax.data import store as stores


@pytest.fixture(scope='module')
def made(shared, tmp_path_factory):
  """Packs a data set on first use, as the command line does."""
  root = tmp_path_factory.mktemp('real')

  def get(name, folder, *options):
    out = root / name
    if not out.exists():
      parser = argparse.ArgumentParser()
      data_pack.add_arguments(parser)
      words = ['--dataset', name, '--from', str(shared / 'data' / folder)]
      words += ['--out', str(out), '--workers', '1', *options]
      assert data_pack.run(parser.parse_args(words)) == 0
    return stores.Store(out)

  return get


def counts(store):
  return [store.column('split').count(s) for s in ('train', 'val', 'test')]


def test_dubai_masks_follow_their_colours(made, shared):
  centre = ('--chip', '480', '--cut', 'centre')
  store = made('dubai', 'dubai_landcover_seg', *centre)
  assert counts(store) == [12, 3, 2]
  arrays = store.read(store.column('id').index('tile2_003'))
  folder = shared / 'data/dubai_landcover_seg'
  with Image.open(folder / 'masks/tile2_image_part_003.png') as picture:
    colours = np.asarray(picture.convert('RGB'))[32:512, 14:494]
  with Image.open(folder / 'images/tile2_image_part_003.jpg') as picture:
    pixels = np.asarray(picture)[32:512, 14:494]
  np.testing.assert_array_equal(arrays['opt/image'], pixels)
  roof = (colours == (60, 16, 152)).all(-1)
  building = store.classes.index('building')
  np.testing.assert_array_equal(arrays['mask'] == building, roof)
  assert roof.sum() > 20_000


def test_oscd_pairs_lie_on_the_grid_of_the_first_date(made, shared):
  store = made('oscd_crops', 'oscd_s2_change')
  assert counts(store) == [5, 1, 1]
  for i, city in enumerate(store.column('id')):
    arrays = store.read(i)
    assert arrays['ms/after'].shape == arrays['ms/image'].shape
    before, after, change = (
      arrays[k] for k in ('ms/image', 'ms/after', 'change')
    )
    # Changed pixels differ more: dates and mask belong together.
    apart = np.abs(after - before).mean(-1)
    assert apart[change == 1].mean() > 1.2 * apart[change == 0].mean(), city
  i = store.column('id').index('rennes')
  with rasterio.open(
    shared / 'data/oscd_s2_change/rennes/date2/B04.tif'
  ) as file:
    red = file.read(1)
  bands = store.sensors['ms'].band_names
  np.testing.assert_allclose(
    store.read(i)['ms/after'][..., bands.index('red')], red * 1e-4, rtol=1e-5
  )


def test_chesapeake_labels_are_one_channel_of_the_array(made, shared):
  store = made('chesapeake_rgbn', 'chesapeake_naip_landsat_lc')
  assert counts(store) == [2, 1, 1]
  name = store.column('id')[0]
  raw = np.load(shared / f'data/chesapeake_naip_landsat_lc/train/{name}.npz')[
    'arr_0'
  ][0]
  arrays = store.read(0)
  np.testing.assert_array_equal(arrays['landcover'] + 1, raw[8])
  np.testing.assert_array_equal(arrays['naip/image'][..., 3], raw[3])


def test_neon_heights_are_repeated_to_the_pixels_of_the_image(made):
  store = made('neon_height', 'neon_teak_rgb_boxes_chm')
  assert counts(store) == [9, 0, 3]
  arrays = store.read(0)
  assert arrays['height'].shape == arrays['opt/image'].shape[:2] == (400, 400)
  blocks = arrays['height'].reshape(40, 10, 40, 10)
  assert (blocks == blocks[:, :1, :, :1]).all() and blocks.max() > 20


def test_neon_trees_have_their_crowns(made):
  store = made('neon_trees', 'neon_teak_rgb_boxes_chm')
  assert counts(store) == [9, 0, 3] and store.classes == ['Tree']
  count = {'TEAK_043': 28, 'TEAK_061': 40, 'TEAK_060': 4}
  for name, number in count.items():
    record = store.read(store.column('id').index(name))
    assert record['boxes'].shape == (number, 6)
    assert record['opt/image'].shape == (400, 400, 3)


def test_fuel_moisture_is_a_number_with_a_series(made, shared):
  store = made('fuel_moisture', 'fuel_moisture_s1s2_pixels')
  raw = np.load(shared / 'data/fuel_moisture_s1s2_pixels/fuel_moisture.npz')
  assert len(store) == 1578 and min(counts(store)) > 100
  np.testing.assert_allclose(store.column('label'), raw['target'])
  name = 'sentinel2_skysense'
  arrays = store.read(7)
  assert arrays[f'{name}/series'].shape == (3, 1, 1, 10)
  np.testing.assert_array_equal(
    arrays[f'{name}/series'][2, 0, 0],
    raw['s1_s2_era5_srtm'][7, 2, [*range(2, 10), 11, 12]],
  )
  by_site = {}
  for site, split in zip(raw['site'], store.column('split'), strict=True):
    by_site.setdefault(site, set()).add(split)
  assert all(len(parts) == 1 for parts in by_site.values())


def test_mstar_classes_by_the_table_beside_the_archive(made):
  store = made('mstar', 'mstar_soc_jpeg/images.zip')
  assert counts(store) == [520, 80, 200]
  assert sorted(set(store.column('label'))) == list(range(10))


def test_scene_archives_take_the_table_of_the_samples(made, shared):
  table = ('--table', str(shared / 'data/ucmerced_rgb_jpg/splits.csv'))
  store = made('ucmerced_jpg', 'ucmerced_rgb_jpg/images', *table)
  assert counts(store) == [336, 42, 126] and len(store.classes) == 21


def test_bigearthnet_samples_have_both_sensors(made):
  options = ('--part', '--split', 'train')
  s1, s2 = (
    made(f'bigearthnet_s{i}', 'bigearthnet_s1s2_pairs', *options)
    for i in (1, 2)
  )
  assert len(s1) == len(s2) == 4
  where = lambda store: dict(
    zip(map(str, store.column('bounds')), store.column('label'), strict=True)
  )
  assert where(s1) == where(s2) and any(map(any, s1.column('label')))


def test_eurosat_samples_are_a_part(made):
  store = made(
    'eurosat_ms',
    'eurosat_ms_samples/tif_original',
    *('--part', '--split', 'train', '--store_as', 'ms'),
  )
  assert [store.classes[k] for k in store.column('label')] == [
    'AnnualCrop',
    'Pasture',
    'SeaLake',
  ]
  assert list(store.sensors) == ['ms']
