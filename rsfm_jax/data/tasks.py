"""The work of a pack cut into tasks, one shard each, for any worker anywhere.

Which scenes make which shard follows from the list of scenes alone, never from
the workers. A task may run twice, on machines that do not know of each other,
and leaves the same file; a worker needs the folders and this package, nothing
else.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib
import socket
from typing import NamedTuple

import rsfm_jax
from rsfm_jax.core import files
from rsfm_jax.core import uris
from rsfm_jax.data import cut
from rsfm_jax.data import places
from rsfm_jax.data import readers
from rsfm_jax.data import recipe as recipes
from rsfm_jax.data import shards
from rsfm_jax.data import sources

NOTE = 'pack.json'
# Of files, for one shard: what is lost with a worker, and done over by another.
_TASK_BYTES = 64 << 20
# Small files cost their opening, so many of them make a shard.
_SCENE_BYTES = 16 << 10


class Part(NamedTuple):
  """The i-th of n shares of a scene."""

  scene: sources.Scene
  share: tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """One shard to make; travels to the worker.

  Attributes:
    folder: of the store.
    number: of the shard.
    parts: what it is made of, in this order.
    recipe: how.
    source: noted with every sample.
    header: of the store.
    job: digest of the whole job, in the folder's note too.
    versions: of what decides the bytes (see `versions`).
  """

  folder: str
  number: int
  parts: tuple[Part, ...]
  recipe: recipes.Recipe | recipes.Places
  source: str
  header: shards.Header
  job: str
  versions: dict[str, str]

  @property
  def key(self) -> str:
    """Digest of what decides the content of the shard."""
    parts = [(dataclasses.asdict(p.scene), p.share) for p in self.parts]
    return digest([self.job, self.number, parts, self.header.to_json()])

  def __str__(self) -> str:
    first, last = self.parts[0].scene.path, self.parts[-1].scene.path
    names = first if first == last else f'{first} to {last}'
    return f'shard {self.number} of {self.folder} ({names})'


class Outcome(NamedTuple):
  """What became of a task; `bad` maps a scene's file to the reason."""

  samples: int
  nodata: int
  border: int
  pixel_bytes: int
  bad: dict[str, str]


def plan(
  scenes: Sequence[sources.Scene], recipe: recipes.Recipe
) -> list[tuple[Part, ...]]:
  """The parts of every shard, in order.

  Consecutive scenes share a shard up to about 64 MB of files; a larger scene
  that can be read in windows is divided. A scene of unknown size is alone.
  """
  groups: list[tuple[Part, ...]] = []
  group: list[Part] = []
  filled = 0.0
  for part, size in _parts(scenes, recipe):
    if group and filled + size > _TASK_BYTES:
      groups.append(tuple(group))
      group, filled = [], 0.0
    group.append(part)
    filled += size
  return groups + [tuple(group)]


def _parts(scenes, recipe) -> Iterator[tuple[Part, float]]:
  for scene in scenes:
    size, count = scene.size, 1
    if size is None:
      size = _TASK_BYTES
    elif recipe.chip is not None and readers.is_windowed(scene):
      count = max(1, round(size / _TASK_BYTES))
    for i in range(count):
      yield Part(scene, (i, count)), max(size / count, _SCENE_BYTES)


def run(task: Task) -> Outcome:
  """Makes the shard of a task, unless it is there already.

  Raises:
    ValueError: this worker cannot see the folders, or is of another version.
    OSError: the disk is full or fails.
  """
  _check_worker(task)
  if (done := finished(task)) is not None:
    return done
  bad: dict[str, str] = {}
  while True:
    with shards.ShardWriter(
      pathlib.Path(task.folder), task.number, task.header, key=task.key
    ) as writer:
      counts = _fill(writer, task, bad)
      if counts is None:
        continue  # Without what is bad by now.
      outcome = Outcome(len(writer), bad=bad, **dataclasses.asdict(counts))
      _check_worker(task)  # Somebody may have given the folder to another job.
      writer.seal(outcome._asdict())
      return outcome


def _fill(
  writer: shards.ShardWriter, task: Task, bad: dict[str, str]
) -> cut.Counts | None:
  """Writes the samples of all good scenes, and adds to `bad` the others.

  Chips are written while their scene is read, so that a worker holds a strip
  of it and no more. A scene that turns out bad half way has spoiled the shard.

  Returns:
    None then, else what was counted.
  """
  total = cut.Counts()
  for scene, share in task.parts:
    if scene.path in bad:
      continue
    before, counts = len(writer), cut.Counts()
    samples = _samples(scene, task, share, counts)
    while True:
      try:
        sample = next(samples, None)
      except (ValueError, OSError) as error:
        bad[scene.path] = str(error)
        if len(writer) > before:
          return None
        break
      if sample is None:
        total.add(counts)
        break
      writer.add(sample.arrays, **sample.fields)
  return total


def _samples(scene, task: Task, share, counts) -> Iterator[cut.Sample]:
  options = {'source': task.source, 'counts': counts}
  if isinstance(task.recipe, recipes.Places):
    return places.cut_place(scene, task.recipe, **options)
  return cut.cut(scene, task.recipe, part=share, **options)


def finished(task: Task) -> Outcome | None:
  """What a task did when it ran before; None if it has to run.

  A shard that lacks bad scenes does not count: they may have been repaired.
  """
  try:
    journal = shards.read_journal(
      pathlib.Path(task.folder), task.number, task.header
    )
  except ValueError:  # Damaged, or of another store.
    return None
  if journal is None or journal['key'] != task.key or journal['notes']['bad']:
    return None
  return Outcome(**journal['notes'])


def versions() -> dict[str, str]:
  """Of this package and of the one that writes the files."""
  return {
    'rsfm_jax': rsfm_jax.__version__,
    'array_record': importlib.metadata.version('array_record'),
  }


def digest(value) -> str:
  """Of JSON."""
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:32]


def _check_worker(task: Task) -> None:
  """Whether this process may work on the task at all."""
  where = f'the worker on {socket.gethostname()}'
  have = versions()
  if have != task.versions:
    raise ValueError(f'{where} has {have}, the client {task.versions}.')
  note = pathlib.Path(task.folder) / NOTE
  if not note.exists():
    raise ValueError(
      f'{where} does not see {note}: --out must lie on a file system that '
      'all workers share, under the same path.'
    )
  if files.read_json(note)['key'] != task.job or _is_store(task):
    raise ValueError(f'{task.folder} has gone on without {task}.')
  path = task.parts[0].scene.path.partition('!')[0]
  here = uris.scheme(path) == 'local' and not path.startswith('tfds:')
  if here and not pathlib.Path(path).parent.exists():
    raise ValueError(
      f'{where} does not see {path}: scenes must lie where the client sees '
      'them.'
    )


def _is_store(task: Task) -> bool:
  return (pathlib.Path(task.folder) / 'index.json').exists()
