"""Where numbers of a run go: JSON lines and TensorBoard scalars."""

from collections.abc import Mapping
import json
import math
import pathlib
from typing import Any, Protocol

import jax
import numpy as np
import tensorboardX

from rsfm_jax.core import files


class Writer(Protocol):
  """Takes `{name: number or small array}` of a step."""

  def write(self, step: int, values: Mapping[str, Any]) -> None: ...

  def close(self) -> None: ...


class JsonLines:
  """One JSON object a row with its `step`, on disk when `write` returns.

  A number that is not finite becomes null, since JSON has no word for it.
  """

  def __init__(self, path: files.Path, *, after: int = 0):
    """Keeps the rows up to step `after`; a resumed run writes the rest anew."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
      rows = [json.dumps(row) for row in read(path) if row['step'] <= after]
      files.write_text(path, ''.join(f'{row}\n' for row in rows))
    self._file = open(path, 'a')

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    row = {'step': step} | {k: _plain(v) for k, v in values.items()}
    self._file.write(json.dumps(row, allow_nan=False) + '\n')
    self._file.flush()

  def close(self) -> None:
    self._file.close()


class TensorBoard:
  """Scalars as TensorBoard events; arrays are left to the JSON lines."""

  def __init__(self, folder: files.Path, *, after: int = 0):
    # Events of steps after `after` are marked void: they come again.
    self._writer = tensorboardX.SummaryWriter(
      str(folder), purge_step=after + 1 if after else None, flush_secs=10
    )

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
      if np.ndim(value) == 0 and np.isreal(value):
        self._writer.add_scalar(name, float(value), step)

  def close(self) -> None:
    self._writer.close()


def of_run(workdir: files.Path, *, after: int = 0) -> list[Writer]:
  """`metrics.jsonl` and `tensorboard/` of a workdir; none off host 0."""
  if jax.process_index():
    return []
  workdir = pathlib.Path(workdir)
  return [
    JsonLines(workdir / 'metrics.jsonl', after=after),
    TensorBoard(workdir / 'tensorboard', after=after),
  ]


def read(path: files.Path) -> list[dict[str, Any]]:
  """The rows of a JSON-lines file; a half-written last row is dropped.

  Raises:
    ValueError: a row that is not the last one is damaged.
  """
  lines = pathlib.Path(path).read_text().splitlines()
  rows = []
  for number, line in enumerate(lines, 1):
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError as error:
      if number < len(lines):
        raise ValueError(f'{path}, row {number}: {error}') from error
  return rows


def _plain(value: Any) -> Any:
  """Python numbers, and lists of them, for JSON."""
  value = np.asarray(value).tolist()
  if isinstance(value, list):
    return [_plain(v) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
