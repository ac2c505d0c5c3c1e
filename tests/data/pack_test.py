"""Packing: whole or nothing, resumable, honest about bad scenes."""

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
  report = pack.pack(job(images, name='mine'), tmp_path / 'out', workers=2)
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


def test_a_store_is_a_function_of_its_job(images, tmp_path):
  for name, workers in (('a', 1), ('b', 4)):
    pack.pack(job(images), tmp_path / name, workers=workers)
  assert content(tmp_path / 'a') == content(tmp_path / 'b')


def test_a_large_scene_is_shared_among_readers(tmp_path, monkeypatch):
  image = scene_files.digital_numbers(13, 128, 96)
  path = scene_files.write_tiff(tmp_path / 'a.tif', image)
  asked = job(path, recipe={'sensor': 'sentinel2_l1c', 'chip': 32})
  pack.pack(asked, tmp_path / 'one')
  monkeypatch.setattr(pack, '_PART_BYTES', 50_000)
  pack.pack(asked, tmp_path / 'parts', workers=3)
  assert content(tmp_path / 'one') == content(tmp_path / 'parts')


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
  with pytest.raises(ValueError, match='3 bad scenes of 20.*--on_bad skip'):
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
import sys
from rsfm_jax.data import pack, recipe, splits, store
init = store.StoreWriter.__init__
def small(self, *args, **kwargs):
  init(self, *args, shard_bytes=1000, **kwargs)
store.StoreWriter.__init__ = small
add = store.StoreWriter.add
def slow(self, arrays, **sample):
  add(self, arrays, **sample)
  if len(self) == 13:
    print('now', flush=True)
    import time
    time.sleep(60)
store.StoreWriter.add = slow
pack.pack(
  pack.Job(source=sys.argv[1], label='folder', recipe=recipe.Recipe(
    sensor='opt', split=splits.Policy(kind='random'))), sys.argv[2])
"""


def kill_a_pack(images, out):
  """SIGKILL after 13 of 20 samples, in the middle of a shard."""
  environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  with subprocess.Popen(
    [sys.executable, '-c', KILLED, str(images), str(out)],
    stdout=subprocess.PIPE,
    env=environment,
  ) as process:
    assert process.stdout.readline() == b'now\n'
    process.send_signal(signal.SIGKILL)


def test_a_killed_pack_is_no_store_and_resumes_to_the_same(images, tmp_path):
  out = tmp_path / 'out'
  kill_a_pack(images, out)
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
  whole = {
    p for p in out.glob('*.array_record') if p.stat().st_mtime_ns < before
  }
  report = pack.pack(job(images), out, resume='yes')
  assert 0 < report.resumed < 20 and report.samples == 20
  assert all(p.stat().st_mtime_ns < before for p in whole)  # Kept, not redone.
  pack.pack(job(images), tmp_path / 'straight')
  resumed, straight = content(out), content(tmp_path / 'straight')
  assert resumed['samples'] == straight['samples']
  a, b = store.Store(out), store.Store(tmp_path / 'straight')
  a.verify()
  for i in range(20):
    np.testing.assert_array_equal(
      a.read(i)['opt/image'], b.read(i)['opt/image']
    )
  np.testing.assert_allclose(
    a.statistics_of('opt').mean, b.statistics_of('opt').mean
  )


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
