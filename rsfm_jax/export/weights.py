"""Safetensors in parts: written and read without holding a whole file.

The format: eight bytes with the length of a JSON header, the header with
names, types, shapes and places, then the arrays one after another.
"""

from collections.abc import Callable, Iterable, Mapping
import hashlib
import json
import math
import os
import pathlib
from typing import Any, NamedTuple
import uuid

import jax.numpy as jnp
import numpy as np
import safetensors

from rsfm_jax.core import files
from rsfm_jax.train import checkpoint

# Names of types in a header.
TYPES = {
  'BOOL': np.bool_,
  'I8': np.int8,
  'I16': np.int16,
  'I32': np.int32,
  'I64': np.int64,
  'U8': np.uint8,
  'U16': np.uint16,
  'U32': np.uint32,
  'U64': np.uint64,
  'F16': np.float16,
  'BF16': jnp.bfloat16,
  'F32': np.float32,
  'F64': np.float64,
}
_NAMES = {np.dtype(value): name for name, value in TYPES.items()}


class Entry(NamedTuple):
  """An array to write: its blocks come one after another when asked for."""

  shape: tuple[int, ...]
  dtype: Any
  blocks: Callable[[], Iterable[np.ndarray]]

  @property
  def bytes(self) -> int:
    return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def write(
  path: files.Path,
  entries: Mapping[str, Entry],
  metadata: Mapping[str, str],
  *,
  before: Callable[[str], None],
) -> str:
  """Writes a file that is whole or absent.

  Args:
    path: of the file.
    entries: by name.
    metadata: of the header.
    before: called with the content hash when all is written, before the file
      appears; if it fails, the file never does.

  Returns:
    The content hash of the arrays, as `checkpoint.content_hash`.

  Raises:
    ValueError: a type that could not be read back.
    OSError: no room; nothing is left.
  """
  path = pathlib.Path(path)
  header, place = {'__metadata__': dict(metadata)}, 0
  for name in sorted(entries):
    shape, dtype, _ = entries[name]
    if np.dtype(dtype) not in _NAMES:
      raise ValueError(
        f'{name} is {dtype}; a model folder holds {", ".join(TYPES)}.'
      )
    end = place + entries[name].bytes
    header[name] = {
      'dtype': _NAMES[np.dtype(dtype)],
      'shape': list(shape),
      'data_offsets': [place, end],
    }
    place = end
  text = json.dumps(header).encode()
  text += b' ' * (-len(text) % 8)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex[:12]}.tmp')
  try:
    try:
      with open(temporary, 'wb') as file:
        file.write(len(text).to_bytes(8, 'little') + text)
        digest = _write_arrays(file, entries)
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
      raise OSError(error.errno, f'could not write {path}: {error}') from error
    before(digest)
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
  return digest


def _write_arrays(file: Any, entries: Mapping[str, Entry]) -> str:
  digest = hashlib.sha256()
  for name in sorted(entries):
    entry = entries[name]
    checkpoint.identify(digest, name, entry.dtype, entry.shape)
    written = 0
    for block in entry.blocks():
      data = np.ascontiguousarray(block).tobytes()
      digest.update(data)
      file.write(data)
      written += len(data)
    assert written == entry.bytes, (name, written, entry.bytes)
  return digest.hexdigest()


class Stored:
  """An array of a file; indexing by leading integers reads that part."""

  def __init__(self, path: pathlib.Path, start: int, entry: Mapping[str, Any]):
    self._path = path
    self._start = start + entry['data_offsets'][0]
    self.shape = tuple(entry['shape'])
    self.dtype = np.dtype(TYPES[entry['dtype']])

  def __getitem__(self, index: Any) -> np.ndarray:
    lead = () if index is Ellipsis else tuple(np.atleast_1d(index).tolist())
    shape, place = self.shape[len(lead) :], 0
    for size, i in zip(self.shape, lead, strict=False):
      assert 0 <= i < size, (self.shape, index)
      place = place * size + i
    count = math.prod(shape)
    data = np.fromfile(
      self._path,
      np.uint8,
      count * self.dtype.itemsize,
      offset=self._start + place * count * self.dtype.itemsize,
    )
    return data.view(self.dtype).reshape(shape)


def stored(path: files.Path) -> dict[str, Stored]:
  """The arrays of a file by name; nothing is read but the header.

  Raises:
    ValueError: no whole safetensors file, or a type that is not known.
  """
  path = pathlib.Path(path)
  try:
    # Judges the header: places, shapes and the length of the file.
    with safetensors.safe_open(path, framework='np'):
      pass
  except (safetensors.SafetensorError, OSError) as error:
    raise ValueError(f'{path} is damaged: {error}') from error
  with open(path, 'rb') as file:
    size = int.from_bytes(file.read(8), 'little')
    header = json.loads(file.read(size))
  header.pop('__metadata__', None)
  for name, entry in header.items():
    if entry['dtype'] not in TYPES:
      raise ValueError(
        f'{path}: {name} is {entry["dtype"]}, not one of {list(TYPES)}.'
      )
  return {name: Stored(path, 8 + size, entry) for name, entry in header.items()}
