"""Packs scenes into a store: many workers, resumable, never half.

The work is cut into tasks (see `tasks`), handed to an executor, of processes
here or of a cluster, and bound by an index when all of them are done.
"""

import collections
from collections.abc import Mapping, Sequence
from concurrent import futures
import contextlib
import dataclasses
import json
import pathlib
import time
from typing import Any, Literal

from rsfm_jax.core import choices
from rsfm_jax.core import files
from rsfm_jax.core import progress
from rsfm_jax.core import uris
from rsfm_jax.data import places
from rsfm_jax.data import recipe as recipes
from rsfm_jax.data import shards
from rsfm_jax.data import sources
from rsfm_jax.data import store
from rsfm_jax.data import tasks
from rsfm_jax.data import workers as pools
from rsfm_jax.data.datasets import registry

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
    recipe: how its scenes, or its places, become samples.
    pattern: shell pattern of paths within the source; the layers of places
      have their own.
    label: 'folder' or 'none'; a table or TFDS gives labels by itself.
    table: CSV of file, label, split (see `sources.scenes`).
    dataset: name of a data set for `datasets.registry.get`, which lists
      the scenes of the source; `pattern` and `label` are its own then.
    extent: 'part' of a data set does without its published numbers.
  """

  source: str
  recipe: recipes.Recipe | recipes.Places
  name: str = ''
  pattern: str = '*'
  label: Literal['folder', 'none'] = 'none'
  table: str = ''
  dataset: str = ''
  extent: Literal['whole', 'part'] = 'whole'


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


def pack(
  job: Job,
  folder: files.Path,
  *,
  workers: int | futures.Executor | None = 1,
  resume: Literal['no', 'yes'] = 'no',
  on_bad: OnBad = 'auto',
) -> Report:
  """Makes the store of a job.

  The store is a function of its job: who packs it, and how often it was
  interrupted, changes no byte. `pack.json` in the folder holds the job, later
  with the report, which tells folder and seconds too.

  Args:
    job: what to pack.
    folder: new, or that of a killed pack when resuming.
    workers: processes (see `workers.local`), or an executor (`cluster`).
    resume: 'yes' keeps the shards that the same job has sealed.
    on_bad: 'stop' at the first bad scene; 'skip' and report it; 'auto' skips
      up to a tenth of the scenes, so it stops for a single one.

  Raises:
    ValueError: bad input (see on_bad), no chip left, another job on resume.
    OSError: the disk is full; whole shards stay for a resume.
    RuntimeError: workers died, or another pack holds the folder.
  """
  choices.check(on_bad, ('auto', 'stop', 'skip'), key='on_bad')
  folder = uris.local(folder, what='a store', by='its writer', access='write')
  start = time.monotonic()
  found = _scenes(job)
  report = Report(folder=str(folder), scenes=len(found))
  limit = {'stop': 0, 'skip': len(found)}.get(
    on_bad, int(_MAX_BAD_SHARE * len(found))
  )
  header = shards.Header(
    sensors=job.recipe.sensors,
    classes=_classes(job, found),
  )
  with files.exclusive(folder):
    shards.check_new(folder, resume=resume == 'yes')
    if resume == 'yes':
      _check_same_job(folder, job)
    _write_note(folder, job, None)  # The folder is ours, and empty or same.
    work = _tasks(job, folder, found, header)
    kept = {
      task.number: outcome
      for task in work
      if (outcome := tasks.finished(task)) is not None
    }
    shards.discard(folder, keep=list(kept))
    report.resumed = sum(outcome.samples for outcome in kept.values())
    done = kept | _run(work, kept, workers, report, limit)
    for task in work:
      _count(report, done[task.number])
    if not report.samples:
      raise ValueError(_nothing(job, report))
    shards.write_index(folder, header, shards=len(work))
    report.pixel_bytes -= sum(o.pixel_bytes for o in kept.values())
    splits = store.Store(folder).column('split')
    report.splits = dict(collections.Counter(splits))
    report.seconds = time.monotonic() - start
    _write_note(folder, job, dataclasses.asdict(report))
  return report


def _scenes(job: Job) -> Sequence[sources.Scene]:
  if isinstance(job.recipe, recipes.Places):
    return places.scenes(job.source, job.recipe)
  if job.dataset:
    given = job.recipe.split.kind == 'table'
    return registry.get(job.dataset).scenes(
      job.source,
      extent=job.extent,
      table=job.table,
      divided='given' if given else 'later',
    )
  return sources.scenes(
    job.source,
    sensor=job.recipe.source,
    pattern=job.pattern,
    label=job.label,
    table=job.table,
  )


def _classes(job: Job, found: Sequence[sources.Scene]) -> list[str] | None:
  """Names of what labels count."""
  if job.dataset:
    return list(registry.get(job.dataset).names) or None
  return sources.classes(job.source, found)


def _tasks(job: Job, folder: pathlib.Path, found, header) -> list[tasks.Task]:
  shared = {
    # A worker may start elsewhere.
    'folder': str(folder.resolve()),
    'recipe': job.recipe,
    'source': job.name or job.source,
    'header': header,
    'job': _digest(job),
    'versions': tasks.versions(),
  }
  return [
    tasks.Task(number=number, parts=parts, **shared)
    for number, parts in enumerate(tasks.plan(found, job.recipe))
  ]


def _run(
  work: Sequence[tasks.Task],
  kept: Mapping[int, tasks.Outcome],
  workers: int | futures.Executor | None,
  report: Report,
  limit: int,
) -> dict[int, tasks.Outcome]:
  """Outcomes by number of the tasks that are not kept, whoever does them."""
  todo = [task for task in work if task.number not in kept]
  done: dict[int, tasks.Outcome] = {}
  bad: dict[str, str] = {}
  what = pathlib.Path(report.folder).name
  with (
    _executor(workers, len(todo)) as executor,
    progress.bar(
      total=len(work), initial=len(kept), what=what, unit='shard'
    ) as bar,
  ):
    pending = {executor.submit(tasks.run, task): task for task in todo}
    try:
      for future in futures.as_completed(pending):
        task = pending[future]
        outcome = done[task.number] = _result(future, task)
        bad |= outcome.bad
        _check_bad(bad, report, limit)
        bar.update()
    finally:
      for future in pending:
        future.cancel()
  return done


def _executor(workers: int | futures.Executor | None, count: int):
  """What runs `count` tasks; no more processes are started than those."""
  if isinstance(workers, futures.Executor):
    return contextlib.nullcontext(workers)
  most = pools.available() if workers is None else workers
  return pools.local(min(most, max(count, 1)))


def _result(future: futures.Future, task: tasks.Task) -> tasks.Outcome:
  try:
    return future.result()
  except (ValueError, OSError):
    raise  # Says what it is about.
  except Exception as error:  # A worker that died raises what its pool likes.
    reason = str(error) or 'given up, as when a scheduler ends.'
    raise RuntimeError(
      f'{task}: {type(error).__name__}: {reason} Sealed shards are kept, so '
      '--resume goes on; a worker that vanishes often lacked memory.'
    ) from error


def _check_bad(bad: Mapping[str, str], report: Report, limit: int) -> None:
  if len(bad) <= limit:
    return
  last = list(bad.values())[-1]
  if limit == 0:
    raise ValueError(last)
  raise ValueError(
    f'{len(bad)} bad scenes of {report.scenes}; the last: {last}'
    ' (--on_bad skip goes on regardless)'
  )


def _count(report: Report, outcome: tasks.Outcome) -> None:
  report.samples += outcome.samples
  report.nodata += outcome.nodata
  report.border += outcome.border
  report.pixel_bytes += outcome.pixel_bytes
  report.bad |= outcome.bad


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
  path = folder / tasks.NOTE
  if not path.exists():
    return
  before, now = _flat(files.read_json(path)['job']), _flat(_as_json(job))
  other = sorted(k for k in before | now if before.get(k) != now.get(k))
  if other:
    changes = [f'{k}: {before.get(k)} -> {now.get(k)}' for k in other]
    raise ValueError(f'{path} was packed otherwise: {"; ".join(changes)}.')


def _digest(job: Job) -> str:
  return tasks.digest(_as_json(job))


def _write_note(folder: pathlib.Path, job: Job, report) -> None:
  note = {'job': _as_json(job), 'key': _digest(job), 'report': report}
  files.write_json(folder / tasks.NOTE, note)


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
  note = folder / tasks.NOTE
  return note.exists() and files.read_json(note)['job'] == _as_json(job)
