"""The shards of a store: each sealed by a journal, all bound by an index.

A shard is written under a name of its own and renamed when it is whole; only
then its journal appears beside it. So whoever writes it, in whatever process
and however often, leaves either nothing or the same file. The index is made of
the journals alone and is written last.
"""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import errno
import importlib.metadata
import json
import os
import pathlib
from typing import Any
import uuid

from array_record.python import array_record_module
import numpy as np
import safetensors.numpy

from rsfm_jax.core import files
from rsfm_jax.data import samples
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import statistics

FORMAT = 'rsfm_jax.store/1'
_JOURNAL = 'rsfm_jax.journal/3'
# One record a group: random access decodes nothing but what it asked for.
# zstd:1 packs uint16 DN to 0.77-0.84 and complex SAR to 0.22 of their size;
# faster settings leave the DN as large as they are (docs/packing.md).
OPTIONS = 'group_size:1,zstd:1'
_STATISTICS_PIXELS = 1 << 17
_NO_SPLIT = ''  # How JSON names the samples without a split.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
  """What all shards of a store share.

  Attributes:
    sensors: `{name: contract}`; records hold `<name>/image`.
    classes: names of the classes that `label` counts, or None.
  """

  sensors: Mapping[str, contract.Sensor]
  classes: Sequence[str] | None = None

  def to_json(self) -> dict[str, Any]:
    """Equal to what a journal or an index holds."""
    sensors = {name: s.to_json() for name, s in self.sensors.items()}
    header = {'format': FORMAT, 'sensors': sensors, 'classes': self.classes}
    return json.loads(json.dumps(header))


class ShardWriter:
  """Writes one shard; a context manager that drops what was not sealed.

  Args:
    folder: of the store.
    number: of the shard.
    header: of the store.
    key: noted in the journal; tells whether a shard that is there is the one
      that is wanted.
    taken: ids in use; those of the samples are added to it.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    number: int,
    header: Header,
    *,
    key: str = '',
    taken: set[str] | None = None,
  ):
    self.bytes = 0  # Of raw arrays, so far.
    self._shard, self._journal = paths(folder, number)
    self._header = header
    self._key = key
    self._ids = set() if taken is None else taken
    self._rows: list[dict[str, Any]] = []
    self._pending: dict[tuple[str, str], list[np.ndarray]] = {}
    self._seen: dict[tuple[str, str], statistics.Accumulator] = {}
    # Two workers may write the same shard when one was taken for dead.
    self._part = self._shard.with_suffix(f'.{uuid.uuid4().hex[:12]}.part')
    self._writer: Any = None

  def __enter__(self) -> 'ShardWriter':
    return self

  def __exit__(self, kind, error, traceback) -> None:
    self.drop()

  def __len__(self) -> int:
    return len(self._rows)

  def add(self, arrays: Mapping[str, np.ndarray], **sample: Any) -> None:
    """Appends one sample; see `StoreWriter.add`."""
    sensors = self._header.sensors
    arrays = {k: np.asarray(v, order='C') for k, v in arrays.items()}
    row = samples.row(sample, classes=self._header.classes, taken=self._ids)
    where = f'sample {row["id"]!r} of {self._shard.parent}'
    present = samples.check(arrays, sensors, bands=row['bands'], where=where)
    for name, have in (row['bands'] or {}).items():
      arrays[f'{name}/band_valid'] = np.array(
        [band in have for band in sensors[name].band_names]
      )
    self._write(safetensors.numpy.save(arrays))
    for name in present:
      self._observe(arrays, name, row['split'] or _NO_SPLIT)
    self._rows.append(row)
    self._ids.add(row['id'])
    self.bytes += sum(a.nbytes for a in arrays.values())

  def seal(self, notes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Makes the shard whole: close, sync, rename, journal.

    Args:
      notes: JSON that travels in the journal.

    Returns:
      The journal. Without samples there is a journal but no file.

    Raises:
      OSError: the disk is full or fails; the shard has no journal then.
    """
    try:
      shard = None if self._writer is None else self._close()
      for key in list(self._pending):
        self._flush(key)
      states: dict[str, dict[str, Any]] = {n: {} for n in self._header.sensors}
      for (name, split), seen in self._seen.items():
        states[name][split] = seen.to_json()
      journal = self._header.to_json() | {
        'journal': _JOURNAL,
        'key': self._key,
        'shard': shard,
        'rows': self._rows,
        'statistics': states,
        'notes': dict(notes or {}),
      }
      # Without the indents of `files.write_json`, which cost a shard 50 ms.
      files.write_text(self._journal, json.dumps(journal, sort_keys=True))
    except (OSError, RuntimeError) as error:
      self._fail(error)
    self._rows = []
    return journal

  def drop(self) -> None:
    """Forgets what was not sealed."""
    if self._writer is not None:
      with contextlib.suppress(OSError, RuntimeError):
        self._writer.close()
      self._writer = None
    self._part.unlink(missing_ok=True)
    self._ids.difference_update(row['id'] for row in self._rows)
    self._rows = []

  def _write(self, record: bytes) -> None:
    try:
      if self._writer is None:
        self._writer = array_record_module.ArrayRecordWriter(
          str(self._part), OPTIONS
        )
      self._writer.write(record)
    except (OSError, RuntimeError) as error:
      self._fail(error)

  def _close(self) -> dict[str, Any]:
    self._writer.close()
    self._writer = None
    with open(self._part, 'rb') as file:
      os.fsync(file.fileno())
    described = {
      'file': self._shard.name,
      'records': len(self._rows),
      'bytes': self._part.stat().st_size,
      'sha256': files.sha256(self._part),
    }
    os.replace(self._part, self._shard)
    return described

  def _fail(self, error: Exception) -> None:
    self.drop()
    # ArrayRecord reports a full disk as a RuntimeError in words.
    full = 'No space left' in str(error)
    code = getattr(error, 'errno', errno.ENOSPC if full else errno.EIO)
    raise OSError(
      code,
      f'could not write {self._shard}: {error}; whole shards are kept, resume '
      'the pack when there is space',
    ) from error

  def _observe(self, arrays: Mapping[str, Any], name: str, split: str) -> None:
    """Queues pixels: one large update costs far less than many small ones."""
    dates, valid = samples.pixels(arrays, name)
    pixels = dates.reshape(-1, dates.shape[-1])
    if valid is not None:
      pixels = pixels[valid.reshape(-1)]
    if (band_valid := arrays.get(f'{name}/band_valid')) is not None:
      pixels = pixels.astype(np.float32)
      pixels[:, ~band_valid] = np.nan  # Left out of the statistics.
    pending = self._pending.setdefault((name, split), [])
    pending.append(pixels)
    if sum(map(len, pending)) >= _STATISTICS_PIXELS:
      self._flush((name, split))

  def _flush(self, key: tuple[str, str]) -> None:
    pending = self._pending.pop(key)
    if key not in self._seen:
      bands = self._header.sensors[key[0]].band_names
      self._seen[key] = statistics.Accumulator(bands)
    self._seen[key].update(np.concatenate(pending))


def paths(
  folder: pathlib.Path, number: int
) -> tuple[pathlib.Path, pathlib.Path]:
  """The file of a shard and its journal."""
  name = f'shard-{number:05d}'
  return folder / f'{name}.array_record', folder / f'{name}.json'


def read_journal(
  folder: pathlib.Path, number: int, header: Header
) -> dict[str, Any] | None:
  """The journal of a whole shard; None when there is none.

  Raises:
    ValueError: it is damaged, of another store, or its shard is.
  """
  path = paths(folder, number)[1]
  if not path.exists():
    return None
  journal = files.read_json(path)
  expected = header.to_json() | {'journal': _JOURNAL}
  different = [k for k, v in expected.items() if journal.get(k) != v]
  if different:
    raise ValueError(f'{path}: cannot resume with other {different}.')
  if journal['shard']:
    check_size(folder / journal['shard']['file'], journal['shard']['bytes'])
  return journal


def check_size(path: pathlib.Path, size: int) -> None:
  """Raises ValueError unless the file is there and as long as it was."""
  actual = path.stat().st_size if path.exists() else None
  if actual != size:
    state = 'missing' if actual is None else f'{actual} of {size} bytes long'
    raise ValueError(f'{path} is damaged: it is {state}.')


def check_new(folder: pathlib.Path, *, resume: bool) -> None:
  """Raises ValueError where a store, or an unexpected unfinished one, is."""
  if (folder / 'index.json').exists():
    raise ValueError(f'{folder} is a store already; choose another.')
  if not resume and any(folder.glob('shard-*')):
    raise ValueError(
      f'{folder} holds an unfinished pack; resume it or delete it.'
    )


def discard(folder: pathlib.Path, *, keep: Sequence[int]) -> None:
  """Removes whatever is not the shard or the journal of a kept number."""
  kept = {path for number in keep for path in paths(folder, number)}
  for path in folder.glob('shard-*'):
    if path not in kept:
      path.unlink()


def write_index(folder: pathlib.Path, header: Header, *, shards: int) -> None:
  """Makes a store of sealed shards: the index, then the journals go.

  Args:
    folder: holds the journals of all of them.
    header: of the store.
    shards: how many; they are bound in the order of their numbers.

  Raises:
    ValueError: a journal is missing, an id occurs twice, or no sample at all.
  """
  files_, rows = [], []
  totals = {
    n: statistics.Accumulator(s.band_names) for n, s in header.sensors.items()
  }
  splits: dict[str, dict[str, statistics.Accumulator]] = {n: {} for n in totals}
  for number in range(shards):
    journal = read_journal(folder, number, header)
    if journal is None:
      raise ValueError(
        f'{paths(folder, number)[1]} is missing; resume the pack.'
      )
    if journal['shard']:
      files_.append(journal['shard'])
    rows += journal['rows']
    for name, states in journal['statistics'].items():
      for split, state in states.items():
        part = statistics.Accumulator.from_json(state)
        totals[name].merge(part)
        empty = statistics.Accumulator(part.bands)
        splits[name].setdefault(split, empty).merge(part)
  ids = {row['id'] for row in rows}
  if not rows or len(ids) < len(rows):
    what = 'two samples share an id' if rows else 'no sample was added'
    raise ValueError(f'{folder}: {what}, so no store.')
  if len({row['split'] for row in rows}) == 1:
    splits = dict.fromkeys(totals, {})  # Those of all samples say it all.
  index = header.to_json() | {
    'shards': files_,
    'samples': _columns(rows),
    'statistics': {n: _summary(totals[n], splits[n]) for n in totals},
    'created_with': {
      'array_record': importlib.metadata.version('array_record'),
      'options': OPTIONS,
    },
  }
  files.write_json(folder / 'index.json', index)
  for path in (*folder.glob('shard-*.json'), *folder.glob('shard-*.part')):
    path.unlink()


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  columns = {c: [row[c] for row in rows] for c in samples.COLUMNS}
  return {
    c: None if all(v is None for v in values) else values
    for c, values in columns.items()
  }


def _summary(total, splits: Mapping[str, Any]) -> dict[str, Any]:
  """Statistics of a sensor; `Store.accumulator_of` reads them."""
  summary = {'state': total.to_json(), 'result': total.result().to_json()}
  if splits:
    summary['splits'] = {s: part.to_json() for s, part in splits.items()}
  return summary
