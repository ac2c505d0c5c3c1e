"""One result, one JSON line; a file of them only ever grows by whole lines."""

from collections.abc import Iterable, Sequence
import dataclasses
import fcntl
import json
import os
import pathlib
from typing import Any, Protocol, TypeVar

import numpy as np

from rsfm_jax.core import files

FORMAT = 'rsfm_jax.row/1'


@dataclasses.dataclass(frozen=True)
class Row:
  """A measured value and all that is needed to compare it with another one.

  Attributes:
    name: what was measured, e.g. 'random init'.
    dataset: name and variant.
    protocol: a name of `protocols`.
    protocol_version: raised whenever the protocol's numbers may change.
    normalisation: how pixels were normalised before the encoder.
    metric: a name of `metrics.COUNTED` or of `outcomes.metrics_of`.
    value: the metric on the test split, 0 to 1; errors in their target's unit.
    low: lower end of the 95 % interval over test samples.
    high: upper end.
    checkpoint: content hash; empty for baselines without parameters.
    missing_bands: the policy for bands that the data lacks.
    n_train: samples that the final classifier was fitted on.
    n_test: samples that the value was measured on.
    seconds: wall time of the fit and its choices; of several seeds in one
      program, their share.
    metrics: all of `metrics.names_of`, on the test split.
    chosen: what validation chose, and how well the fit converged.
    n_val: samples of the validation split; 0 where there is none.
    width: of the features; 0 where there are none.
    predictions: int[n_test] or bits [n_test, L] for paired comparisons; in
      memory only.
  """

  name: str
  dataset: str
  protocol: str
  protocol_version: int
  normalisation: str
  metric: str
  value: float
  low: float
  high: float
  checkpoint: str
  missing_bands: str
  n_train: int
  n_test: int
  seconds: float
  metrics: dict[str, float] = dataclasses.field(default_factory=dict)
  chosen: dict[str, Any] = dataclasses.field(default_factory=dict)
  n_val: int = 0
  width: int = 0
  predictions: np.ndarray | None = dataclasses.field(
    default=None, repr=False, compare=False
  )

  def to_json(self) -> dict[str, Any]:
    out = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    del out['predictions']
    return {'format': FORMAT, **out}

  @classmethod
  def from_json(cls, record: dict[str, Any]) -> 'Row':
    """Inverse of `to_json`.

    Raises:
      ValueError: another format, or missing or unknown fields.
    """
    record = dict(record)
    if record.pop('format', None) != FORMAT:
      raise ValueError(f'A row must have "format": "{FORMAT}".')
    try:
      return cls(**record)
    except TypeError as error:
      raise ValueError(f'A row with wrong fields: {error}') from error


class Line(Protocol):
  """What a JSONL file of results holds."""

  def to_json(self) -> dict[str, Any]: ...

  @classmethod
  def from_json(cls, record: dict[str, Any]) -> 'Line': ...


AnyLine = TypeVar('AnyLine', bound=Line)


def append(path: files.Path, rows: Iterable[Line]) -> None:
  """Adds rows to a JSONL file: all of them or, on an error, none.

  Writers in several processes take turns. A half line that a killed writer
  left at the end is removed first.

  Raises:
    OSError: the rows could not be written; the file is as before.
  """
  lines = [json.dumps(row.to_json(), allow_nan=False) + '\n' for row in rows]
  data = ''.join(lines).encode()
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, 'a+b') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    file.seek(0)
    whole = file.read().rfind(b'\n') + 1
    file.truncate(whole)
    try:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    except OSError as error:
      os.ftruncate(file.fileno(), whole)
      raise OSError(error.errno, f'could not write {path}: {error}') from error


def read(path: files.Path, *, kind: type[AnyLine] = Row) -> list[AnyLine]:
  """All whole rows of a JSONL file; an unfinished last line is not a row.

  Raises:
    ValueError: a damaged line, with its number.
  """
  text = pathlib.Path(path).read_text()
  out = []
  for number, line in enumerate(text.split('\n')[:-1], start=1):
    try:
      out.append(kind.from_json(json.loads(line)))
    except ValueError as error:
      raise ValueError(f'{path}, line {number}: {error}') from error
  return out


def markdown(rows: Sequence[Row]) -> str:
  """A table: one line a name and dataset, one column a protocol and metric."""
  columns = list(dict.fromkeys((row.protocol, row.metric) for row in rows))
  lines = list(dict.fromkeys((row.name, row.dataset) for row in rows))
  # The latest row of a cell counts: files only grow.
  cells = {
    (row.name, row.dataset, row.protocol, row.metric): (
      f'{100 * row.value:.1f} ({100 * row.low:.1f}-{100 * row.high:.1f})'
    )
    for row in rows
  }
  head = ['name', 'dataset', *(f'{p}, {m} %' for p, m in columns)]
  body = [
    [*line, *(cells.get((*line, *column), '') for column in columns)]
    for line in lines
  ]
  table = [head, ['---', '---', *('--:' for _ in columns)], *body]
  return ''.join(f'| {" | ".join(line)} |\n' for line in table)
