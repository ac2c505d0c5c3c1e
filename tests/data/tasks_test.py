"""Tasks: the same shards from the same scenes, made once, by anybody fit."""

import dataclasses
import pathlib
import pickle

import pytest

from rsfm_jax.core import files
from rsfm_jax.data import recipe as recipes
from rsfm_jax.data import shards
from rsfm_jax.data import sources
from rsfm_jax.data import tasks
from tests.data import scene_files

RECIPE = recipes.Recipe(sensor='sentinel2_l1c', chip=32)
MB = 1 << 20


def scene(name, size):
  return sources.Scene(id=name, files=(('', f'/in/{name}'),), size=size)


def plan(*scenes, recipe=RECIPE):
  return [
    [(part.scene.id, part.share) for part in group]
    for group in tasks.plan(scenes, recipe)
  ]


def test_scenes_share_a_shard_until_it_is_full():
  small = [scene(f'{i}.tif', 30 * MB) for i in range(5)]
  numbers = [[name[0] for name, _ in group] for group in plan(*small)]
  assert numbers == [['0', '1'], ['2', '3'], ['4']]


def test_a_large_scene_is_divided_if_it_can_be_read_in_windows():
  assert plan(scene('a.tif', 200 * MB)) == [
    [('a.tif', (i, 3))] for i in range(3)
  ]
  assert plan(scene('a.npy', 200 * MB)) == [[('a.npy', (0, 1))]]
  whole = dataclasses.replace(RECIPE, chip=None)
  assert plan(scene('a.tif', 200 * MB), recipe=whole) == [[('a.tif', (0, 1))]]


def test_tiny_scenes_count_their_opening():
  many = plan(*[scene(f'{i:05d}.png', 0) for i in range(5000)])
  assert [len(group) for group in many] == [4096, 904]


def test_a_scene_of_unknown_size_is_alone():
  found = plan(scene('a.tif', 10), scene('b.tif', None), scene('c.tif', 10))
  assert [[name for name, _ in group] for group in found] == [
    ['a.tif'],
    ['b.tif'],
    ['c.tif'],
  ]


@pytest.fixture
def task(tmp_path):
  """Three scenes into one shard."""
  for i in range(3):
    image = scene_files.digital_numbers(13, 64, 64, seed=i)
    scene_files.write_tiff(tmp_path / 'in' / f'{i}.tif', image)
  found = sources.scenes(str(tmp_path / 'in'), sensor=RECIPE.source)
  out = tmp_path / 'out'
  files.write_json(out / tasks.NOTE, {'key': 'of the job'})
  (parts,) = tasks.plan(found, RECIPE)
  return tasks.Task(
    folder=str(out),
    number=7,
    parts=parts,
    recipe=RECIPE,
    source='test',
    header=shards.Header(sensors={RECIPE.target.name: RECIPE.target}),
    job='of the job',
    versions=tasks.versions(),
  )


def content(task):
  return {p.name: p.read_bytes() for p in pathlib.Path(task.folder).iterdir()}


def test_a_task_leaves_one_shard_and_its_journal(task):
  assert tasks.finished(task) is None
  outcome = tasks.run(pickle.loads(pickle.dumps(task)))
  assert outcome == tasks.Outcome(12, 0, 0, 3 * 13 * 64 * 64 * 2, {})
  assert sorted(content(task)) == [
    'pack.json',
    'shard-00007.array_record',
    'shard-00007.json',
  ]
  assert tasks.finished(task) == outcome


def test_a_task_that_ran_before_is_not_done_again(task, monkeypatch):
  outcome, before = tasks.run(task), content(task)

  def never(*args, **kwargs):
    raise AssertionError

  with monkeypatch.context() as patch:
    patch.setattr(tasks.cut, 'cut', never)
    assert tasks.run(task) == outcome
  (pathlib.Path(task.folder) / 'shard-00007.json').unlink()
  tasks.run(task)  # Killed before its journal: once more, the same.
  assert content(task) == before


def test_a_damaged_or_other_shard_is_made_again(task):
  tasks.run(task)
  fewer = dataclasses.replace(task, parts=task.parts[:2])
  assert tasks.finished(fewer) is None
  shard = pathlib.Path(task.folder) / 'shard-00007.array_record'
  shard.write_bytes(shard.read_bytes()[:-5])
  assert tasks.finished(task) is None


@pytest.mark.parametrize(
  ('left', 'begun'),
  [(0.1, 1), (0.9, 2)],  # Bad at once, or after a chip was written.
)
def test_a_bad_scene_is_left_out_and_tried_again(
  task, monkeypatch, left, begun
):
  writers = []

  def writer(*args, **kwargs):
    writers.append(real(*args, **kwargs))
    return writers[-1]

  real = shards.ShardWriter
  monkeypatch.setattr(shards, 'ShardWriter', writer)
  path = pathlib.Path(task.parts[1].scene.path)
  whole = path.read_bytes()
  path.write_bytes(whole[: int(left * len(whole))])
  outcome = tasks.run(task)
  assert list(outcome.bad) == [str(path)] and len(writers) == begun
  assert '1.tif is truncated' in outcome.bad[str(path)]
  assert outcome[:4] == (8, 0, 0, 2 * 13 * 64 * 64 * 2)
  journal = shards.read_journal(
    pathlib.Path(task.folder), task.number, task.header
  )
  assert {row['id'][0] for row in journal['rows']} == {'0', '2'}
  count = journal['statistics']['sentinel2_l1c']['train']['moments'][0][0]
  assert count == 8 * 32 * 32  # No pixel of the bad scene.
  assert tasks.finished(task) is None
  path.write_bytes(whole)
  assert tasks.run(task).samples == 12


def test_a_task_without_samples_has_a_journal_but_no_shard(task):
  for path in pathlib.Path(task.parts[0].scene.path).parent.iterdir():
    image = scene_files.digital_numbers(13, 64, 64) * 0
    scene_files.write_tiff(path, image)
  assert tasks.run(task).nodata == 12
  assert sorted(content(task)) == ['pack.json', 'shard-00007.json']
  assert tasks.finished(task).nodata == 12


def test_a_worker_that_is_not_fit_says_why(task):
  with pytest.raises(ValueError, match='does not see .*all workers share'):
    tasks.run(dataclasses.replace(task, folder='/nowhere/out'))
  other = task.versions | {'rsfm_jax': '0.0.1'}
  with pytest.raises(ValueError, match="the client .*'rsfm_jax': '0.0.1'"):
    tasks.run(dataclasses.replace(task, versions=other))
  away = task.parts[0].scene
  away = dataclasses.replace(away, files=(('', '/nowhere/in/0.tif'),))
  parts = (tasks.Part(away, (0, 1)),)
  with pytest.raises(ValueError, match='does not see /nowhere/in/0.tif'):
    tasks.run(dataclasses.replace(task, parts=parts))


def test_a_folder_that_went_to_another_job_is_left_alone(task, monkeypatch):
  real = tasks.cut.cut

  def slow(*args, **kwargs):
    files.write_json(pathlib.Path(task.folder) / tasks.NOTE, {'key': 'new'})
    return real(*args, **kwargs)

  monkeypatch.setattr(tasks.cut, 'cut', slow)
  with pytest.raises(ValueError, match='gone on without shard 7'):
    tasks.run(task)
  assert sorted(content(task)) == ['pack.json']
