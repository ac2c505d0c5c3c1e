"""Stores: folders of ArrayRecord shards that an index makes whole.

A record is one sample, a safetensors blob of the arrays that `samples`
describes. `index.json` is written last and atomically: a folder without it is
not a store. Until then every whole shard has a journal beside it, from which
a killed pack resumes at the shard that it was writing.
"""

from collections.abc import Mapping, Sequence
import contextlib
from typing import Any

import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.core import files
from rsfm_jax.core import uris
from rsfm_jax.data import records
from rsfm_jax.data import samples
from rsfm_jax.data import shards
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import statistics

_SHARD_BYTES = 128 << 20


class StoreWriter:
  """Writes a store in this process; finishes on a clean exit.

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
    self.folder = uris.local(
      folder, what='a store', by='its writer', access='write'
    )
    self._header = shards.Header(sensors=dict(sensors), classes=classes)
    self._shard_bytes = shard_bytes
    self._resources = contextlib.ExitStack()
    self._resources.enter_context(files.exclusive(self.folder))
    self._writer: shards.ShardWriter | None = None
    self._ids: set[str] = set()
    self._sealed = 0
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
    if self._writer is None:
      self._writer = shards.ShardWriter(
        self.folder, self._sealed, self._header, taken=self._ids
      )
    try:
      self._writer.add(arrays, **sample)
    except OSError:
      self._writer = None  # Its statistics have seen what was lost.
      raise
    if self._writer.bytes >= self._shard_bytes:
      self._seal()

  def finish(self) -> 'Store':
    """Seals the last shard and writes the index; the folder is a store now.

    Raises:
      ValueError: nothing was added.
    """
    self._seal()
    shards.write_index(self.folder, self._header, shards=self._sealed)
    self.close()
    return Store(self.folder)

  def close(self) -> None:
    """Stops without an index; whole shards stay for a resume."""
    if self._writer is not None:
      self._writer.drop()
    self._resources.close()

  def __enter__(self) -> 'StoreWriter':
    return self

  def __exit__(self, kind, error, traceback) -> None:
    if kind is None and not (self.folder / 'index.json').exists():
      self.finish()
    self.close()

  def _recover(self, resume: bool) -> None:
    """Takes over whole shards of a killed pack and removes the rest."""
    shards.check_new(self.folder, resume=resume)
    while journal := shards.read_journal(
      self.folder, self._sealed, self._header
    ):
      self._ids.update(row['id'] for row in journal['rows'])
      self._sealed += 1
    shards.discard(self.folder, keep=range(self._sealed))

  def _seal(self) -> None:
    writer, self._writer = self._writer, None
    if writer is not None and len(writer):
      writer.seal()
      self._sealed += 1


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
    self.folder = uris.local(
      folder, what='a store', by='its reader', access='read'
    )
    path = self.folder / 'index.json'
    if not path.exists():
      raise ValueError(
        f'{self.folder} is not a store: it has no index.json. A pack that '
        'was stopped can be resumed.'
      )
    self.index = files.read_json(path)
    if self.index.get('format') != shards.FORMAT:
      raise ValueError(
        f'{path}: format={self.index.get("format")!r}, expected '
        f'{shards.FORMAT!r}.'
      )
    self.sensors = {
      name: contract.Sensor.from_json(value)
      for name, value in self.index['sensors'].items()
    }
    self.classes: list[str] | None = self.index['classes']
    for shard in self.index['shards']:
      shards.check_size(self.folder / shard['file'], shard['bytes'])
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

  def accumulator_of(
    self, sensor: str, split: str | None = None
  ) -> statistics.Accumulator:
    """The statistics of a sensor in the form that merges exactly.

    Args:
      sensor: name in the store.
      split: of the samples that count; None for all.

    Raises:
      ValueError: no such sensor or split, or a store that was packed before
        statistics were kept per split.
    """
    choices.check(sensor, self.sensors, key=f'sensor of {self.folder}')
    kept = self.index['statistics'][sensor]
    if split is None or len(self.indices(split)) == len(self):
      return statistics.Accumulator.from_json(kept['state'])
    if 'splits' not in kept:
      raise ValueError(
        f'{self.folder}/index.json has no statistics of split={split!r} '
        'alone: it was packed before they were kept. Pack it again.'
      )
    if split not in kept['splits']:  # Its samples lack this sensor.
      return statistics.Accumulator(self.sensors[sensor].band_names)
    return statistics.Accumulator.from_json(kept['splits'][split])

  def statistics_of(self, sensor: str) -> statistics.Statistics:
    choices.check(sensor, self.sensors, key=f'sensor of {self.folder}')
    result = self.index['statistics'][sensor]['result']
    return statistics.Statistics.from_json(result)

  def source(self, split: str | None = None) -> records.Records:
    """The samples of a split as a Grain source of dicts of arrays."""
    found = [
      (str(self.folder / shard['file']), shard['records'])
      for shard in self.index['shards']
    ]
    return records.Records(found, self.indices(split))

  def verify(self) -> None:
    """Compares every shard with its checksum.

    Raises:
      ValueError: names the first damaged file.
    """
    for shard in self.index['shards']:
      path = self.folder / shard['file']
      if files.sha256(path) != shard['sha256']:
        raise ValueError(f'{path} is damaged: its SHA-256 has changed.')
