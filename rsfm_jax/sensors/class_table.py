"""Names of classes and what a text encoder makes of them: one frozen table.

A table is a folder of two small files: `class_table.safetensors` (vectors) and
`class_table.json` (names, origin, checksum), which is written last: a folder
without it is no table. Where the vectors come from is part of the table and
goes into the config and the report of a run.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any, Self
import zipfile

import numpy as np
import safetensors
import safetensors.numpy

from rsfm_jax.core import choices
from rsfm_jax.core import files

FORMAT = 'rsfm_jax.class_table/1'
UNLABELLED = 255  # In a mask of u8 codes.
FALLBACK = 'fallback: directions hashed from the names, without meaning'

_VECTORS, _HEADER = 'class_table.safetensors', 'class_table.json'
_TOLERANCE = 1e-4  # Of the length of a vector.


@dataclasses.dataclass(frozen=True)
class ClassTable:
  """Vectors of classes, in the order of the codes of a mask.

  Attributes:
    names: of the classes; code i of a mask means names[i].
    vectors: f32 [K, E], of length 1.
    origin: what made the vectors, for people.

  Raises:
    ValueError: names that are not unique, or vectors that are not finite, of
      length 1, and one per name.
  """

  names: tuple[str, ...]
  vectors: np.ndarray
  origin: str

  def __post_init__(self):
    names, vectors = self.names, self.vectors
    again = sorted({name for name in names if names.count(name) > 1})
    if again or not names or not all(names) or len(names) > UNLABELLED:
      raise ValueError(
        f'a class table needs 1 to {UNLABELLED} names, each once; it has '
        f'{len(names)}, twice: {again}.'
      )
    if vectors.dtype != np.float32 or vectors.shape[:-1] != (len(names),):
      raise ValueError(
        f'vectors are {vectors.dtype} {vectors.shape}, not float32 [K, E] of '
        f'{len(names)} classes.'
      )
    lengths = np.linalg.norm(vectors, axis=1)
    wrong = ~(np.abs(lengths - 1) < _TOLERANCE)  # True for NaN.
    if wrong.any():
      raise ValueError(
        f'vectors of {[n for n, w in zip(names, wrong) if w]} do not have '
        'length 1.'
      )
    if not self.origin:
      raise ValueError('origin is empty: say what made the vectors.')

  def __len__(self) -> int:
    return len(self.names)

  @property
  def dim(self) -> int:
    return self.vectors.shape[1]

  @classmethod
  def of(cls, names: Sequence[str], vectors: Any, *, origin: str) -> Self:
    """Normalises the vectors [K, E] of a text encoder.

    Raises:
      ValueError: see the class; also a vector of zeros.
    """
    vectors = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    with np.errstate(invalid='ignore', divide='ignore'):
      vectors = (vectors / lengths).astype(np.float32)
    return cls(tuple(names), vectors, origin)

  def select(self, names: Sequence[str]) -> Self:
    """The same vectors for some of the names, in their order.

    Raises:
      ValueError: a name without a vector.
    """
    for name in names:
      choices.check(name, self.names, key='class of the table')
    rows = [self.names.index(name) for name in names]
    return type(self)(tuple(names), self.vectors[rows], self.origin)

  def check(self, classes: Sequence[str]) -> None:
    """Raises ValueError unless code i of a mask means names[i].

    Args:
      classes: names of the codes of the mask, in order.
    """
    if tuple(classes) == self.names:
      return
    missing = [name for name in classes if name not in self.names]
    extra = [name for name in self.names if name not in classes]
    hint = choices.suggest(missing[0], extra) if missing else ''
    what = (
      f'lacks {missing} and has {extra}'
      if missing or extra
      else (f'counts them as {list(self.names)}')
    )
    raise ValueError(
      f'the class table does not fit the mask of {list(classes)}: it {what}. '
      f'Make the table from the classes of the store.{hint}'
    )

  def check_codes(self, codes: np.ndarray) -> None:
    """Raises ValueError for a code of a mask (255 aside) that has no name."""
    known = np.asarray(codes)[np.asarray(codes) != UNLABELLED]
    if known.size and known.max() >= len(self):
      raise ValueError(
        f'the mask has code {known.max()}, but the class table only '
        f'{len(self)} classes: {list(self.names)}.'
      )


def fallback(names: Sequence[str], dim: int = 512) -> ClassTable:
  """Vectors without meaning, for tests and demonstrations.

  Each is a direction hashed (SHAKE-256) from its name alone, so that it is the
  same everywhere, whatever the other names; two of them are nearly orthogonal.
  Classes can be told apart by them, but `forest` is no nearer to `orchard`
  than to `road`. `origin` says so.

  Raises:
    ValueError: no dimension, or names that a table cannot have.
  """
  if dim < 1:
    raise ValueError(f'dim={dim} must be at least 1.')
  rows = [
    np.frombuffer(hashlib.shake_256(name.encode()).digest(4 * dim), '<u4')
    for name in names
  ]
  vectors = np.reshape(rows, (-1, dim)).astype(np.float64) / 2**31 - 1
  return ClassTable.of(names, vectors, origin=FALLBACK)


def save(folder: files.Path, table: ClassTable) -> None:
  """Writes the two files of a table, each whole or not at all."""
  folder = pathlib.Path(folder)
  data = safetensors.numpy.save(
    {'vectors': np.ascontiguousarray(table.vectors)}
  )
  files.write_bytes(folder / _VECTORS, data)
  header = {
    'format': FORMAT,
    'names': list(table.names),
    'origin': table.origin,
    'dim': table.dim,
    'sha256': hashlib.sha256(data).hexdigest(),
  }
  files.write_json(folder / _HEADER, header)


def load(folder: files.Path) -> ClassTable:
  """Reads what `save` wrote.

  Raises:
    ValueError: no table, another format, or files that do not belong together.
  """
  folder = pathlib.Path(folder)
  path = folder / _HEADER
  if not path.exists():
    raise ValueError(
      f'{folder} is not a class table: it has no {_HEADER}. Make one with '
      '`rsfm data text-embeddings`.'
    )
  header = files.read_json(path)
  if not isinstance(header, dict) or header.get('format') != FORMAT:
    raise ValueError(f'{path} is not of the format {FORMAT!r}.')
  try:
    data = (folder / _VECTORS).read_bytes()
    if hashlib.sha256(data).hexdigest() != header['sha256']:
      raise ValueError(f'{_VECTORS} is not the file that it was written with')
    vectors = safetensors.numpy.load(data)['vectors']
    return ClassTable(tuple(header['names']), vectors, header['origin'])
  except (OSError, KeyError, TypeError, ValueError) as error:
    raise ValueError(f'{path} is damaged: {error}') from error
  except safetensors.SafetensorError as error:
    raise ValueError(f'{folder / _VECTORS} is damaged: {error}') from error


def read_vectors(path: files.Path) -> ClassTable:
  """Any file of names and vectors, normalised; all of its names.

  * `.npz`: arrays `names` [K] of text and `vectors` [K, E].
  * `.json`: `{name: [E numbers]}`, or `{"names": [...], "vectors": [[...]]}`.
  * `.safetensors`: one tensor [E] per name; or `vectors` [K, E], and `names` in
    the metadata as a JSON list.

  Raises:
    ValueError: another kind of file, damage, or vectors that do not fit.
  """
  path = pathlib.Path(path)
  readers = {'.npz': _npz, '.json': _json, '.safetensors': _safetensors}
  choices.check(path.suffix, readers, key=f'{path}: kind of file')
  try:
    names, vectors = readers[path.suffix](path)
    digest = files.sha256(path)[:16]
    origin = f'imported from {path.name}, SHA-256 {digest}'
    return ClassTable.of([str(n) for n in names], vectors, origin=origin)
  except (
    KeyError,
    TypeError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
  ) as error:
    raise ValueError(f'{path} is no table of names and vectors: {error}') from (
      error
    )
  except safetensors.SafetensorError as error:
    raise ValueError(f'{path} is damaged: {error}') from error


def _npz(path: pathlib.Path) -> tuple[Sequence[str], Any]:
  with np.load(path, allow_pickle=False) as content:
    return content['names'].tolist(), content['vectors']


def _json(path: pathlib.Path) -> tuple[Sequence[str], Any]:
  content = files.read_json(path)
  if not isinstance(content, Mapping):
    raise ValueError(f'it holds a {type(content).__name__}, not names')
  if set(content) == {'names', 'vectors'}:
    return content['names'], content['vectors']
  return list(content), list(content.values())


def _safetensors(path: pathlib.Path) -> tuple[Sequence[str], Any]:
  with safetensors.safe_open(os.fspath(path), framework='numpy') as content:
    # In alphabetical order: the format keeps no other.
    names = sorted(content.keys())
    tensors = {name: content.get_tensor(name) for name in names}
    metadata = content.metadata() or {}
  if set(tensors) == {'vectors'}:
    return json.loads(metadata['names']), tensors['vectors']
  return list(tensors), list(tensors.values())
