"""Labelled tiles: sensors, dates and target stay on one ground."""

import numpy as np
import pytest

from rsfm_jax.data import labelled
from rsfm_jax.data import labelled_cut
from rsfm_jax.data import labelled_evaluation
from rsfm_jax.data import labelled_tiles
from rsfm_jax.data import store as stores
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import regions
from rsfm_jax.sensors import statistics as stats

HR, SAR = catalogue.get('opt'), catalogue.get('sentinel1_grd')
# 16 px of HR are 8 of the target and 4 of SAR.
SIDE, FACTOR, HALF = 16, 4, 2
CODES = labelled_cut.Target(name='mask', kind='codes', classes=64)
CLASS = labelled_cut.Target(name='label', kind='class', classes=3)
# Of whose pixels nothing is left but what the tests put there.
AS_STORED = {
  s.name: stats.Statistics(
    mean=(0.0,) * len(s.bands),
    std=(1.0,) * len(s.bands),
    percentiles={str(q): (0.0,) * len(s.bands) for q in stats.PERCENTILES},
    minimum=(-99.0,) * len(s.bands),
    maximum=(255.0,) * len(s.bands),
    count=(1,) * len(s.bands),
  )
  for s in (HR, SAR)
}


def blocks(factor):
  """[n, n] numbers of the 4 x 4 px of SAR, on pixels `factor` times finer."""
  number = np.arange(16).reshape(4, 4)
  return number.repeat(factor, 0).repeat(factor, 1)


def sample(i, *, dates=3):
  """Every sensor and the target tell which SAR pixel they lie in; SAR's second
  band tells the date."""
  image = np.stack([blocks(FACTOR)] * 3, -1).astype(np.uint8)
  series = np.zeros((dates, 4, 4, 2), np.float32)
  series[..., 0] = blocks(1) - 20.0
  series[..., 1] = -np.arange(dates, dtype=np.float32)[:, None, None]
  return {
    'opt/image': image,
    'sentinel1_grd/image': series[0],
    'sentinel1_grd/series': series,
    'sentinel1_grd/days': (np.arange(dates) * 30).astype(np.int32),
    'mask': blocks(HALF).astype(np.uint8),
  }


def make(folder, changes=None, count=9):
  with stores.StoreWriter(
    folder, sensors={s.name: s for s in (HR, SAR)}, classes=['a', 'b', 'c']
  ) as writer:
    for i in range(count):
      arrays = sample(i) | (changes(i) if changes else {})
      writer.add(
        {name: x for name, x in arrays.items() if x is not None},
        id=f's{i}',
        split='train' if i < 6 else 'val',
        label=i % 3,
        lonlat=[7.0, 40.0],
        date='2023-01-01',
      )
  return stores.Store(folder)


@pytest.fixture(scope='module')
def store(tmp_path_factory):
  return make(tmp_path_factory.mktemp('tiles') / 'scenes')


def data(store, target=CODES, **options):
  options = {
    'tile': 8,
    'target_size': 4,
    'dates': {SAR.name: 2},
    'factors': {SAR.name: FACTOR},
  } | options
  return labelled_tiles.LabelledTiles(
    store=store,
    sensors=(HR, SAR),
    target=target,
    statistics=AS_STORED,
    **options,
  )


def first(one, *, seed=0, step=0, form='scale', symmetry='d4', size=None):
  window = labelled_cut.Window(
    size=size or one.tile, form=form, symmetry=symmetry, filter='nearest'
  )
  found = labelled.batches(
    one,
    labelled.chosen(one, 'train'),
    window=window,
    batch_size=6,
    seed=seed,
    step=step,
    threads=1,
  )
  return next(iter(found))


def evaluated(one, **options):
  options = {'fit': 'crop', 'size': one.tile, 'threads': 1} | options
  return list(labelled_evaluation.batches(one, 'val', 2, **options))


def coarse(image, factor):
  """Every `factor`-th pixel, where all in a block are equal."""
  picked = image[:, ::factor, ::factor]
  again = picked.repeat(factor, 1).repeat(factor, 2)
  np.testing.assert_array_equal(again, image)
  return picked


def test_a_window_and_a_symmetry_move_all_sensors_and_the_target(store):
  seen = set()
  for step in range(4):
    batch = first(data(store), step=step)
    target = coarse(batch['place']['target'], HALF)
    hr = coarse(batch[HR.name]['image'][:, 0, ..., 0], FACTOR)
    sar = batch[SAR.name]['image'][..., 0] + 20
    np.testing.assert_array_equal(hr, target)
    np.testing.assert_array_equal(sar, np.stack([target] * 2, 1))
    seen |= {tuple(one.ravel()) for one in target}
  assert len(seen) > 8  # Places and symmetries.


def test_training_draws_dates_in_order_and_evaluation_takes_even_ones(store):
  drawn = set()
  for step in range(4):
    entry = first(data(store), step=step)[SAR.name]
    dates = -entry['image'][:, :, 0, 0, 1].astype(int)
    np.testing.assert_array_equal(entry['day'], 30 * dates)
    drawn |= set(map(tuple, dates))
  assert drawn == {(0, 1), (0, 2), (1, 2)}
  for batch in evaluated(data(store)):
    days = batch[SAR.name]['day'][batch['place']['valid']]
    assert (days == [0, 60]).all()


def test_a_short_series_is_filled_up_with_dates_that_do_not_count(store):
  entry = first(data(store, dates={SAR.name: 5}))[SAR.name]
  assert (entry['date_valid'] == [1, 1, 1, 0, 0]).all()
  assert (entry['day'][:, 3:] == -1).all()
  assert not entry['image'][:, 3:].any()


def test_batches_are_a_function_of_seed_and_step(store):
  one, again = first(data(store), step=3), first(data(store), step=3)
  other = first(data(store), step=3, seed=1)
  for name in ('opt', 'sentinel1_grd'):
    np.testing.assert_array_equal(one[name]['image'], again[name]['image'])
  assert (one['opt']['image'] != other['opt']['image']).any()


def test_shapes_are_known_without_a_store(store):
  for target in (CODES, CLASS):
    one = data(store, target)
    found = first(one)
    want = labelled_tiles.shapes(
      one.sensors,
      target,
      batch_size=6,
      tile=one.tile,
      target_size=one.target_size,
      dates=one.dates,
      factors=one.factors,
    )
    got = {
      part: {name: (x.shape, x.dtype) for name, x in arrays.items()}
      for part, arrays in found.items()
    }
    assert got == want


def test_a_place_is_in_its_region(store):
  place = first(data(store, regions=64))['place']
  assert (place['region'] == regions.region_of([7.0, 40.0], 64)).all()


def test_windows_of_a_split_hold_every_pixel_of_the_target_once(store):
  # 12 px do not divide 16: the second window lies over the first.
  one = data(store, tile=12, target_size=6)
  counted = np.zeros((3, 16), int)
  for batch in evaluated(one, fit='tiles', size=12):
    place = batch['place']
    for index, target in zip(place['index'], place['target']):
      if index >= 0:
        known, times = np.unique(target[target < 255], return_counts=True)
        counted[index - 6, known] += times
  assert (counted == HALF**2).all()


def test_a_whole_ground_is_resampled(store):
  one = data(store, tile=32, target_size=16)
  for batch in (first(one, form='whole'), evaluated(one, fit='resize')[0]):
    assert batch[HR.name]['image'].shape[2:4] == (32, 32)
    assert batch[SAR.name]['image'].shape[2:4] == (8, 8)
    target = batch['place']['target'][:, ::4, ::4]
    assert set(np.unique(target[0])) == set(range(16))


def test_a_sensor_that_a_sample_lacks_is_masked_or_named(tmp_path):
  gone = {f'{SAR.name}/{n}': None for n in ('image', 'series', 'days')}
  store = make(tmp_path / 's', lambda i: gone if i % 2 else {})
  with pytest.raises(ValueError, match=r"'s\d'.*sentinel1_grd"):
    first(data(store))
  batch = first(data(store, missing_sensors='mask'))
  there = batch[SAR.name]['valid']
  assert there.sum() == 3 and batch['place']['valid'].all()
  assert not batch[SAR.name]['date_valid'][~there].any()


@pytest.mark.parametrize(
  'changes, options, words',
  [
    ({}, {'factors': {SAR.name: 2}}, "'s.'.*same ground"),
    ({}, {'target_size': 8}, 'data.target_size=8'),
    ({}, {'tile': 6}, 'multiple of 4'),
    ({'mask': None}, {}, "data.target='mask'"),
    ({'mask': np.full((8, 8), 99, np.uint8)}, {}, 'code 99'),
  ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path, changes, options, words):
  store = make(tmp_path / 's', lambda i: changes)
  with pytest.raises(ValueError, match=words):
    first(data(store, **options))


def test_a_window_of_random_area_is_refused(store):
  with pytest.raises(ValueError, match='data.window.form'):
    first(data(store), form='area')
