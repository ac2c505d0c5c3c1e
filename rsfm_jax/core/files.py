"""Files that are either whole or absent, locks on folders, content hashes."""

from collections.abc import Iterator
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
from typing import Any
import uuid

from rsfm_jax.core import uris

Path = str | os.PathLike
LOCK = '.lock'  # In a folder that a process holds.


def write_bytes(path: Path, data: bytes) -> None:
  """Writes beside `path`, syncs, then renames: never a half-written file."""
  path = uris.local(path, what='a file', by='its renaming', access='write')
  path.parent.mkdir(parents=True, exist_ok=True)
  # Hosts that share the file system may share the number of a process too.
  temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex[:12]}.tmp')
  try:
    with open(temporary, 'wb') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except OSError as error:
    temporary.unlink(missing_ok=True)
    raise OSError(error.errno, f'could not write {path}: {error}') from error


def write_text(path: Path, text: str) -> None:
  write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
  write_text(path, json.dumps(value, indent=1, sort_keys=True) + '\n')


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[pathlib.Path]:
  """A new folder to fill; it appears under its name when all went well.

  Raises:
    ValueError: `path` is there already, or in an object store.
  """
  path = uris.local(path, what='a folder', by='its renaming', access='write')
  if path.exists():
    raise ValueError(f'{path} is there already; choose another --out.')
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex[:12]}.tmp')
  temporary.mkdir()
  try:
    yield temporary
    os.rename(temporary, path)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def read_json(path: Path) -> Any:
  """Reads JSON; a damaged file is an error that names the file.

  Raises:
    ValueError: the file is not JSON.
  """
  try:
    return json.loads(pathlib.Path(path).read_text())
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f'{path} is not readable as JSON: {error}') from error


def sha256(path: Path) -> str:
  """Hex digest of a file's content, read in blocks."""
  digest = hashlib.sha256()
  with open(path, 'rb') as file:
    while block := file.read(1 << 20):
      digest.update(block)
  return digest.hexdigest()


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
  """Holds `folder` for this process; a second process gets an error.

  Raises:
    RuntimeError: another living process holds the folder.
    ValueError: the folder is in an object store.
  """
  folder = uris.local(folder, what='a workdir', by='its lock', access='write')
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / LOCK, 'a+') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      raise RuntimeError(
        f'{folder} is in use by process {file.read().strip() or "?"}; '
        'wait for it or choose another --workdir.'
      ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    yield
