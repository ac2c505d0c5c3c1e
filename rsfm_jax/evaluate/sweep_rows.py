"""Jobs of a sweep and what became of them, one JSON line a job."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any, NamedTuple

from rsfm_jax.core import files
from rsfm_jax.evaluate import protocols
from rsfm_jax.evaluate import rows as rows_lib

FORMAT = 'rsfm_jax.sweep_row/1'
PATTERN = 'rows*.jsonl'  # One file a writer of a sweep's folder.


@dataclasses.dataclass(frozen=True)
class Job:
  """One cell of the grid.

  Attributes:
    checkpoint: its name in the config; empty for features of raw pixels.
    variant: what of it: 'whole', 'random init', a way to prune, or a baseline.
    dataset: its name in the config.
    protocol: a name of `protocols.PRESETS`.
    label_fraction: share of the training labels.
    seed: of the choice of labels, of the probe and of the bootstrap.
  """

  checkpoint: str
  variant: str
  dataset: str
  protocol: str
  label_fraction: float
  seed: int

  @property
  def name(self) -> str:
    """What is measured, as tables call it."""
    return ': '.join(part for part in (self.checkpoint, self.variant) if part)

  @property
  def fits(self) -> int:
    """Classifiers that the job fits."""
    return protocols.get(self.protocol).fits

  def __str__(self) -> str:
    return (
      f'{self.name}, {self.dataset}, {self.protocol}, '
      f'{100 * self.label_fraction:g} % of labels, seed {self.seed}'
    )


@dataclasses.dataclass(frozen=True)
class Result:
  """What became of a job.

  Attributes:
    job: which.
    row: what was measured; None where the job failed.
    error: why it failed, else empty.
    features: key of the features, or empty where none could be told.
    source: 'cached' or 'encoded' features; empty where it failed before.
    seconds: wall time of the job, without features.
  """

  job: Job
  row: rows_lib.Row | None
  error: str = ''
  features: str = ''
  source: str = ''
  seconds: float = 0.0

  @property
  def status(self) -> str:
    return 'failed' if self.row is None else 'done'

  def to_json(self) -> dict[str, Any]:
    return {
      'format': FORMAT,
      'status': self.status,
      'job': dataclasses.asdict(self.job),
      'row': None if self.row is None else self.row.to_json(),
      'error': self.error,
      'features': self.features,
      'source': self.source,
      'seconds': self.seconds,
    }

  @classmethod
  def from_json(cls, record: Mapping[str, Any]) -> 'Result':
    """Inverse of `to_json`.

    Raises:
      ValueError: another format, or missing or unknown fields.
    """
    record = dict(record)
    if record.pop('format', None) != FORMAT:
      raise ValueError(f'A row of a sweep must have "format": "{FORMAT}".')
    record.pop('status', None)
    try:
      job, row = Job(**record.pop('job')), record.pop('row')
      row = None if row is None else rows_lib.Row.from_json(row)
      return cls(job=job, row=row, **record)
    except (TypeError, KeyError) as error:
      raise ValueError(f'A row with wrong fields: {error}') from error


class Piece(NamedTuple):
  """Piece `index` of `count` of the jobs.

  Jobs that share features stand together, so that a piece encodes little that
  another one encodes too; pieces of pieces are pieces: i/n is the sum of
  (2 i)/(2 n) and (2 i + 1)/(2 n).
  """

  index: int
  count: int

  def of(self, jobs: Sequence[Any]) -> list[Any]:
    start, stop = (
      len(jobs) * i // self.count for i in (self.index, self.index + 1)
    )
    return list(jobs[start:stop])

  def parts(self, count: int) -> list['Piece']:
    whole = self.count * count
    return [Piece(self.index * count + i, whole) for i in range(count)]

  def file(self, folder: files.Path) -> pathlib.Path:
    """Where its rows go."""
    if self.count == 1:
      return pathlib.Path(folder) / 'rows.jsonl'
    return pathlib.Path(folder) / f'rows.{self.index}-of-{self.count}.jsonl'


def read(folder: files.Path) -> list[Result]:
  """All rows of a sweep, by file.

  Raises:
    ValueError: a damaged line, with its file and number.
  """
  return [
    result
    for path in sorted(pathlib.Path(folder).glob(PATTERN))
    for result in rows_lib.read(path, kind=Result)
  ]


class Found:
  """Results by job and features; of several, one that is done."""

  def __init__(self, results: Iterable[Result]):
    self._results: dict[tuple[Job, str], Result] = {}
    for result in results:
      key = (result.job, result.features)
      if result.row is not None or key not in self._results:
        self._results[key] = result

  def of(self, job: Job, features: str) -> Result | None:
    """What became of a job with these features; None where it never ran."""
    return self._results.get((job, features))

  def is_done(self, job: Job, features: str) -> bool:
    """Whether it needs no run; rules of an older version do not count."""
    found = self.of(job, features)
    if found is None or found.row is None:
      return False
    return found.row.protocol_version == protocols.get(job.protocol).version
