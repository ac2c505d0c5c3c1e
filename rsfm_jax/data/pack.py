"""Packs scenes into a store: parallel readers, resumable, never half."""

import collections
from collections.abc import Iterator, Sequence
from concurrent import futures
import dataclasses
import json
import os
import pathlib
import time
from typing import Any, Literal, NamedTuple

from rsfm_jax.core import choices
from rsfm_jax.core import files
from rsfm_jax.core import progress
from rsfm_jax.data import cut
from rsfm_jax.data import readers
from rsfm_jax.data import recipe as recipes
from rsfm_jax.data import sources
from rsfm_jax.data import store

# Windowed scenes are shared out among readers in parts of about this size.
_PART_BYTES = 32 << 20
# Among many scenes a few bad ones are skipped; more than this share is a
# mistake in the recipe rather than in the files.
_MAX_BAD_SHARE = 0.1

OnBad = Literal['auto', 'stop', 'skip']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """One store to make.

  Attributes:
    source: folder, .zip, scene file or 'tfds:NAME'.
    name: `source` of the samples' index; '' for the path.
    recipe: how its scenes become samples.
    pattern: shell pattern of paths within the source.
    label: 'folder' or 'none'; a table or TFDS gives labels by itself.
    table: CSV of file, label, split (see `sources.scenes`).
  """

  source: str
  recipe: recipes.Recipe
  name: str = ''
  pattern: str = '*'
  label: Literal['folder', 'none'] = 'none'
  table: str = ''


@dataclasses.dataclass(kw_only=True)
class Report:
  """What a pack did; `bad` maps a scene's file to the reason it was skipped."""

  folder: str
  scenes: int = 0
  samples: int = 0
  resumed: int = 0
  splits: dict[str, int] = dataclasses.field(default_factory=dict)
  nodata: int = 0
  border: int = 0
  bad: dict[str, str] = dataclasses.field(default_factory=dict)
  seconds: float = 0.0
  pixel_bytes: int = 0

  def lines(self) -> list[str]:
    """The summary that a person reads."""
    splits = ', '.join(f'{k} {v}' for k, v in sorted(self.splits.items()))
    rate = self.pixel_bytes / 1e6 / max(self.seconds, 1e-9)
    lines = [
      f'{self.folder}: {self.samples} samples ({splits}) of {self.scenes} '
      f'scenes in {self.seconds:.1f} s, {rate:.0f} MB/s of raw pixels'
    ]
    if self.resumed:
      lines.append(f'  {self.resumed} samples were there from before')
    if self.nodata:
      lines.append(f'  {self.nodata} chips skipped for nodata')
    if self.border:
      lines.append(f'  {self.border} chips skipped between splits')
    if self.bad:
      lines.append(f'  {len(self.bad)} scenes skipped as bad:')
      lines += [f'    {reason}' for reason in self.bad.values()]
    return lines


class _Task(NamedTuple):
  scene: sources.Scene
  part: tuple[int, int]


def pack(
  job: Job,
  folder: files.Path,
  *,
  workers: int | None = None,
  resume: Literal['no', 'yes'] = 'no',
  on_bad: OnBad = 'auto',
) -> Report:
  """Makes the store of a job.

  Samples are written in the order of the scenes' ids whatever the workers, so
  that a store is a function of its job. `pack.json` in the folder holds the
  job, later with the report.

  Args:
    job: what to pack.
    folder: new, or that of a killed pack when resuming.
    workers: reader threads; None for one per core.
    resume: 'yes' goes on after the last whole shard of the same job.
    on_bad: 'stop' at the first bad scene; 'skip' and report it; 'auto' skips
      up to a tenth of the scenes, so it stops for a single one.

  Raises:
    ValueError: bad input (see on_bad), no chip left, another job on resume.
    OSError: the disk is full; whole shards stay for a resume.
  """
  choices.check(on_bad, ('auto', 'stop', 'skip'), key='on_bad')
  folder = pathlib.Path(folder)
  recipe = job.recipe
  start = time.monotonic()
  found = sources.scenes(
    job.source,
    sensor=recipe.source,
    pattern=job.pattern,
    label=job.label,
    table=job.table,
  )
  if resume == 'yes':
    _check_same_job(folder, job)
  report = Report(folder=str(folder), scenes=len(found))
  limit = {'stop': 0, 'skip': len(found)}.get(
    on_bad, int(_MAX_BAD_SHARE * len(found))
  )
  with store.StoreWriter(
    folder,
    sensors={recipe.target.name: recipe.target},
    classes=sources.classes(job.source, found),
    resume=resume == 'yes',
  ) as writer:
    report.resumed = len(writer)
    _write_note(folder, job, None)  # The folder is ours, and empty or same.
    tasks = [task for scene in found for task in _tasks(scene, recipe)]
    bar = progress.bar(total=len(tasks), what=folder.name, unit='part')
    with bar:
      for task, result in _run(tasks, job, writer.has, workers):
        _take(result, task, writer, report, limit)
        bar.update()
    report.samples = len(writer)
    if not report.samples:
      raise ValueError(_nothing(job, report))
  made = store.Store(folder)
  report.splits = dict(collections.Counter(made.column('split')))
  report.seconds = time.monotonic() - start
  _write_note(folder, job, dataclasses.asdict(report))
  return report


def _tasks(scene: sources.Scene, recipe: recipes.Recipe) -> Iterator[_Task]:
  parts = 1
  if recipe.chip is not None and readers.is_windowed(scene):
    parts = max(1, scene.size // _PART_BYTES)
  for i in range(parts):
    yield _Task(scene, (i, parts))


def _run(tasks: Sequence[_Task], job: Job, known, workers: int | None):
  """Yields (task, future) in order while readers work ahead of the writer."""
  workers = workers or os.cpu_count() or 1
  with futures.ThreadPoolExecutor(workers) as pool:
    ahead: collections.deque = collections.deque()
    try:
      for task in tasks:
        if len(ahead) >= 2 * workers:
          yield ahead.popleft()
        future = pool.submit(
          cut.cut,
          task.scene,
          job.recipe,
          source=job.name or job.source,
          part=task.part,
          known=known,
        )
        ahead.append((task, future))
      while ahead:
        yield ahead.popleft()
    finally:
      pool.shutdown(cancel_futures=True)


def _take(future, task: _Task, writer, report: Report, limit: int) -> None:
  """Writes the samples of a part; counts a bad scene, or gives up."""
  try:
    cuts: cut.Cuts = future.result()
  except (ValueError, OSError) as error:
    report.bad[task.scene.path] = str(error)
    if len(report.bad) > limit:
      if limit == 0:
        raise
      raise ValueError(
        f'{len(report.bad)} bad scenes of {report.scenes}; the last: {error}'
        ' (--on_bad skip goes on regardless)'
      ) from error
    return
  for sample in cuts.samples:
    writer.add(sample.arrays, **sample.fields)
  report.nodata += cuts.nodata
  report.border += cuts.border
  report.pixel_bytes += cuts.pixel_bytes


def _nothing(job: Job, report: Report) -> str:
  return (
    f'{job.source} gives no sample: {report.nodata} chips have more than '
    f'max_nodata={job.recipe.max_nodata} nodata, {report.border} lie between '
    f'splits, {len(report.bad)} scenes are bad'
    f'{": " + next(iter(report.bad.values())) if report.bad else ""}.'
  )


def _as_json(job: Job) -> dict[str, Any]:
  return json.loads(json.dumps(dataclasses.asdict(job)))


def _check_same_job(folder: pathlib.Path, job: Job) -> None:
  """Refuses to resume with another job, naming what differs."""
  path = folder / 'pack.json'
  if not path.exists():
    return
  before, now = _flat(files.read_json(path)['job']), _flat(_as_json(job))
  other = sorted(k for k in before | now if before.get(k) != now.get(k))
  if other:
    changes = [f'{k}: {before.get(k)} -> {now.get(k)}' for k in other]
    raise ValueError(f'{path} was packed otherwise: {"; ".join(changes)}.')


def _write_note(folder: pathlib.Path, job: Job, report) -> None:
  files.write_json(
    folder / 'pack.json', {'job': _as_json(job), 'report': report}
  )


def _flat(value: Any, prefix: str = '') -> dict[str, Any]:
  if not isinstance(value, dict):
    return {prefix.rstrip('.'): value}
  return {
    k: v
    for key, item in value.items()
    for k, v in _flat(item, f'{prefix}{key}.').items()
  }


def is_done(job: Job, folder: files.Path) -> bool:
  """Whether `folder` is already the finished store of this very job."""
  folder = pathlib.Path(folder)
  if not (folder / 'index.json').exists():
    return False
  note = folder / 'pack.json'
  return note.exists() and files.read_json(note)['job'] == _as_json(job)
