"""The global batch is a function of (seed, step) and of nothing else."""

import dataclasses
import itertools

import numpy as np
import pytest

from rsfm_jax.data import augment
from rsfm_jax.data import pipeline
from rsfm_jax.data import shares
from rsfm_jax.data import store as stores
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import statistics as stats

OPT = catalogue.get('opt')
MS = catalogue.get('ms')
SAR = catalogue.get('sar_l1')
DB = catalogue.get('sar_l2')


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


PLAIN = {'opt': _plain(3), 'ms': _plain(4), 'sar_l2': _plain(1)}


def _pack(folder, sensors, samples, **fields):
  by_name = {sensor.name: sensor for sensor in sensors}
  with stores.StoreWriter(folder, sensors=by_name) as writer:
    for i, arrays in enumerate(samples):
      row = {k: v[i] if isinstance(v, list) else v for k, v in fields.items()}
      writer.add(arrays, id=str(i), **row)
  return stores.Store(folder)


def _constant(value, size=12):
  return {'opt/image': np.full((size, size, 3), value, np.uint8)}


def _sar(i, size=12):
  rng = np.random.default_rng(100 + i)
  return {
    'sar_l1/image': rng.normal(size=(size, size, 8)).astype(np.float32),
    'sar_l1/scene_scale': np.float32(2),
  }


@pytest.fixture(scope='module')
def opt_store(tmp_path_factory):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (10, 12, 12, 3), np.uint8)
  return _pack(
    tmp_path_factory.mktemp('opt') / 'store',
    [OPT],
    [{'opt/image': image} for image in images],
    split=['train'] * 7 + ['test'] * 3,
    label=list(range(10)),
  )


@pytest.fixture(scope='module')
def sar_store(tmp_path_factory):
  folder = tmp_path_factory.mktemp('sar') / 'store'
  return _pack(folder, [SAR], [_sar(i) for i in range(5)], split='train')


@pytest.fixture(scope='module')
def streams(opt_store, sar_store):
  crop = augment.Crop(size=8)
  return [
    pipeline.Stream(
      OPT,
      sources=[(opt_store, 'train', 1.0)],
      batch_size=8,
      crop=crop,
      statistics=PLAIN,
    ),
    pipeline.Stream(
      SAR, sources=[(sar_store, 'train', 1.0)], batch_size=4, crop=crop
    ),
  ]


def _take(iterator, n):
  return list(itertools.islice(iterator, n))


def _flat(batch):
  return {
    f'{s}/{k}': a for s, arrays in batch.items() for k, a in arrays.items()
  }


def _assert_same(a, b):
  a, b = _flat(a), _flat(b)
  assert a.keys() == b.keys()
  for name in a:
    assert a[name].dtype == b[name].dtype
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def _global(streams, parts, n, **kwargs):
  """n global batches put together, row by row, from what each host reads."""
  of = sum(map(len, parts))
  read = [
    _take(pipeline.batches(streams, share=shares.Share(p, of), **kwargs), n)
    for p in parts
  ]
  # As `jax.make_array_from_process_local_data` does.
  order = np.argsort([block for part in parts for block in part])
  return [
    {
      sensor: {
        k: np.concatenate([part[sensor][k] for part in step])
        .reshape(of, -1, *arrays[k].shape[1:])[order]
        .reshape(-1, *arrays[k].shape[1:])
        for k in arrays
      }
      for sensor, arrays in step[0].items()
    }
    for step in zip(*read)
  ]


def test_batches_have_the_agreed_form(streams):
  batch = next(pipeline.batches(streams, seed=0))
  assert list(batch) == ['opt', 'sar_l1']
  shapes = {k: (a.shape, a.dtype) for k, a in _flat(batch).items()}
  assert shapes == {
    'opt/image': ((8, 8, 8, 3), np.float32),
    'opt/band_valid': ((8, 3), bool),
    'opt/pixel_valid': ((8, 8, 8), bool),
    'opt/valid': ((8,), bool),
    'sar_l1/image': ((4, 8, 8, 8), np.float32),
    'sar_l1/band_valid': ((4, 8), bool),
    'sar_l1/pixel_valid': ((4, 8, 8), bool),
    'sar_l1/valid': ((4,), bool),
  }
  assert all(a.all() for k, a in _flat(batch).items() if k.endswith('valid'))


@pytest.mark.parametrize(
  'parts',
  [((0,), (1,)), ((0,), (1,), (2,), (3,)), ((0, 2), (1, 3)), ((0, 3), (1, 2))],
)
def test_the_global_batch_is_the_same_for_any_hosts(streams, parts):
  """Row by row, since masks and noise belong to rows."""
  one = _global(streams, ((0,),), 3, seed=5)
  for a, b in zip(one, _global(streams, parts, 3, seed=5), strict=True):
    _assert_same(a, b)


def test_worker_processes_change_nothing(streams):
  alone = _take(pipeline.batches(streams, seed=5, step=2), 3)
  helped = _take(pipeline.batches(streams, seed=5, step=2, workers=2), 3)
  for a, b in zip(alone, helped, strict=True):
    _assert_same(a, b)


def test_threads_change_nothing(streams):
  one = _take(pipeline.batches(streams, seed=5, threads=1), 4)
  many = _take(pipeline.batches(streams, seed=5, threads=8), 4)
  for a, b in zip(one, many, strict=True):
    _assert_same(a, b)


def test_resuming_at_a_step_continues_the_same(streams):
  whole = _take(pipeline.batches(streams, seed=1), 6)
  rest = _take(pipeline.batches(streams, seed=1, step=4), 2)
  for a, b in zip(whole[4:], rest, strict=True):
    _assert_same(a, b)


def test_seeds_steps_and_epochs_differ(streams):
  first = _take(pipeline.batches(streams, seed=1), 2)
  other = next(pipeline.batches(streams, seed=2))
  images = [b['opt']['image'] for b in (*first, other)]
  for a, b in itertools.combinations(images, 2):
    assert not np.array_equal(a, b)


def test_another_stream_moves_nothing(streams):
  both = next(pipeline.batches(streams, seed=1))
  alone = next(pipeline.batches(streams[1:], seed=1))
  _assert_same({'sar_l1': both['sar_l1']}, alone)


def test_every_sample_comes_once_an_epoch_in_new_order(tmp_path):
  store = _pack(tmp_path, [OPT], [_constant(i) for i in range(10)])
  stream = pipeline.Stream(
    OPT,
    sources=[(store, None, 1.0)],
    batch_size=10,
    crop=augment.Crop(size=4),
    statistics=PLAIN,
  )
  epochs = [
    b['opt']['image'][:, 0, 0, 0].astype(int).tolist()
    for b in _take(pipeline.batches([stream], seed=0), 4)
  ]
  assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize('weights', [(1, 1), (3, 1), (0.2, 0.8)])
def test_weights_per_source_hold(tmp_path, weights):
  store_a = _pack(tmp_path / 'a', [OPT], [_constant(10)] * 3)
  store_b = _pack(tmp_path / 'b', [OPT], [_constant(20)] * 50)
  stream = pipeline.Stream(
    OPT,
    sources=[(store_a, None, weights[0]), (store_b, None, weights[1])],
    batch_size=20,
    crop=augment.Crop(size=4),
    statistics=PLAIN,
  )
  drawn = np.concatenate(
    [
      b['opt']['image'][:, 0, 0, 0]
      for b in _take(pipeline.batches([stream], seed=0), 10)
    ]
  )
  share = weights[0] / sum(weights)
  np.testing.assert_allclose((drawn == 10).mean(), share, atol=0.011)
  assert set(drawn) == {10, 20}


def test_complex_sar_is_only_cropped_and_flipped(sar_store):
  stream = pipeline.Stream(
    SAR,
    sources=[(sar_store, 'train', 1.0)],
    batch_size=10,
    crop=augment.Crop(size=8),
  )
  batch = next(pipeline.batches([stream], seed=3))['sar_l1']
  sources = [_sar(i)['sar_l1/image'] / np.float32(2) for i in range(5)]
  # I and Q of all polarisations move together: whole pixels are a subset.
  pixels = [{p.tobytes() for p in s.reshape(-1, 8)} for s in sources]
  for image in batch['image']:
    mine = {p.tobytes() for p in image.reshape(-1, 8)}
    assert len(mine) == 64
    assert sum(mine <= source for source in pixels) == 1


def test_complex_sar_that_is_too_small_is_refused(sar_store):
  stream = pipeline.Stream(
    SAR,
    sources=[(sar_store, None, 1.0)],
    batch_size=1,
    crop=augment.Crop(size=16),
  )
  with pytest.raises(ValueError, match='16 x 16'):
    next(pipeline.batches([stream], seed=0))


def _ground(size):
  """Coordinates 0..1 of the pixel centres: [S, S] rows, [S, S] columns."""
  axis = ((np.arange(size) + 0.5) / size).astype(np.float32)
  return np.meshgrid(axis, axis, indexing='ij')


def _pair_stream(store, sensors, **kwargs):
  return pipeline.Stream(
    tuple(sensors),
    sources=[(store, None, 1.0)],
    batch_size=16,
    crop=augment.Crop(size=16, filter='bilinear', **kwargs),
    statistics=PLAIN,
  )


def test_paired_windows_of_other_resolution_see_the_same_ground(tmp_path):
  rows, columns = _ground(64)
  coarse_rows, coarse_columns = _ground(16)
  sample = {
    'sar_l2/image': (rows + 2 * columns)[..., None],
    'ms/image': np.stack([coarse_rows + 2 * coarse_columns] * 4, -1),
  }
  store = _pack(tmp_path, [DB, MS], [sample])
  stream = _pair_stream(store, [DB, MS], area=(0.3, 0.6))
  batch = next(pipeline.batches([stream], seed=0))
  fine, coarse = batch['sar_l2']['image'][..., 0], batch['ms']['image'][..., 1]
  # Half a coarse pixel at the very edge, where there is nothing to mix with.
  np.testing.assert_allclose(fine, coarse, atol=0.11)
  np.testing.assert_allclose(
    fine[:, 3:-3, 3:-3], coarse[:, 3:-3, 3:-3], atol=0.005
  )
  assert len({image.tobytes() for image in fine}) == 16


def test_paired_complex_sar_sets_the_window(tmp_path):
  rows, columns = _ground(32)
  sar = np.stack([rows, columns] * 4, -1)
  sample = {
    'sar_l1/image': sar,
    'sar_l1/scene_scale': np.float32(1),
    'sar_l2/image': rows[..., None],
    'ms/image': np.stack([_ground(64)[1]] * 4, -1),
  }
  store = _pack(tmp_path, [SAR, DB, MS], [sample])
  stream = _pair_stream(store, [SAR, DB, MS])
  batch = next(pipeline.batches([stream], seed=0))
  sar_rows = batch['sar_l1']['image'][..., 0]
  np.testing.assert_array_equal(batch['sar_l2']['image'][..., 0], sar_rows)
  assert np.isin(sar_rows, rows).all()
  sar_columns = batch['sar_l1']['image'][..., 1]
  np.testing.assert_allclose(
    batch['ms']['image'][..., 0], sar_columns, atol=0.01
  )


def test_nan_under_nodata_changes_no_bit(tmp_path):
  rng = np.random.default_rng(0)
  valid = rng.random((16, 16)) > 0.1
  image = rng.normal(size=(16, 16, 4)).astype(np.float32)
  batches = []
  for name, fill in (('nan', np.nan), ('inf', np.inf), ('zero', 0)):
    filled = np.where(valid[..., None], image, np.float32(fill))
    store = _pack(
      tmp_path / name, [MS], [{'ms/image': filled, 'ms/valid': valid}] * 4
    )
    stream = pipeline.Stream(
      MS,
      sources=[(store, None, 1.0)],
      batch_size=8,
      crop=augment.Crop(size=8),
      statistics={'ms': store.statistics_of('ms')},
    )
    batches.append(next(pipeline.batches([stream], seed=0)))
  for other in batches[1:]:
    _assert_same(batches[0], other)
  arrays = batches[0]['ms']
  assert np.isfinite(arrays['image']).all()
  assert 0 < arrays['pixel_valid'].mean() < 1
  assert (arrays['image'][~arrays['pixel_valid']] == 0).all()


def test_evaluation_runs_in_order_and_pads_the_last_batch(opt_store):
  batches = _take(
    pipeline.evaluation_batches(
      opt_store, 'train', OPT, 4, statistics=_plain(3)
    ),
    99,
  )
  rows = {
    k: np.concatenate([b['opt'][k] for b in batches]) for k in batches[0]['opt']
  }
  assert [len(b['opt']['image']) for b in batches] == [4, 4]
  assert rows['index'].tolist() == [*range(7), -1]
  assert rows['valid'].tolist() == [True] * 7 + [False]
  assert rows['label'].tolist() == [*range(7), 0]
  assert not rows['pixel_valid'][7].any() and not rows['image'][7].any()
  for i in range(7):
    np.testing.assert_array_equal(
      rows['image'][i], opt_store.read(i)['opt/image']
    )


def test_evaluation_crops_the_centre_or_resizes_the_whole(opt_store):
  def get(**kwargs):
    (batch,) = pipeline.evaluation_batches(
      opt_store, 'test', OPT, 3, statistics=_plain(3), **kwargs
    )
    return batch['opt']['image']

  raw = opt_store.read(7)['opt/image'].astype(np.float32)
  np.testing.assert_array_equal(get(fit='crop', size=8)[0], raw[2:-2, 2:-2])
  assert get(fit='resize', size=6).shape == (3, 6, 6, 3)
  assert get(fit='resize', size=24).shape == (3, 24, 24, 3)
  with pytest.raises(ValueError, match='does not go with'):
    get(fit='crop')
  with pytest.raises(ValueError, match='Did you mean "crop"'):
    get(fit='corp', size=8)


def test_evaluation_of_mixed_sizes_needs_a_size(tmp_path):
  store = _pack(tmp_path, [OPT], [_constant(1, size=8), _constant(2, size=9)])
  with pytest.raises(ValueError, match=r'\(8, 8\) and of \(9, 9\)'):
    list(pipeline.evaluation_batches(store, None, OPT, 2, statistics=_plain(3)))
  (batch,) = pipeline.evaluation_batches(
    store, None, OPT, 2, statistics=_plain(3), fit='crop', size=8
  )
  assert batch['opt']['image'].shape == (2, 8, 8, 3)


def test_evaluation_never_resizes_complex_sar(sar_store):
  with pytest.raises(ValueError, match='only cropped'):
    next(
      pipeline.evaluation_batches(sar_store, None, SAR, 1, fit='resize', size=8)
    )


def test_a_damaged_record_names_file_and_record(tmp_path):
  images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), np.uint8)
  store = _pack(tmp_path, [OPT], [{'opt/image': image} for image in images])
  path = next(tmp_path.glob('*.array_record'))
  data = bytearray(path.read_bytes())
  # Noise does not compress: the pixels of record 1 are there as they are.
  data[data.index(images[1, :1].tobytes())] ^= 1
  path.write_bytes(data)
  stream = pipeline.Stream(
    OPT,
    sources=[(store, None, 1.0)],
    batch_size=3,
    crop=augment.Crop(size=8),
    statistics=PLAIN,
  )
  message = rf'{path.name}: record 1 is damaged'
  with pytest.raises(ValueError, match=message):
    next(pipeline.batches([stream], seed=0))
  with pytest.raises(ValueError, match=message):
    list(pipeline.evaluation_batches(store, None, OPT, 1, statistics=_plain(3)))


@pytest.mark.parametrize(
  ('change', 'kwargs', 'message'),
  [
    ({}, {'share': shares.Share((0,), 3)}, 'multiple of the 3 blocks'),
    ({}, {'share': shares.Share((2,), 2)}, r'\(2,\) must be some of them'),
    ({'sources': []}, {}, 'positive weight'),
    ({'statistics': {}}, {}, 'opt: statistics of its 3 bands'),
  ],
)
def test_streams_that_do_not_fit_are_refused(streams, change, kwargs, message):
  stream = dataclasses.replace(streams[0], **change)
  with pytest.raises(ValueError, match=message):
    pipeline.batches([stream], seed=0, **kwargs)


def test_a_sensor_has_one_stream(streams):
  with pytest.raises(ValueError, match='exactly one stream'):
    pipeline.batches([streams[0], streams[0]], seed=0)
  with pytest.raises(ValueError, match='exactly one stream'):
    pipeline.batches([], seed=0)


def test_sensors_that_a_sample_or_a_store_lacks_are_masked(tmp_path):
  """Co-registered samples: both, one of them, another store without it."""
  radar = {'sar_l2/image': np.full((12, 12, 1), 3, np.float32)}
  both = _pack(
    tmp_path / 'both', [OPT, DB], [_constant(1) | radar, _constant(2)]
  )
  one = _pack(tmp_path / 'one', [OPT], [_constant(4)])
  stream = pipeline.Stream(
    (OPT, DB),
    sources=[(both, None, 0.5), (one, None, 0.5)],
    batch_size=8,
    crop=augment.Crop(size=8),
    statistics=PLAIN,
    missing_sensors='mask',
  )
  batch = next(pipeline.batches([stream], seed=0))
  opt, db = batch['opt'], batch['sar_l2']
  assert opt['image'].shape == (8, 8, 8, 3) and db['image'].shape == (
    8,
    8,
    8,
    1,
  )
  kind = opt['image'][:, 0, 0, 0]
  assert {1, 2, 4} == set(kind.tolist())
  here = kind == 1
  np.testing.assert_array_equal(db['band_valid'][:, 0], here)
  np.testing.assert_array_equal(db['pixel_valid'].all((1, 2)), here)
  assert (db['image'][here] == 3).all() and (db['image'][~here] == 0).all()
  assert opt['band_valid'].all() and db['valid'].all()
  strict = dataclasses.replace(stream, missing_sensors='error')
  with pytest.raises(ValueError, match='to db'):
    next(pipeline.batches([strict], seed=0))
  with pytest.raises(ValueError, match='missing_sensors'):
    dataclasses.replace(stream, missing_sensors='skip')
