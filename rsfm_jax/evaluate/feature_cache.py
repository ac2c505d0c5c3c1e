"""Frozen features on disk, found by all that they depend on.

One safetensors file an entry, whole or absent; its name is the hash of what
the features were made from. Several processes may ask for one entry: the first
makes it, the others wait.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import fcntl
import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import safetensors
from safetensors import numpy as safetensors_numpy

from rsfm_jax.core import files
from rsfm_jax.evaluate import features as features_lib

FORMAT = 'rsfm_jax.features/2'  # 1 had the columns by stage, then pool.


class Entry(NamedTuple):
  """Features of every split, and JSON about them."""

  features: dict[str, features_lib.Features]
  about: dict[str, Any]


def key(parts: Mapping[str, Any]) -> str:
  """The hash of JSON values: equal parts, equal key, on every machine."""
  text = json.dumps({'format': FORMAT, **parts}, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:32]


def path_of(folder: files.Path, name: str) -> pathlib.Path:
  return pathlib.Path(folder) / f'{name}.safetensors'


def has(folder: files.Path, name: str) -> bool:
  return path_of(folder, name).is_file()


def load(folder: files.Path, name: str) -> Entry:
  """Reads an entry.

  Raises:
    ValueError: a damaged file.
  """
  path = path_of(folder, name)
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      names = file.keys()
      arrays = {n: file.get_tensor(n) for n in names}
      about = json.loads(file.metadata()['about'])
  except (safetensors.SafetensorError, KeyError, TypeError) as error:
    raise ValueError(
      f'{path} is damaged ({error}); remove it, and the features are made anew.'
    ) from error
  splits = dict.fromkeys(n.partition('/')[0] for n in arrays)
  return Entry(
    {
      s: features_lib.Features(arrays[f'{s}/values'], arrays[f'{s}/labels'])
      for s in splits
    },
    about,
  )


def save(folder: files.Path, name: str, entry: Entry) -> None:
  arrays = {}
  for split, found in entry.features.items():
    arrays[f'{split}/values'] = found.values
    arrays[f'{split}/labels'] = found.labels
  data = safetensors_numpy.save(arrays, {'about': json.dumps(entry.about)})
  files.write_bytes(path_of(folder, name), data)


def get(
  folder: files.Path, name: str, make: Callable[[], Entry]
) -> tuple[Entry, str]:
  """The entry, and 'cached' or 'encoded': made here, and kept."""
  with _turn(pathlib.Path(folder), name):
    if has(folder, name):
      return load(folder, name), 'cached'
    entry = make()
    save(folder, name, entry)
    return entry, 'encoded'


@contextlib.contextmanager
def _turn(folder: pathlib.Path, name: str) -> Iterator[None]:
  """One process at a time; a process that dies gives its turn back."""
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / f'.{name}.lock', 'a') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield
