"""A pack on a cluster: the same bytes, whoever dies; clear when it cannot."""

import contextlib
import os
import pathlib
import signal
import sys

import pytest

from rsfm_jax.core import files
from rsfm_jax.data import cluster
from rsfm_jax.data import cut
from rsfm_jax.data import pack
from rsfm_jax.data import recipe as recipes
from rsfm_jax.data import splits
from rsfm_jax.data import tasks
from tests.data import scene_files

distributed = pytest.importorskip('distributed')

SCENES, PER_TASK = 18, 3


@pytest.fixture(scope='module')
def address():
  """A scheduler with three worker processes; one that dies is replaced."""
  with distributed.LocalCluster(
    n_workers=3, threads_per_worker=1, dashboard_address=':0'
  ) as running:
    yield running.scheduler_address


@pytest.fixture(scope='module')
def job(tmp_path_factory):
  folder = tmp_path_factory.mktemp('scenes')
  for i in range(SCENES):
    image = scene_files.digital_numbers(13, 64, 64, seed=i)
    image[:, :9] = 0  # Nodata, so that the chips differ in what they hold.
    scene_files.write_tiff(folder / f'{i:02d}.tif', image)
  recipe = recipes.Recipe(
    sensor='sentinel2_l1c', chip=32, split=splits.Policy(kind='random')
  )
  return pack.Job(source=str(folder), recipe=recipe)


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch, job):
  """Several shards of small scenes; the plan is made here, by the client."""
  size = max(p.stat().st_size for p in pathlib.Path(job.source).iterdir())
  monkeypatch.setattr(tasks, '_TASK_BYTES', PER_TASK * size)


def content(folder):
  """{file: bytes} of a store, without the report's folder and seconds."""
  found = {
    p.name: p.read_bytes() for p in folder.iterdir() if p.name != '.lock'
  }
  note = files.read_json(folder / 'pack.json')
  del found['pack.json']
  for name in ('folder', 'seconds'):
    del note['report'][name]
  return found | {'note': note}


def die_in_the_middle_of(scene, marker):
  """On a worker: SIGKILL before this scene is cut, once in the cluster."""
  real = cut.cut

  def cut_or_die(found, *args, **kwargs):
    if found.id == scene:
      with contextlib.suppress(FileExistsError):
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        os.kill(os.getpid(), signal.SIGKILL)
    return real(found, *args, **kwargs)

  cut.cut = cut_or_die


def test_a_cluster_that_loses_a_worker_packs_the_same_bytes(
  address, job, tmp_path
):
  local = pack.pack(job, tmp_path / 'local', workers=1)
  marker = tmp_path / 'killed'
  with distributed.Client(address) as client:
    client.run(die_in_the_middle_of, '10', str(marker))
    before = set(client.run(os.getpid).values())
    with cluster.connect(address) as workers:
      report = pack.pack(job, tmp_path / 'cluster', workers=workers)
    client.wait_for_workers(3, timeout=30)
    after = set(client.run(os.getpid).values())
  assert marker.exists() and len(before - after) == 1  # One was killed.
  assert report.samples == local.samples > 0
  expected = content(tmp_path / 'local')
  assert content(tmp_path / 'cluster') == expected
  shards = [name for name in expected if name.endswith('.array_record')]
  assert len(shards) == SCENES // PER_TASK


def test_processes_of_this_machine_pack_the_same_bytes(job, tmp_path):
  for workers in (1, 2):
    pack.pack(job, tmp_path / str(workers), workers=workers)
  assert content(tmp_path / '1') == content(tmp_path / '2')


def test_a_bad_scene_names_its_file(address, job, tmp_path):
  scenes = tmp_path / 'scenes'
  scenes.mkdir()
  for path in sorted(pathlib.Path(job.source).iterdir())[:3]:
    (scenes / path.name).write_bytes(path.read_bytes())
  bad = scenes / '01.tif'
  bad.write_bytes(bad.read_bytes()[:-20_000])
  asked = pack.Job(source=str(scenes), recipe=job.recipe)
  with cluster.connect(address) as workers:
    with pytest.raises(ValueError, match=r'01\.tif is truncated'):
      pack.pack(asked, tmp_path / 'out', workers=workers)
    report = pack.pack(
      asked, tmp_path / 'out', workers=workers, resume='yes', on_bad='skip'
    )
  assert list(report.bad) == [str(bad)] and report.samples > 0


def forget_the_package():
  for name in [n for n in sys.modules if n.startswith('rsfm_jax')]:
    del sys.modules[name]
  sys.modules['rsfm_jax'] = None


def change_the_version():
  tasks.rsfm_jax.__version__ = '0.0.1'


def test_workers_that_cannot_do_the_work_are_named(address):
  with distributed.Client(address) as client:
    client.wait_for_workers(3, timeout=30)
    old, bare, good = client.scheduler_info()['workers']
    client.run(change_the_version, workers=[old])
    client.run(forget_the_package, workers=[bare])
    with pytest.raises(ValueError, match='Install it') as caught:
      cluster.connect(address).__enter__()
    client.restart_workers([old, bare], timeout=30)
  assert f'{old} has 0.0.1' in str(caught.value)
  assert f'{bare} has none' in str(caught.value)
  assert good not in str(caught.value)


def test_a_scene_that_kills_every_worker_is_named(address, job, tmp_path):
  def give_up_at_once(dask_scheduler):
    dask_scheduler.allowed_failures = 0

  with distributed.Client(address) as client:
    client.wait_for_workers(3, timeout=30)
    client.run_on_scheduler(give_up_at_once)
    client.run(die_in_the_middle_of, '10', str(tmp_path / 'killed'))
    with (
      cluster.connect(address) as workers,
      pytest.raises(RuntimeError, match=r'09\.tif to .*11\.tif.*--resume'),
    ):
      pack.pack(job, tmp_path / 'out', workers=workers)
  resumed = pack.pack(job, tmp_path / 'out', resume='yes')
  assert 0 < resumed.resumed < resumed.samples


def test_an_address_where_nobody_answers_is_named(monkeypatch):
  monkeypatch.setattr(cluster, '_CONNECT_SECONDS', 0.5)
  for nowhere in ('tcp://127.0.0.1:9', 'nowhere:8786', 'https:///x'):
    with (
      pytest.raises(OSError, match=f'--scheduler {nowhere}: no dask'),
      cluster.connect(nowhere),
    ):
      pass


def test_a_scheduler_without_workers_is_said(monkeypatch):
  said = []
  monkeypatch.setattr(cluster.log, 'warning', lambda *a: said.append(a))
  with (
    distributed.LocalCluster(
      n_workers=0, processes=False, dashboard_address=':0'
    ) as empty,
    cluster.connect(empty.scheduler_address),
  ):
    pass
  assert len(said) == 1 and 'no workers yet' in said[0][0]


def test_without_dask_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'distributed', None)
  with (
    pytest.raises(RuntimeError, match=r'rsfm-jax\[scale\]'),
    cluster.connect('tcp://127.0.0.1:8786'),
  ):
    pass
