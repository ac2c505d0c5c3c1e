"""Stores: folders of ArrayRecord shards that an index makes whole.

A record is one sample, a safetensors blob of the arrays that `samples`
describes. `index.json` is written last and atomically: a folder without it is
not a store. Until then every whole shard has a journal beside it, from which
a killed pack resumes at the shard that it was writing.
"""

from collections.abc import Mapping, Sequence
import contextlib
import errno
import importlib.metadata
import json
import os
import pathlib
from typing import Any

from array_record.python import array_record_module
import numpy as np
import safetensors.numpy

from rsfm_jax.core import choices
from rsfm_jax.core import files
from rsfm_jax.data import records
from rsfm_jax.data import samples
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import statistics

FORMAT = 'rsfm_jax.store/1'
# One record a group: random access decodes nothing but what it asked for.
# zstd:1 reads 1.3 x faster than the default level and packs as small.
_OPTIONS = 'group_size:1,zstd:1'
_SHARD_BYTES = 128 << 20
_STATISTICS_PIXELS = 1 << 17


class StoreWriter:
  """Writes a store; a context manager that finishes on a clean exit.

  Args:
    folder: new, empty, or (with `resume`) the folder of a killed pack.
    sensors: `{name: contract}`; records hold `<name>/image`.
    classes: names of the classes that `label` counts.
    resume: keep the whole shards of a killed pack; skip what `has` reports.
      Without it, leftovers of a pack are an error.
    shard_bytes: of raw arrays; a kill loses at most one shard of work.

  Raises:
    ValueError: the folder holds a store, or leftovers that do not fit.
    RuntimeError: another process is writing there.
  """

  def __init__(
    self,
    folder: files.Path,
    *,
    sensors: Mapping[str, contract.Sensor],
    classes: Sequence[str] | None = None,
    resume: bool = False,
    shard_bytes: int = _SHARD_BYTES,
  ):
    self.folder = pathlib.Path(folder)
    self.sensors = dict(sensors)
    self.classes = None if classes is None else list(classes)
    self._shard_bytes = shard_bytes
    self._resources = contextlib.ExitStack()
    self._resources.enter_context(files.exclusive(self.folder))
    self._writer: Any = None
    self._ids: set[str] = set()
    self._journals: list[dict[str, Any]] = []
    try:
      self._recover(resume)
    except BaseException:
      self._resources.close()
      raise

  def has(self, sample_id: str) -> bool:
    """Whether a sample is already written: skip it when resuming."""
    return sample_id in self._ids

  def __len__(self) -> int:
    return len(self._ids)

  def add(self, arrays: Mapping[str, np.ndarray], **sample: Any) -> None:
    """Appends one sample.

    Args:
      arrays: see `samples`.
      **sample: `id` (new) and any other of `samples.COLUMNS`; `label` may
        be the name of a class; `bands` is `{sensor: names present}` where a
        sensor lacks some of its bands.

    Raises:
      ValueError: arrays or fields do not fit the contract.
      OSError: the disk is full or fails; whole shards stay for a resume.
    """
    arrays = {k: np.asarray(v, order='C') for k, v in arrays.items()}
    row = samples.row(sample, classes=self.classes, taken=self._ids)
    where = f'sample {row["id"]!r} of {self.folder}'
    present = samples.check(
      arrays, self.sensors, bands=row['bands'], where=where
    )
    for name, have in (row['bands'] or {}).items():
      arrays[f'{name}/band_valid'] = np.array(
        [band in have for band in self.sensors[name].band_names]
      )
    if self._writer is None:
      self._open()
    self._write(safetensors.numpy.save(arrays))
    for sensor in present:
      self._observe(arrays, sensor)
    self._rows.append(row)
    self._ids.add(row['id'])
    self._bytes += sum(a.nbytes for a in arrays.values())
    if self._bytes >= self._shard_bytes:
      self._seal()

  def finish(self) -> 'Store':
    """Seals the last shard and writes the index; the folder is a store now.

    Raises:
      ValueError: nothing was added.
    """
    if self._writer is not None:
      self._seal()
    if not self._ids:
      raise ValueError(f'{self.folder}: no sample was added, so no store.')
    rows = [row for j in self._journals for row in j['rows']]
    columns = {c: [row[c] for row in rows] for c in samples.COLUMNS}
    index = self._header() | {
      'shards': [j['shard'] for j in self._journals],
      'samples': {
        c: None if all(v is None for v in values) else values
        for c, values in columns.items()
      },
      'statistics': {s: self._merged(s) for s in self.sensors},
      'created_with': {
        'array_record': importlib.metadata.version('array_record'),
        'options': _OPTIONS,
      },
    }
    files.write_json(self.folder / 'index.json', index)
    for path in self.folder.glob('shard-*.json'):
      path.unlink()
    self.close()
    return Store(self.folder)

  def close(self) -> None:
    """Stops without an index; whole shards stay for a resume."""
    if self._writer is not None:
      self._drop()
    self._resources.close()

  def __enter__(self) -> 'StoreWriter':
    return self

  def __exit__(self, kind, error, traceback) -> None:
    if kind is None and not (self.folder / 'index.json').exists():
      self.finish()
    self.close()

  def _header(self) -> dict[str, Any]:
    sensors = {name: s.to_json() for name, s in self.sensors.items()}
    # Through JSON, so that it compares equal to what a journal holds.
    return json.loads(
      json.dumps(
        {'format': FORMAT, 'sensors': sensors, 'classes': self.classes}
      )
    )

  def _recover(self, resume: bool) -> None:
    """Takes over whole shards of a killed pack and removes the rest."""
    if (self.folder / 'index.json').exists():
      raise ValueError(f'{self.folder} is a store already; choose another.')
    leftovers = sorted(self.folder.glob('shard-*'))
    if leftovers and not resume:
      raise ValueError(
        f'{self.folder} holds an unfinished pack; resume it or delete it.'
      )
    kept = set()
    for path in sorted(self.folder.glob('shard-*.json')):
      journal = files.read_json(path)
      different = [k for k, v in self._header().items() if journal[k] != v]
      if different:
        raise ValueError(f'{path}: cannot resume with other {different}.')
      shard = self.folder / journal['shard']['file']
      _check_size(shard, journal['shard']['bytes'])
      self._journals.append(journal)
      self._ids.update(row['id'] for row in journal['rows'])
      kept |= {path, shard}
    for path in leftovers:
      if path not in kept:
        path.unlink()

  def _open(self) -> None:
    self._name = f'shard-{len(self._journals):05d}.array_record'
    self._part = self.folder / f'{self._name}.part'
    self._rows: list[dict[str, Any]] = []
    self._bytes = 0
    self._pending = {name: [] for name in self.sensors}
    self._seen = {
      name: statistics.Accumulator(sensor.band_names)
      for name, sensor in self.sensors.items()
    }
    self._writer = array_record_module.ArrayRecordWriter(
      str(self._part), _OPTIONS
    )

  def _write(self, record: bytes) -> None:
    try:
      self._writer.write(record)
    except (OSError, RuntimeError) as error:
      self._fail(error)

  def _fail(self, error: Exception) -> None:
    part = self._part
    self._drop()
    # ArrayRecord reports a full disk as a RuntimeError in words.
    full = 'No space left' in str(error)
    code = getattr(error, 'errno', errno.ENOSPC if full else errno.EIO)
    raise OSError(
      code,
      f'could not write {part}: {error}; whole shards are kept, resume the '
      'pack when there is space',
    ) from error

  def _drop(self) -> None:
    """Forgets the shard being written."""
    with contextlib.suppress(OSError, RuntimeError):
      self._writer.close()
    self._writer = None
    self._part.unlink(missing_ok=True)
    self._ids.difference_update(row['id'] for row in self._rows)

  def _seal(self) -> None:
    """Makes the current shard whole: close, sync, rename, journal."""
    try:
      self._writer.close()
      with open(self._part, 'rb') as file:
        os.fsync(file.fileno())
      digest = files.sha256(self._part)
      size = self._part.stat().st_size
      os.replace(self._part, self.folder / self._name)
      for sensor in self.sensors:
        self._flush(sensor)
      journal = self._header() | {
        'shard': {
          'file': self._name,
          'records': len(self._rows),
          'bytes': size,
          'sha256': digest,
        },
        'rows': self._rows,
        'statistics': {s: a.to_json() for s, a in self._seen.items()},
      }
      path = (self.folder / self._name).with_suffix('.json')
      files.write_json(path, journal)
    except (OSError, RuntimeError) as error:
      self._fail(error)
    self._journals.append(journal)
    self._writer = None

  def _observe(self, arrays: Mapping[str, np.ndarray], name: str) -> None:
    """Queues pixels: one large update costs far less than many small ones."""
    image, valid = arrays[f'{name}/image'], arrays.get(f'{name}/valid')
    pixels = image.reshape(-1, image.shape[-1])
    if valid is not None:
      pixels = pixels[valid.reshape(-1)]
    if (band_valid := arrays.get(f'{name}/band_valid')) is not None:
      pixels = pixels.astype(np.float32)
      pixels[:, ~band_valid] = np.nan  # Left out of the statistics.
    self._pending[name].append(pixels)
    if sum(map(len, self._pending[name])) >= _STATISTICS_PIXELS:
      self._flush(name)

  def _flush(self, name: str) -> None:
    if self._pending[name]:
      self._seen[name].update(np.concatenate(self._pending[name]))
      self._pending[name] = []

  def _merged(self, sensor: str) -> dict[str, Any]:
    total = statistics.Accumulator(self.sensors[sensor].band_names)
    for journal in self._journals:
      part = statistics.Accumulator.from_json(journal['statistics'][sensor])
      total.merge(part)
    return {'state': total.to_json(), 'result': total.result().to_json()}


class Store:
  """A finished store, opened by its index.

  Attributes:
    folder: where it is.
    index: content of index.json.
    sensors: `{name: contract}`.
    classes: names, or None.

  Raises:
    ValueError: no store, another format, or a shard that is cut short.
  """

  def __init__(self, folder: files.Path):
    self.folder = pathlib.Path(folder)
    path = self.folder / 'index.json'
    if not path.exists():
      raise ValueError(
        f'{self.folder} is not a store: it has no index.json. A pack that '
        'was stopped can be resumed.'
      )
    self.index = files.read_json(path)
    if self.index.get('format') != FORMAT:
      raise ValueError(
        f'{path}: format={self.index.get("format")!r}, expected {FORMAT!r}.'
      )
    self.sensors = {
      name: contract.Sensor.from_json(value)
      for name, value in self.index['sensors'].items()
    }
    self.classes: list[str] | None = self.index['classes']
    for shard in self.index['shards']:
      _check_size(self.folder / shard['file'], shard['bytes'])
    self._records = self.source()

  def __len__(self) -> int:
    return sum(shard['records'] for shard in self.index['shards'])

  def read(self, i: int) -> dict[str, np.ndarray]:
    """The arrays of sample i; damage is a ValueError naming the record."""
    return self._records[i]

  def column(self, name: str) -> list[Any]:
    """One of `samples.COLUMNS`, a value (or None) per sample."""
    values = self.index['samples'][
      choices.check(name, samples.COLUMNS, key='column')
    ]
    return [None] * len(self) if values is None else values

  def indices(self, split: str | None = None) -> np.ndarray:
    """int [N]: samples of a split, in order; all of them for None.

    Raises:
      ValueError: no sample has this split.
    """
    if split is None:
      return np.arange(len(self))
    splits = self.column('split')
    have = sorted({s for s in splits if s is not None})
    choices.check(split, have, key=f'split of {self.folder}')
    return np.flatnonzero([s == split for s in splits])

  def labels(self, split: str | None = None) -> np.ndarray:
    """The labels of a split, in order; int [N] for one class per sample.

    Raises:
      ValueError: a sample without a label.
    """
    column = self.column('label')
    labels = [column[i] for i in self.indices(split)]
    if any(label is None for label in labels):
      raise ValueError(
        f'{self.folder}: split={split!r} has unlabelled samples.'
      )
    return np.asarray(labels)

  def accumulator_of(self, sensor: str) -> statistics.Accumulator:
    """The statistics of a sensor in the form that merges exactly."""
    choices.check(sensor, self.sensors, key=f'sensor of {self.folder}')
    state = self.index['statistics'][sensor]['state']
    return statistics.Accumulator.from_json(state)

  def statistics_of(self, sensor: str) -> statistics.Statistics:
    choices.check(sensor, self.sensors, key=f'sensor of {self.folder}')
    result = self.index['statistics'][sensor]['result']
    return statistics.Statistics.from_json(result)

  def source(self, split: str | None = None) -> records.Records:
    """The samples of a split as a Grain source of dicts of arrays."""
    shards = [
      (str(self.folder / shard['file']), shard['records'])
      for shard in self.index['shards']
    ]
    return records.Records(shards, self.indices(split))

  def verify(self) -> None:
    """Compares every shard with its checksum.

    Raises:
      ValueError: names the first damaged file.
    """
    for shard in self.index['shards']:
      path = self.folder / shard['file']
      if files.sha256(path) != shard['sha256']:
        raise ValueError(f'{path} is damaged: its SHA-256 has changed.')


def _check_size(path: pathlib.Path, size: int) -> None:
  actual = path.stat().st_size if path.exists() else None
  if actual != size:
    state = 'missing' if actual is None else f'{actual} of {size} bytes long'
    raise ValueError(f'{path} is damaged: it is {state}.')
