"""Packing: whole or nothing, resumable, honest about bad scenes."""

from concurrent import futures
from concurrent.futures import process
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
from PIL import Image
import pytest

from rsfm_jax.core import files
from rsfm_jax.data import pack
from rsfm_jax.data import recipe as recipes
from rsfm_jax.data import splits
from rsfm_jax.data import store
from rsfm_jax.data import tasks
from tests.data import bucket_server
from tests.data import scene_files

ROOT = pathlib.Path(__file__).parents[2]


def write_images(folder, count, *, edge=8):
  rng = np.random.default_rng(0)
  for i in range(count):
    path = folder / ('land' if i % 2 else 'sea') / f'{i:03d}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 255, (edge, edge, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def job(folder, **options):
  recipe = {'sensor': 'opt', 'split': splits.Policy(kind='random')}
  recipe |= options.pop('recipe', {})
  return pack.Job(
    source=str(folder),
    label='folder',
    recipe=recipes.Recipe(**recipe),
    **options,
  )


@pytest.fixture
def images(tmp_path):
  write_images(tmp_path / 'in', 20)
  return tmp_path / 'in'


def content(folder):
  """Everything of a store that its job decides."""
  index = store.Store(folder).index
  return {k: v for k, v in index.items() if k != 'created_with'}


def test_a_store_holds_what_the_scenes_hold(images, tmp_path):
  report = pack.pack(job(images, name='mine'), tmp_path / 'out')
  made = store.Store(tmp_path / 'out')
  assert len(made) == report.samples == report.scenes == 20
  assert made.classes == ['land', 'sea']
  assert made.column('id') == sorted(made.column('id'))
  assert set(made.column('source')) == {'mine'}
  for i, id_ in enumerate(made.column('id')):
    expected = np.asarray(Image.open(images / f'{id_}.png'))
    np.testing.assert_array_equal(made.read(i)['opt/image'], expected)
    assert made.classes[made.column('label')[i]] == id_.split('/')[0]
  assert sum(report.splits.values()) == 20
  made.verify()


def test_a_store_is_a_function_of_its_job(images, tmp_path, monkeypatch):
  monkeypatch.setattr(tasks, '_TASK_BYTES', 5 * tasks._SCENE_BYTES)
  for name, pool in (('a', LastFirst()), ('b', futures.ThreadPoolExecutor(4))):
    with pool:
      pack.pack(job(images), tmp_path / name, workers=pool)
  assert content(tmp_path / 'a') == content(tmp_path / 'b')
  assert len(store.Store(tmp_path / 'a').index['shards']) == 4


class LastFirst(futures.Executor):
  """Does four tasks in the reverse order, once the last is there."""

  def __init__(self):
    self.left = []

  def submit(self, function, *args):
    self.left.append((futures.Future(), function, args))
    if len(self.left) == 4:
      for future, function, args in reversed(self.left):
        future.set_result(function(*args))
    return self.left[-1][0]


def test_a_large_scene_is_divided_and_is_the_same(tmp_path, monkeypatch):
  image = scene_files.digital_numbers(13, 128, 96)
  path = scene_files.write_tiff(tmp_path / 'a.tif', image)
  asked = job(path, recipe={'sensor': 'sentinel2_l1c', 'chip': 32})
  pack.pack(asked, tmp_path / 'one')
  monkeypatch.setattr(tasks, '_TASK_BYTES', 100_000)
  pack.pack(asked, tmp_path / 'parts')
  one, parts = (store.Store(tmp_path / name) for name in ('one', 'parts'))
  assert [len(s.index['shards']) for s in (one, parts)] == [1, 3]
  assert one.index['samples'] == parts.index['samples']
  for i in range(len(one)):
    for name, array in one.read(i).items():
      np.testing.assert_array_equal(array, parts.read(i)[name])


def test_one_bad_scene_stops_a_single_but_not_many(images, tmp_path):
  bad = images / 'sea' / '000.png'
  bad.write_bytes(bad.read_bytes()[:60])
  with pytest.raises(ValueError, match='000.png is truncated'):
    pack.pack(job(bad), tmp_path / 'single')
  report = pack.pack(job(images), tmp_path / 'many')
  assert list(report.bad) == [str(bad)] and report.samples == 19
  assert any('000.png is truncated' in line for line in report.lines())
  noted = files.read_json(tmp_path / 'many' / 'pack.json')['report']
  assert list(noted['bad']) == [str(bad)]
  with pytest.raises(ValueError, match='000.png'):
    pack.pack(job(images), tmp_path / 'strict', on_bad='stop')
  assert not (tmp_path / 'strict' / 'index.json').exists()


def test_many_bad_scenes_are_a_mistake_of_the_recipe(images, tmp_path):
  asked = job(images, recipe={'sensor': 'naip'})  # Four bands, images of 3.
  with pytest.raises(ValueError, match='20 bad scenes of 20.*--on_bad skip'):
    pack.pack(asked, tmp_path / 'out')
  with pytest.raises(ValueError, match='gives no sample.*20 scenes are bad'):
    pack.pack(asked, tmp_path / 'out', on_bad='skip', resume='yes')
  with pytest.raises(ValueError, match='is not a store'):
    store.Store(tmp_path / 'out')


def test_a_scene_of_nothing_gives_no_store(tmp_path):
  image = np.zeros((13, 64, 64), np.uint16)
  path = scene_files.write_tiff(tmp_path / 'a.tif', image)
  asked = job(path, recipe={'sensor': 'sentinel2_l1c', 'chip': 32})
  with pytest.raises(ValueError, match='no sample: 4 chips .* nodata'):
    pack.pack(asked, tmp_path / 'out')
  assert not (tmp_path / 'out' / 'index.json').exists()


KILLED = """
import sys, time
from rsfm_jax.data import pack, recipe, shards, splits, tasks
tasks._TASK_BYTES = 6 * tasks._SCENE_BYTES
add = shards.ShardWriter.add
count = 0
def slow(self, arrays, **sample):
  global count
  add(self, arrays, **sample)
  count += 1
  if count == 15:
    print('now', flush=True)
    time.sleep(60)
shards.ShardWriter.add = slow
pack.pack(
  pack.Job(source=sys.argv[1], label='folder', recipe=recipe.Recipe(
    sensor='opt', split=splits.Policy(kind='random'))), sys.argv[2])
"""


def kill_a_pack(images, out):
  """SIGKILL after 15 of 20 samples, in the middle of the third shard."""
  environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  with subprocess.Popen(
    [sys.executable, '-c', KILLED, str(images), str(out)],
    stdout=subprocess.PIPE,
    env=environment,
  ) as process:
    assert process.stdout.readline() == b'now\n'
    process.send_signal(signal.SIGKILL)


def test_a_killed_pack_is_no_store_and_resumes_to_the_same(
  images, tmp_path, monkeypatch
):
  out = tmp_path / 'out'
  kill_a_pack(images, out)
  monkeypatch.setattr(tasks, '_TASK_BYTES', 6 * tasks._SCENE_BYTES)
  with pytest.raises(ValueError, match='is not a store.*resumed'):
    store.Store(out)
  with pytest.raises(ValueError, match='unfinished pack'):
    pack.pack(job(images), out)
  changed = job(images, recipe={'split': splits.Policy(kind='val')})
  with pytest.raises(ValueError, match='unfinished pack'):
    pack.pack(changed, out)  # Refused without a trace: see the resume below.
  with pytest.raises(ValueError, match='split.kind: random -> val'):
    pack.pack(changed, out, resume='yes')
  before = time.time_ns()
  assert len(list(out.glob('shard-*.part'))) == 1  # Of the killed shard.
  report = pack.pack(job(images), out, resume='yes')
  assert report.resumed == 12 and report.samples == 20
  kept = [
    p.name for p in sorted(out.glob('shard-*')) if p.stat().st_mtime_ns < before
  ]
  assert kept == ['shard-00000.array_record', 'shard-00001.array_record']
  pack.pack(job(images), tmp_path / 'straight')
  straight = tmp_path / 'straight'
  assert content(out) == content(straight)  # Checksums of shards included.
  assert {p.name for p in out.iterdir()} == {p.name for p in straight.iterdir()}
  store.Store(out).verify()


def test_a_resume_sees_what_became_of_the_scenes(images, tmp_path, monkeypatch):
  monkeypatch.setattr(tasks, '_TASK_BYTES', 5 * tasks._SCENE_BYTES)
  bad = images / 'land' / '013.png'
  whole = bad.read_bytes()
  bad.write_bytes(whole[:60])
  with pytest.raises(ValueError, match='013.png is truncated'):
    pack.pack(job(images), tmp_path / 'out', on_bad='stop')
  bad.write_bytes(whole)  # Repaired.
  write_images(tmp_path / 'more', 21)
  added = tmp_path / 'more' / 'sea' / '020.png'
  added.rename(images / 'sea' / '020.png')  # The last: other shards stay.
  report = pack.pack(job(images), tmp_path / 'out', resume='yes')
  assert report.samples == 21 and 0 < report.resumed <= 15
  pack.pack(job(images), tmp_path / 'straight')
  assert content(tmp_path / 'out') == content(tmp_path / 'straight')


class Dying(futures.ThreadPoolExecutor):
  """A pool whose workers die with the second task."""

  def submit(self, function, *args):
    self.count = getattr(self, 'count', 0) + 1
    if self.count < 2:
      return super().submit(function, *args)
    future = futures.Future()
    future.set_exception(process.BrokenProcessPool('A process died.'))
    return future


def test_a_dead_worker_is_an_error_that_names_the_scenes(
  images, tmp_path, monkeypatch
):
  monkeypatch.setattr(tasks, '_TASK_BYTES', 10 * tasks._SCENE_BYTES)
  with (
    Dying(1) as pool,
    pytest.raises(
      RuntimeError, match=r'shard 1 .*000\.png to .*018\.png.*A process died.*'
    ),
  ):
    pack.pack(job(images), tmp_path / 'out', workers=pool)
  with pytest.raises(ValueError, match='not a store'):
    store.Store(tmp_path / 'out')


class FirstFails(futures.Executor):
  """A busy pool: the first task fails, no other one has begun."""

  def __init__(self):
    self.given = []

  def submit(self, function, *args):
    self.given.append(futures.Future())
    if len(self.given) == 1:
      self.given[0].set_exception(OSError('the disk is full'))
    return self.given[-1]


def test_what_has_not_begun_is_called_off(images, tmp_path, monkeypatch):
  monkeypatch.setattr(tasks, '_TASK_BYTES', 5 * tasks._SCENE_BYTES)
  pool = FirstFails()
  with pytest.raises(OSError, match='the disk is full'):
    pack.pack(job(images), tmp_path / 'out', workers=pool)
  assert [f.cancelled() for f in pool.given] == [False] + [True] * 3


def test_a_bucket_is_no_place_for_a_store(images):
  with pytest.raises(ValueError, match='s3://b/out: a store .*aws s3 cp'):
    pack.pack(job(images), 's3://b/out')


def test_a_finished_store_is_known_by_its_job(images, tmp_path):
  out = tmp_path / 'out'
  assert not pack.is_done(job(images), out)
  pack.pack(job(images), out)
  assert pack.is_done(job(images), out)
  assert not pack.is_done(job(images, name='other'), out)
  with pytest.raises(ValueError, match='is a store already'):
    pack.pack(job(images, name='other'), out)
  note = json.loads((out / 'pack.json').read_text())
  assert note['job']['name'] == ''  # The attempt changed nothing.


@pytest.mark.parametrize('scheme', ['gs', 's3'])
def test_scenes_are_read_from_a_bucket_window_by_window(
  tmp_path, monkeypatch, scheme
):
  folder = tmp_path / 'bucket' / 'in'
  for name in 'ab':
    image = scene_files.digital_numbers(13, 512, 64, seed=ord(name))
    scene_files.write_tiff(folder / f'{name}.tif', image)
  table = tmp_path / 'table.csv'
  table.write_text('file,split\na.tif,train\nb.tif,val\n')
  recipe = {'sensor': 'sentinel2_l1c', 'chip': 64}
  recipe['split'] = splits.Policy(kind='table')
  here = job(folder, recipe=recipe, table=str(table), name='same')
  there = job(
    f'{scheme}://bucket/in', recipe=recipe, table=str(table), name='same'
  )
  pack.pack(here, tmp_path / 'here')
  with bucket_server.serve(tmp_path) as (environment, asked):
    for name, value in environment.items():
      monkeypatch.setenv(name, value)
    pack.pack(there, tmp_path / 'there')
  assert {path for path in asked if 'tif' in path} >= {
    '/bucket/in/a.tif',
    '/bucket/in/b.tif',
  }
  a, b = store.Store(tmp_path / 'here'), store.Store(tmp_path / 'there')
  assert a.index['samples'] == b.index['samples']
  for i in range(len(a)):
    for name, array in a.read(i).items():
      np.testing.assert_array_equal(array, b.read(i)[name])


def test_a_scene_that_is_not_in_the_bucket_is_named(tmp_path, monkeypatch):
  recipe = {'sensor': 'sentinel2_l1c', 'chip': 64}
  with bucket_server.serve(tmp_path) as (environment, _):
    for name, value in environment.items():
      monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match='s3://bucket/x.tif is not a readable'):
      pack.pack(job('s3://bucket/x.tif', recipe=recipe), tmp_path / 'out')
