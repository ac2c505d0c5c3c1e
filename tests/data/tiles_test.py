"""Tiles of one place: several sensors, dates and pixel sizes."""

import itertools

import numpy as np
import pytest

from rsfm_jax.data import shares
from rsfm_jax.data import store as stores
from rsfm_jax.data import tile_cut
from rsfm_jax.data import tiles
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import regions
from rsfm_jax.sensors import statistics as stats

OPT = catalogue.get('opt')
SAR = catalogue.get('sentinel1_grd')
MS = catalogue.get('ms')
SENSORS = (OPT, MS, SAR)
DATES = {'ms': 3, 'sentinel1_grd': 2}


def _plain(bands):
  """Statistics that change nothing: mean 0, std 1."""
  zeros, ones = (0.0,) * bands, (1.0,) * bands
  return stats.Statistics(
    mean=zeros,
    std=ones,
    percentiles={},
    minimum=zeros,
    maximum=ones,
    count=(1,) * bands,
  )


PLAIN = {s.name: _plain(len(s.bands)) for s in SENSORS}


def _ground(size, bands):
  """[S, S, C] f32: row and column of every pixel in turn."""
  rows, columns = np.indices((size, size), np.float32)
  return np.stack([rows, columns] * bands, -1)[..., :bands]


def _sample(i=0, *, size=32, dates=5, factors=(8, 4)):
  """Coarse pixels hold their place + 100 times their date + 1000 i."""
  arrays = {'opt/image': _ground(size, 3).astype(np.uint8)}
  for name, bands, factor in zip(('ms', SAR.name), (4, 2), factors):
    image = _ground(size // factor, bands) + 1000 * i
    series = image + 100 * np.arange(dates, dtype=np.float32).reshape(
      -1, 1, 1, 1
    )
    arrays |= {f'{name}/series': series, f'{name}/image': image}
  arrays['days'] = (10 + 60 * np.arange(dates)).astype(np.int32)
  arrays['landcover'] = (_ground(size, 1)[..., 0] // 16).astype(np.uint8)
  return arrays


def _pack(folder, samples, sensors=SENSORS, **fields):
  by_name = {sensor.name: sensor for sensor in sensors}
  with stores.StoreWriter(folder, sensors=by_name) as writer:
    for i, arrays in enumerate(samples):
      row = {k: v[i] if isinstance(v, list) else v for k, v in fields.items()}
      writer.add(arrays, **({'id': f'sample-{i}'} | row))
  return stores.Store(folder)


def _stream(*stores, sensors=SENSORS, **options):
  return tiles.TileStream(
    sensors,
    **(
      {
        'sources': [(store, None, 1.0) for store in stores],
        'batch_size': 8,
        'tile': 16,
        'dates': {s.name: DATES.get(s.name, 1) for s in sensors},
        'statistics': PLAIN,
        'regions': 64,
      }
      | options
    ),
  )


@pytest.fixture(scope='module')
def store(tmp_path_factory):
  return _pack(
    tmp_path_factory.mktemp('tiles') / 'store',
    [_sample(i) for i in range(6)],
    split=['train'] * 5 + ['test'],
    label=list(range(6)),
    lonlat=[[7.0 * i, 40.0] for i in range(5)] + [None],
    date='2023-01-11',
  )


def _take(iterator, n):
  return list(itertools.islice(iterator, n))


def _assert_same(a, b):
  assert a.keys() == b.keys()
  for entry in a:
    assert a[entry].keys() == b[entry].keys()
    for name in a[entry]:
      np.testing.assert_array_equal(a[entry][name], b[entry][name], name)


def test_batches_have_the_form_that_is_compiled_for(store):
  stream = _stream(store)
  batch, form = next(tiles.batches(stream, seed=0)), tiles.abstract(stream)
  found = {
    entry: {name: (a.shape, a.dtype) for name, a in arrays.items()}
    for entry, arrays in batch.items()
  }
  assert found == form
  assert form['ms']['image'] == ((8, 3, 2, 2, 4), np.float32)
  assert form['place']['landcover'] == ((8, 2, 2), np.uint8)
  for arrays in batch.values():
    assert arrays['valid'].all()
  for sensor in SENSORS:
    for name in ('band_valid', 'pixel_valid', 'date_valid'):
      assert batch[sensor.name][name].all()


def test_shapes_need_no_store():
  given = _stream(sources=(), factors={'opt': 1, 'ms': 8, 'sentinel1_grd': 4})
  assert tiles.abstract(given)['sentinel1_grd']['pixel_valid'][0] == (
    8,
    2,
    4,
    4,
  )


def test_all_sensors_see_the_same_ground_pixel_by_pixel(store):
  places = set()
  for batch in _take(tiles.batches(_stream(store), seed=1), 4):
    place = batch['opt']['image'][:, 0, ..., :2]
    places |= {tuple(corner) for corner in place[:, 0, 0]}
    for name, factor in (('ms', 8), ('sentinel1_grd', 4)):
      here = batch[name]['image'][:, :, ..., :2] % 100
      expected = place[:, None, ::factor, ::factor] // factor
      np.testing.assert_array_equal(here, np.broadcast_to(expected, here.shape))
  # Corners lie on the grid of the largest pixels, all of them in use.
  assert places == set(itertools.product((0, 8, 16), repeat=2))


def test_dates_are_a_random_subset_in_order(store):
  seen = set()
  for batch in _take(tiles.batches(_stream(store), seed=1), 4):
    for name, count in DATES.items():
      date = batch[name]['image'][..., 0, 0, 0] % 1000 // 100
      assert (np.diff(date) > 0).all()
      np.testing.assert_array_equal(batch[name]['day'], 10 + 60 * date)
      seen |= {(count, *row) for row in date}
  assert sum(row[0] == 3 for row in seen) > 8  # Of ten.
  assert sum(row[0] == 2 for row in seen) > 8


def test_short_series_are_padded(store):
  stream = _stream(store, dates={'ms': 7})
  arrays = next(tiles.batches(stream, seed=1))['ms']
  expected = [[True] * 5 + [False] * 2] * 8
  np.testing.assert_array_equal(arrays['date_valid'], expected)
  np.testing.assert_array_equal(
    arrays['day'], [[10, 70, 130, 190, 250, -1, -1]] * 8
  )
  assert not arrays['image'][:, 5:].any()
  assert not arrays['pixel_valid'][:, 5:].any()


def test_an_image_has_the_day_of_the_first_date(store, tmp_path):
  batch = next(tiles.batches(_stream(store), seed=1))
  assert (batch['opt']['day'] == 10).all()
  dated = {'opt/image': _sample()['opt/image']}
  for date, day in (('2023-02-01', 31), (None, -1)):
    other = _pack(tmp_path / str(day), [dated], [OPT], date=date)
    stream = _stream(other, sensors=(OPT,))
    assert (next(tiles.batches(stream, seed=1))['opt']['day'] == day).all()


def test_sensors_may_have_days_of_their_own(tmp_path):
  sample = _sample() | {'ms/days': np.arange(5, dtype=np.int32)}
  store = _pack(tmp_path, [sample])
  stream = _stream(store, dates={'ms': 5, SAR.name: 5})
  batch = next(tiles.batches(stream, seed=0))
  assert batch['ms']['day'][0].tolist() == [0, 1, 2, 3, 4]
  assert batch[SAR.name]['day'][0].tolist() == [10, 70, 130, 190, 250]


def test_jitter_moves_days_and_nothing_else(store):
  still = next(tiles.batches(_stream(store), seed=1))
  moved = next(tiles.batches(_stream(store, day_jitter=20), seed=1))
  difference = moved['ms']['day'] % 60 - 10
  assert len(np.unique(difference)) > 5
  # The corner and the dates of the first sensor are drawn before any jitter.
  np.testing.assert_array_equal(moved['opt']['image'], still['opt']['image'])


def _global(stream, parts, n, **kwargs):
  """n global batches put together, row by row, from what each host reads."""
  of = sum(map(len, parts))
  read = [
    _take(tiles.batches(stream, share=shares.Share(p, of), **kwargs), n)
    for p in parts
  ]
  order = np.argsort([block for part in parts for block in part])
  return [
    {
      entry: {
        k: np.concatenate([part[entry][k] for part in step])
        .reshape(of, -1, *a.shape[1:])[order]
        .reshape(-1, *a.shape[1:])
        for k, a in arrays.items()
      }
      for entry, arrays in step[0].items()
    }
    for step in zip(*read)
  ]


@pytest.mark.parametrize('parts', [((0,), (1,)), ((0, 3), (1, 2))])
def test_the_global_batch_is_the_same_for_any_hosts(store, parts):
  stream = _stream(store, day_jitter=5)
  one = _global(stream, ((0,),), 2, seed=5)
  for a, b in zip(one, _global(stream, parts, 2, seed=5), strict=True):
    _assert_same(a, b)


def test_threads_and_resuming_change_nothing(store):
  stream = _stream(store, day_jitter=5)
  whole = _take(tiles.batches(stream, seed=5, threads=1), 4)
  rest = _take(tiles.batches(stream, seed=5, step=2, threads=4), 2)
  for a, b in zip(whole[2:], rest, strict=True):
    _assert_same(a, b)
  other = next(tiles.batches(stream, seed=6))
  assert not np.array_equal(other['ms']['image'], whole[0]['ms']['image'])


@pytest.mark.slow
def test_worker_processes_change_nothing(store):
  stream = _stream(store, day_jitter=5)
  alone = _take(tiles.batches(stream, seed=5, step=2), 2)
  helped = _take(tiles.batches(stream, seed=5, step=2, workers=1), 2)
  for a, b in zip(alone, helped, strict=True):
    _assert_same(a, b)


def test_a_batch_that_hosts_cannot_share_is_refused(store):
  with pytest.raises(ValueError, match='multiple of the 3 blocks'):
    tiles.batches(_stream(store), seed=0, share=shares.Share((0,), 3))


def test_places_have_regions_and_land_cover(store):
  batches = _take(tiles.batches(_stream(store, classes=2), seed=1), 3)
  known = set()
  for batch in batches:
    number = batch['ms']['image'][:, 0, 0, 0, 0].astype(int) // 1000
    expected = [
      regions.region_of([7.0 * i, 40.0], 64) if i < 5 else -1 for i in number
    ]
    assert batch['place']['region'].tolist() == expected
    known |= set(expected)
    # Code 1 begins at row 16: at a pixel of the coarsest sensor.
    row = batch['ms']['image'][:, 0, :, :, 0] % 100
    np.testing.assert_array_equal(batch['place']['landcover'], row // 2)
  assert -1 in known and len(known) > 3


def test_land_cover_that_is_absent_is_unlabelled(tmp_path):
  sample = _sample()
  del sample['landcover']
  batch = next(tiles.batches(_stream(_pack(tmp_path, [sample])), seed=0))
  assert (batch['place']['landcover'] == 255).all()


def test_the_majority_is_that_of_counting(tmp_path):
  rng = np.random.default_rng(0)
  codes = rng.choice(np.uint8([0, 3, 7, 254, 255]), (12, 18))
  codes[:3, :3] = 255
  out = tile_cut.majority(codes, 3)
  assert out.shape == (4, 6) and out.dtype == np.uint8
  for y, x in np.ndindex(out.shape):
    block = codes[3 * y : 3 * y + 3, 3 * x : 3 * x + 3].ravel().tolist()
    votes = [code for code in block if code != 255]
    best = min(set(votes), key=lambda c: (-votes.count(c), c), default=255)
    assert out[y, x] == best
  np.testing.assert_array_equal(tile_cut.majority(codes, 1), codes)


def test_what_lies_under_nodata_changes_no_bit(tmp_path):
  rng = np.random.default_rng(0)
  valid = rng.random((5, 8, 8)) > 0.3
  valid[1] = False
  batches = []
  for name, fill in (('nan', np.nan), ('inf', np.inf), ('zero', 0)):
    sample = _sample()
    series = sample[f'{SAR.name}/series'] + 1
    series = np.where(valid[..., None], series, np.float32(fill))
    sample |= {f'{SAR.name}/series': series, f'{SAR.name}/series_valid': valid}
    store = _pack(tmp_path / name, [sample])
    stream = _stream(store, dates={'ms': 3, SAR.name: 5})
    batches.append(next(tiles.batches(stream, seed=0)))
  for other in batches[1:]:
    _assert_same(batches[0], other)
  arrays = batches[0][SAR.name]
  assert np.isfinite(arrays['image']).all()
  assert not arrays['image'][~arrays['pixel_valid']].any()
  # A date without a valid pixel is absent.
  np.testing.assert_array_equal(
    arrays['date_valid'], [[True, False, True, True, True]] * 8
  )
  # Validity follows its date, also where some dates are left out.
  some = next(tiles.batches(_stream(store, dates={SAR.name: 2}), seed=0))
  np.testing.assert_array_equal(
    some[SAR.name]['date_valid'], some[SAR.name]['day'] != 70
  )
  assert not some[SAR.name]['date_valid'].all()


def test_stores_without_a_sensor_can_be_mixed_in(store, tmp_path):
  lacking = _sample(9)
  del lacking['opt/image'], lacking['landcover']
  other = _pack(tmp_path, [lacking], (MS, SAR), lonlat=[[1.0, 2.0]])
  with pytest.raises(ValueError, match='opt'):
    tiles.batches(_stream(other, store), seed=0)
  stream = _stream(other, store, missing_sensors='mask')
  batch = next(tiles.batches(stream, seed=0))
  rows = batch['ms']['image'][:, 0, 0, 0, 0] >= 9000
  assert 0 < rows.sum() < 8
  np.testing.assert_array_equal(batch['opt']['valid'], ~rows)
  for name in ('image', 'band_valid', 'pixel_valid', 'date_valid'):
    assert not batch['opt'][name][rows].any()
    assert batch['opt'][name][~rows].any()
  assert (batch['opt']['day'][rows] == -1).all()
  assert (batch['place']['landcover'][rows] == 255).all()


def test_samples_without_a_sensor_can_be_masked(tmp_path):
  lacking = _sample(1)
  del lacking['ms/image'], lacking['ms/series']
  store = _pack(tmp_path, [_sample(), lacking])
  with pytest.raises(ValueError, match="'sample-1'.*no ms"):
    next(tiles.batches(_stream(store), seed=0))
  batch = next(tiles.batches(_stream(store, missing_sensors='mask'), seed=0))
  assert batch['ms']['valid'].sum() == 4 and batch['opt']['valid'].all()


def _wrong(**arrays):
  """A good sample (the first says how pixels lie), then a bad one."""
  return [_sample(), _sample() | arrays]


@pytest.mark.parametrize(
  'samples, message',
  [
    (_wrong(days=np.arange(4, dtype=np.int32)), '5 dates but 4 days'),
    (_wrong(days=np.int32([0, 90, 180, 366, 400])), 'outside the year'),
    (_wrong(days=np.int32([-7, 90, 180, 200, 300])), 'outside the year'),
    (
      _wrong(
        **{
          'ms/image': np.zeros((5, 5, 4), np.float32),
          'ms/series': np.zeros((5, 5, 5, 4), np.float32),
        }
      ),
      'same ground',
    ),
    (_wrong(landcover=np.full((32, 32), 12, np.uint8)), 'has code 12'),
    (_wrong(landcover=np.zeros((30, 32), np.uint8)), r'landcover is .*\(30,'),
    ([_sample(), _sample(size=8)], '16 x 16 pixels does not fit into 8 x 8'),
  ],
)
def test_bad_samples_are_named(tmp_path, samples, message):
  store = _pack(tmp_path, samples)
  with pytest.raises(ValueError, match=f"'sample-1'.*{message}"):
    next(tiles.batches(_stream(store, classes=12), seed=0))


def test_pixels_that_do_not_divide_are_refused(tmp_path):
  sample = _sample() | {'ms/image': np.zeros((5, 5, 4), np.float32)}
  del sample['ms/series']
  with pytest.raises(ValueError, match="'sample-0'.*same ground"):
    tiles.batches(_stream(_pack(tmp_path, [sample])), seed=0)


@pytest.mark.parametrize(
  'options, message',
  [
    ({'tile': 12}, 'tile=12 must be a positive multiple of 8'),
    ({'tile': 0}, 'tile=0'),
    ({'dates': {'s1': 3}}, 'dates'),
    ({'dates': {'ms': 0}}, 'ms=0'),
    ({'day_jitter': -1}, 'day_jitter=-1'),
    ({'missing_sensors': 'drop'}, 'missing_sensors'),
    ({'sensors': (OPT, OPT)}, 'name each once'),
    ({'factors': {'opt': 1, 'ms': 8}}, 'sentinel1_grd'),
  ],
)
def test_streams_that_cannot_be_are_refused(store, options, message):
  with pytest.raises(ValueError, match=message):
    tiles.batches(_stream(store, **options), seed=0)


def _evaluate(store, split, sensors=SENSORS, batch_size=4, **options):
  options = {'tile': 16, 'dates': DATES, 'statistics': PLAIN} | options
  return list(
    tiles.evaluation_batches(store, split, sensors, batch_size, **options)
  )


def test_evaluation_runs_in_order_and_pads_the_last_batch(store):
  batches = _evaluate(store, 'train', regions=64)
  assert [len(b['place']['index']) for b in batches] == [4, 4]
  place = {
    k: np.concatenate([b['place'][k] for b in batches])
    for k in batches[0]['place']
  }
  assert place['index'].tolist() == [0, 1, 2, 3, 4, -1, -1, -1]
  assert place['label'].tolist() == [0, 1, 2, 3, 4, 0, 0, 0]
  assert place['valid'].tolist() == [True] * 5 + [False] * 3
  assert place['region'][5:].tolist() == [-1] * 3
  assert (place['landcover'][5:] == 255).all()
  for sensor in SENSORS:
    assert not batches[1][sensor.name]['valid'][1:].any()
    assert not batches[1][sensor.name]['date_valid'][1:].any()


def test_evaluation_takes_the_centre_and_dates_at_even_distances(store):
  (batch,) = _evaluate(store, 'test')
  assert batch['opt']['image'][0, 0, 0, 0, :2].tolist() == [8, 8]
  assert batch['ms']['image'][0, 0, 0, 0, :2].tolist() == [5001, 5001]
  assert batch['ms']['day'][0].tolist() == [10, 130, 250]
  assert batch[SAR.name]['day'][0].tolist() == [10, 250]
  again = _evaluate(store, 'test')
  _assert_same(batch, again[0])


def test_evaluation_of_one_sensor_counts_its_own_pixels(store):
  (batch,) = _evaluate(
    store, 'test', (MS,), batch_size=1, tile=4, dates={'ms': 5}
  )
  assert set(batch) == {'ms', 'place'}
  np.testing.assert_array_equal(
    batch['ms']['image'][0], store.read(5)['ms/series']
  )
  assert batch['place']['landcover'].shape == (1, 4, 4)
