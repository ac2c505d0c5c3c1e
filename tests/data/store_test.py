"""Stores are whole or not stores; damage has a name; packs resume."""

import errno
import json
import pickle
import signal
import subprocess
import sys

from array_record.python import array_record_module
import numpy as np
import pytest

from rsfm_jax.data import records
from rsfm_jax.data import shards
from rsfm_jax.data import store
from rsfm_jax.sensors import catalogue

OPT = {'opt': catalogue.get('opt')}
_REAL = array_record_module.ArrayRecordWriter


def _image(i, size=8):
  rng = np.random.default_rng(i)
  return rng.integers(0, 256, (size, size, 3), np.uint8)


def _add(writer, numbers, **sample):
  for i in numbers:
    writer.add({'opt/image': _image(i)}, id=f's{i}', **sample)


def _write(folder, n=6, **kwargs):
  with store.StoreWriter(folder, sensors=OPT, **kwargs) as writer:
    _add(writer, range(n), split='train', label=1)
  return store.Store(folder)


def test_what_goes_in_comes_out(tmp_path):
  arrays = {
    'opt/image': _image(0),
    'opt/valid': np.arange(64).reshape(8, 8) > 5,
    'landcover': np.ones((8, 8), np.uint8),
  }
  with store.StoreWriter(
    tmp_path, sensors=OPT, classes=['sea', 'land']
  ) as writer:
    writer.add(
      arrays,
      id='a',
      split='train',
      label='land',
      bounds=(0.0, 1.0, 2.0, 3.0),
      lonlat=np.array([7.5, 47.0]),
    )
  opened = store.Store(tmp_path)
  assert len(opened) == 1 and opened.sensors == OPT
  assert opened.classes == ['sea', 'land']
  assert opened.labels('train').tolist() == [1]
  assert opened.column('lonlat') == [[7.5, 47.0]]
  assert opened.column('date') == [None]
  read = opened.read(0)
  assert read.keys() == arrays.keys()
  for name, array in arrays.items():
    assert read[name].dtype == array.dtype
    np.testing.assert_array_equal(read[name], array)
  opened.verify()


def test_statistics_leave_out_nodata_and_absent_bands(tmp_path):
  sar = catalogue.get('sar_l1')
  image = np.ones((8, 8, 8), np.float32)
  image[0] = np.nan
  valid = np.ones((8, 8), bool)
  valid[0] = False
  with store.StoreWriter(tmp_path, sensors={'sar_l1': sar}) as writer:
    writer.add(
      {
        'sar_l1/image': image,
        'sar_l1/valid': valid,
        'sar_l1/scene_scale': np.float32(2),
      },
      id='a',
      bands={'sar_l1': ['VV_I', 'VV_Q']},
    )
  opened = store.Store(tmp_path)
  result = opened.statistics_of('sar_l1')
  counts = dict(zip(sar.band_names, result.count, strict=True))
  assert counts['VV_I'] == 56 and counts['HH_I'] == 0
  assert result.mean[sar.band_names.index('VV_Q')] == 1
  assert (
    opened.read(0)['sar_l1/band_valid'].tolist() == [False] * 6 + [True] * 2
  )


def test_statistics_do_not_depend_on_shards(tmp_path):
  one = _write(tmp_path / 'one')
  many = _write(tmp_path / 'many', shard_bytes=1)
  assert len(many.index['shards']) == 6
  pixels = np.stack([_image(i) for i in range(6)]).reshape(-1, 3)
  for opened in (one, many):
    result = opened.statistics_of('opt')
    np.testing.assert_allclose(result.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(result.std, pixels.std(0), rtol=1e-12)


def _series(dates=3):
  """A series, its validity and where it has NaN besides."""
  rng = np.random.default_rng(0)
  series = rng.normal(size=(dates, 8, 8, 2)).astype(np.float32)
  valid = rng.random((dates, 8, 8)) > 0.3
  series[~valid] = np.nan
  series[1, 4, 4] = np.inf
  return series, valid


@pytest.mark.parametrize('validity', ['series_valid', 'valid', 'none'])
def test_statistics_count_every_date_of_a_series(tmp_path, validity):
  name = 'sentinel1_grd'
  series, valid = _series()
  arrays = {f'{name}/series': series, f'{name}/image': series[0]}
  if validity == 'valid':  # Holds on all dates.
    arrays[f'{name}/valid'] = valid[0]
    valid = np.broadcast_to(valid[0], valid.shape)
  elif validity == 'series_valid':
    arrays[f'{name}/{validity}'] = valid
  with store.StoreWriter(
    tmp_path, sensors={name: catalogue.get(name)}
  ) as writer:
    writer.add(arrays, id='a', split='train')
    # A sample of one date counts beside it.
    writer.add({f'{name}/image': 5 + series[2] * 0}, id='b', split='test')
  counted = series[valid & np.isfinite(series).all(-1)]
  whole = store.Store(tmp_path)
  result = whole.accumulator_of(name, 'train').result()
  assert result.count == (len(counted),) * 2
  np.testing.assert_allclose(result.mean, counted.mean(0, float), rtol=1e-6)
  np.testing.assert_allclose(result.std, counted.std(0, float), rtol=1e-6)
  one = whole.accumulator_of(name, 'test').result()
  assert one.count == (int(np.isfinite(series[2, ..., 0]).sum()),) * 2
  assert one.mean == (5.0, 5.0)
  assert whole.statistics_of(name).count[0] == result.count[0] + one.count[0]


@pytest.mark.parametrize(
  ('arrays', 'sample', 'message'),
  [
    ({'opt/image': np.zeros((8, 8, 4), np.uint8)}, {}, '3 bands'),
    ({'opt/image': np.zeros((8, 8, 3), complex)}, {}, 'complex128'),
    ({'opy/image': np.zeros((8, 8, 3), np.uint8)}, {}, 'Did you mean "opt"'),
    ({'height': np.zeros((8, 8))}, {}, 'no image'),
    ({}, {'labl': 1}, 'Did you mean "label"'),
    ({}, {'label': 'see'}, 'Did you mean "sea"'),
    ({}, {'id': 'first'}, "id='first' is not a new"),
    ({}, {'bands': {'opt': ['rad']}}, 'Did you mean "red"'),
    ({'opt/valid': np.ones((8, 7), bool)}, {}, 'opt/valid'),
    ({'opt/series': np.zeros((0, 8, 8, 3), np.uint8)}, {}, 'opt/series'),
    ({'opt/series': np.zeros((8, 8, 3), np.uint8)}, {}, 'opt/series'),
    ({'opt/series': np.zeros((2, 8, 7, 3), np.uint8)}, {}, 'opt/series'),
    ({'opt/series': np.zeros((2, 8, 8, 4), np.uint8)}, {}, 'opt/series'),
    ({'opt/series': np.zeros((2, 8, 8, 3), complex)}, {}, 'opt/series'),
    ({'opt/series_valid': np.ones((2, 8, 8), bool)}, {}, 'opt/series_valid'),
    ({'opy/series': np.zeros((2, 8, 8, 3))}, {}, 'Did you mean "opt"'),
  ],
)
def test_bad_samples_are_refused(tmp_path, arrays, sample, message):
  image = {'opt/image': _image(0)}
  if 'opt/image' in arrays or 'height' in arrays or 'opy/image' in arrays:
    image = {}
  with store.StoreWriter(
    tmp_path, sensors=OPT, classes=['sea', 'land']
  ) as writer:
    writer.add({'opt/image': _image(0)}, id='first')
    with pytest.raises(ValueError, match=message):
      writer.add(image | arrays, **({'id': 'x'} | sample))
  assert len(store.Store(tmp_path)) == 1


def test_complex_sar_needs_the_scale_of_its_scene(tmp_path):
  sensors = {'sar_l1': catalogue.get('sar_l1')}
  image = np.ones((4, 4, 8), np.float32)
  writer = store.StoreWriter(tmp_path, sensors=sensors)
  with pytest.raises(ValueError, match='scene_scale=None'):
    writer.add({'sar_l1/image': image}, id='a')
  with pytest.raises(ValueError, match=r'scene_scale=0\.0'):
    writer.add(
      {'sar_l1/image': image, 'sar_l1/scene_scale': np.float32(0)}, id='a'
    )
  writer.close()


def test_a_source_travels_to_workers_by_pickle(tmp_path):
  source = _write(tmp_path, shard_bytes=400).source('train')
  source[3]  # Opens a reader, which must stay behind.
  copy = pickle.loads(pickle.dumps(source))
  assert isinstance(copy, records.Records) and len(copy) == 6
  np.testing.assert_array_equal(copy[3]['opt/image'], _image(3))


def test_truncated_shard_is_named_when_opening(tmp_path):
  _write(tmp_path)
  path = next(tmp_path.glob('*.array_record'))
  path.write_bytes(path.read_bytes()[:-7])
  with pytest.raises(ValueError, match=rf'{path.name}.*bytes long'):
    store.Store(tmp_path)
  path.unlink()
  with pytest.raises(ValueError, match=rf'{path.name}.*missing'):
    store.Store(tmp_path)


def test_flipped_byte_names_file_and_record(tmp_path):
  opened = _write(tmp_path)
  path = next(tmp_path.glob('*.array_record'))
  data = bytearray(path.read_bytes())
  # Random pixels do not compress: find those of record 2 as they are.
  start = data.index(_image(2)[:1].tobytes())
  data[start] ^= 1
  path.write_bytes(data)
  opened = store.Store(tmp_path)
  with pytest.raises(ValueError, match=rf'{path.name}: record 2 is damaged'):
    opened.read(2)
  np.testing.assert_array_equal(opened.read(1)['opt/image'], _image(1))
  with pytest.raises(ValueError, match=rf'{path.name} is damaged: its SHA'):
    opened.verify()


def test_index_of_another_format_or_damaged_is_named(tmp_path):
  _write(tmp_path)
  path = tmp_path / 'index.json'
  path.write_text(json.dumps({'format': 'other/1'}))
  with pytest.raises(ValueError, match=r"index.json: format='other/1'"):
    store.Store(tmp_path)
  path.write_text('{"format": ')
  with pytest.raises(ValueError, match='index.json is not readable'):
    store.Store(tmp_path)


_KILLED = """
import os, signal, sys
import numpy as np
from rsfm_jax.data import store
from rsfm_jax.sensors import catalogue
writer = store.StoreWriter(
    sys.argv[1], sensors={'opt': catalogue.get('opt')}, shard_bytes=400)
for i in range(5):
  image = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
  writer.add({'opt/image': image}, id=f's{i}', split='train', label=1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_pack_is_no_store_and_resumes_to_the_same(tmp_path):
  folder = tmp_path / 'killed'
  done = subprocess.run([sys.executable, '-c', _KILLED, folder], check=False)
  assert done.returncode == -signal.SIGKILL
  with pytest.raises(ValueError, match=r'no index\.json'):
    store.Store(folder)
  with pytest.raises(ValueError, match='unfinished pack'):
    store.StoreWriter(folder, sensors=OPT)
  with pytest.raises(ValueError, match=r'other \[.classes.\]'):
    store.StoreWriter(folder, sensors=OPT, classes=['a'], resume=True)

  with store.StoreWriter(
    folder, sensors=OPT, resume=True, shard_bytes=400
  ) as writer:
    # Three samples fill a shard: two whole ones would need a sixth.
    assert [writer.has(f's{i}') for i in range(5)] == [True] * 3 + [False] * 2
    _add(writer, range(3, 6), split='train', label=1)
  resumed = store.Store(folder)
  whole = _write(tmp_path / 'whole', shard_bytes=400)
  assert resumed.index == whole.index  # Checksums of the shards included.


def test_an_exception_leaves_no_readable_store(tmp_path):
  with (
    pytest.raises(KeyError),
    store.StoreWriter(tmp_path, sensors=OPT) as writer,
  ):
    _add(writer, range(2))
    raise KeyError
  with pytest.raises(ValueError, match='not a store'):
    store.Store(tmp_path)


class _FullDisk:
  """A writer on a disk with room for three records."""

  def __init__(self, path, options):
    self._real = _REAL(path, options)
    self._room = 3

  def write(self, record):
    if not self._room:
      raise OSError(errno.ENOSPC, 'No space left on device')
    self._room -= 1
    self._real.write(record)

  def close(self):
    self._real.close()


def test_full_disk_leaves_no_half_store_and_resumes(tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(shards.array_record_module, 'ArrayRecordWriter', _FullDisk)
    with pytest.raises(OSError, match='shard-00000') as caught:
      _write(tmp_path)
    assert caught.value.errno == errno.ENOSPC
  assert not list(tmp_path.glob('shard-*'))
  with pytest.raises(ValueError, match='not a store'):
    store.Store(tmp_path)
  assert len(_write(tmp_path, resume=True)) == 6


def test_what_a_full_disk_took_is_not_in_the_statistics(tmp_path, monkeypatch):
  writer = store.StoreWriter(tmp_path, sensors=OPT)
  with monkeypatch.context() as patch:
    patch.setattr(shards.array_record_module, 'ArrayRecordWriter', _FullDisk)
    with pytest.raises(OSError, match='shard-00000'):
      _add(writer, range(6))
  _add(writer, range(6))  # The user made room.
  found = writer.finish().statistics_of('opt')
  assert found.count == (6 * 64,) * 3


def test_disk_that_fills_at_the_index_leaves_no_half_store(
  tmp_path, monkeypatch
):
  def full(path, value):
    raise OSError(errno.ENOSPC, f'could not write {path}')

  writer = store.StoreWriter(tmp_path, sensors=OPT, shard_bytes=1)
  _add(writer, range(3))
  with monkeypatch.context() as patch:
    patch.setattr(shards.files, 'write_json', full)
    with pytest.raises(OSError, match=r'index\.json'):
      writer.finish()
  with pytest.raises(ValueError, match='not a store'):
    store.Store(tmp_path)
  assert len(writer.finish()) == 3


def test_array_record_reports_a_full_disk_as_no_space(tmp_path, monkeypatch):
  monkeypatch.setattr(
    shards.array_record_module,
    'ArrayRecordWriter',
    lambda path, options: _REAL('/dev/full', options),
  )
  writer = store.StoreWriter(tmp_path, sensors=OPT)
  with pytest.raises(OSError, match='shard-00000') as caught:
    for i in range(10_000):
      writer.add({'opt/image': _image(i, size=64)}, id=str(i))
    writer.finish()
  assert caught.value.errno == errno.ENOSPC
  writer.close()


def test_one_writer_at_a_time_and_never_over_a_store(tmp_path):
  writer = store.StoreWriter(tmp_path, sensors=OPT)
  with pytest.raises(RuntimeError, match='in use'):
    store.StoreWriter(tmp_path, sensors=OPT)
  with pytest.raises(ValueError, match='no sample'):
    writer.finish()
  _add(writer, [0])
  writer.finish()
  with pytest.raises(ValueError, match='store already'):
    store.StoreWriter(tmp_path, sensors=OPT)


def test_unknown_names_are_explained(tmp_path):
  opened = _write(tmp_path)
  with pytest.raises(ValueError, match='Did you mean "train"'):
    opened.indices('trian')
  with pytest.raises(ValueError, match='sensor of'):
    opened.statistics_of('ms')


def _mixed(folder, **kwargs):
  """Images of uneven splits, and the pixels of each split."""
  pixels = {}
  with store.StoreWriter(folder, sensors=OPT, **kwargs) as writer:
    for i, split in enumerate(('train', 'val', 'train', None, 'train')):
      _add(writer, [i], split=split)
      pixels.setdefault(split, []).append(_image(i).reshape(-1, 3))
  return store.Store(folder), {k: np.concatenate(v) for k, v in pixels.items()}


@pytest.mark.parametrize('shard_bytes', [1, 1 << 20])
def test_statistics_are_kept_per_split(tmp_path, shard_bytes):
  opened, pixels = _mixed(tmp_path, shard_bytes=shard_bytes)
  for split in ('train', 'val'):
    result = opened.accumulator_of('opt', split).result()
    np.testing.assert_allclose(result.mean, pixels[split].mean(0), rtol=1e-12)
    np.testing.assert_allclose(result.std, pixels[split].std(0), rtol=1e-12)
  everything = opened.accumulator_of('opt').result()
  assert everything == opened.statistics_of('opt')
  assert everything.count == (5 * 64,) * 3
  with pytest.raises(ValueError, match='split of .*Did you mean "train"'):
    opened.accumulator_of('opt', 'trian')


def test_one_split_needs_no_statistics_of_its_own(tmp_path):
  opened = _write(tmp_path)
  assert 'splits' not in opened.index['statistics']['opt']
  alone, whole = (opened.accumulator_of('opt', s) for s in ('train', None))
  assert alone.to_json() == whole.to_json()


def test_an_older_store_says_that_it_has_no_statistics_per_split(tmp_path):
  opened, _ = _mixed(tmp_path)
  del opened.index['statistics']['opt']['splits']
  (tmp_path / 'index.json').write_text(json.dumps(opened.index))
  older = store.Store(tmp_path)
  assert older.accumulator_of('opt').result().count == (5 * 64,) * 3
  with pytest.raises(ValueError, match=r"split='train' alone.*Pack it again"):
    older.accumulator_of('opt', 'train')


def test_a_sensor_that_a_split_lacks_has_no_statistics_there(tmp_path):
  sensors = OPT | {'ms': catalogue.get('ms')}
  with store.StoreWriter(tmp_path, sensors=sensors) as writer:
    writer.add({'opt/image': _image(0)}, id='a', split='train')
    image = np.ones((4, 4, 4), np.float32)
    writer.add({'ms/image': image}, id='b', split='val')
  opened = store.Store(tmp_path)
  counts = {
    (sensor, split): opened.accumulator_of(sensor, split).result().count[0]
    for sensor in sensors
    for split in ('train', 'val')
  }
  assert counts == {
    ('opt', 'train'): 64,
    ('opt', 'val'): 0,
    ('ms', 'train'): 0,
    ('ms', 'val'): 16,
  }


@pytest.mark.parametrize('folder', ['gs://bucket/s', 's3://bucket/s'])
def test_a_bucket_is_no_place_for_a_store(folder):
  with pytest.raises(ValueError, match=f'{folder}: a store .* mount the'):
    store.Store(folder)
  with pytest.raises(ValueError, match=f'{folder}: a store .* copy it there'):
    store.StoreWriter(folder, sensors=OPT)
