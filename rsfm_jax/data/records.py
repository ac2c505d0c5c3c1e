"""Random access to the records of ArrayRecord shards, damage named."""

from collections.abc import Sequence
import pathlib
import threading
from typing import Any

from array_record.python import array_record_module
import numpy as np
import safetensors
import safetensors.numpy

# Nothing is read ahead: the next sample is somewhere else.
_READER_OPTIONS = 'readahead_buffer_size:0,max_parallelism:0'


class Records:
  """Random access to samples: a Grain source, picklable, safe for threads.

  Attributes:
    shards: `(path, number of records)` each.
    indices: int [N], the samples of the store, in order.
  """

  def __init__(self, shards: Sequence[tuple[str, int]], indices: np.ndarray):
    self.shards = tuple(shards)
    self.indices = indices
    self._ends = np.cumsum([count for _, count in self.shards])
    self._reset()

  def _reset(self) -> None:
    self._readers: list[Any] = [None] * len(self.shards)
    self._lock = threading.Lock()

  def __getstate__(self):
    return {'shards': self.shards, 'indices': self.indices, 'ends': self._ends}

  def __setstate__(self, state):
    self.shards, self.indices = state['shards'], state['indices']
    self._ends = state['ends']
    self._reset()

  def __repr__(self) -> str:
    folder = pathlib.Path(self.shards[0][0]).parent
    return f'Records({folder}, {len(self.indices)} samples)'

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, i: int) -> dict[str, np.ndarray]:
    """The arrays of one sample.

    Raises:
      ValueError: the record is damaged; names file and record.
    """
    i = int(self.indices[i])
    shard = int(np.searchsorted(self._ends, i, side='right'))
    path, count = self.shards[shard]
    record = i - int(self._ends[shard]) + count
    try:
      (data,) = self._reader(shard).read([record])
      return safetensors.numpy.load(data)
    except (RuntimeError, IndexError, safetensors.SafetensorError) as error:
      raise ValueError(
        f'{path}: record {record} is damaged: {error}'
      ) from error

  def _reader(self, shard: int) -> Any:
    reader = self._readers[shard]
    if reader is None:
      with self._lock:
        path, count = self.shards[shard]
        reader = array_record_module.ArrayRecordReader(
          path, _READER_OPTIONS, file_reader_buffer_size=32768
        )
        if not reader.ok() or reader.num_records() != count:
          raise ValueError(
            f'{path} is damaged: {reader.num_records()} of {count} records '
            'are readable.'
          )
        self._readers[shard] = reader
    return reader
