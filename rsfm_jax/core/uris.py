"""Where a path leads: this machine's file system, or an object store.

A bucket is not a file system: it has no rename, no lock and no append, which
is what whole-or-absent files are made of. docs/packing.md has the table of
what is carried where.
"""

import os
import pathlib
import re
from typing import Literal

Path = str | os.PathLike

# One slash is what pathlib leaves of two: Path('gs://a') is 'gs:/a'. A scheme
# of one letter would be a drive of Windows.
_URI = re.compile(r'([A-Za-z][A-Za-z0-9+.-]+):/+(.*)', re.DOTALL)
_REMEDY = {
  ('gs', 'read'): 'mount the bucket (gcsfuse) or copy it here '
  '(gcloud storage cp -r)',
  ('gs', 'write'): 'mount the bucket (gcsfuse), or write to a folder and copy '
  'it there (gcloud storage cp -r)',
  ('s3', 'read'): 'mount the bucket (mount-s3) or copy it here '
  '(aws s3 cp --recursive)',
  # Mountpoint for S3 renames nothing (its doc/SEMANTICS.md).
  ('s3', 'write'): 'write to a folder and copy it there '
  '(aws s3 cp --recursive)',
}


def scheme(path: Path) -> str:
  """'local', 'gs', 's3' or whatever else stands before '://'."""
  found = _URI.fullmatch(os.fspath(path))
  return found[1].lower() if found else 'local'


def whole(path: Path) -> str:
  """The path as text, with both slashes where pathlib has taken one."""
  found = _URI.fullmatch(os.fspath(path))
  return f'{found[1].lower()}://{found[2]}' if found else os.fspath(path)


def local(
  path: Path, *, what: str, by: str, access: Literal['read', 'write']
) -> pathlib.Path:
  """The path, if it lies in the file system; a mounted bucket does.

  Args:
    path: what the user gave.
    what: lies there, e.g. 'a workdir'.
    by: what would have to carry it, e.g. 'the lock on it'.
    access: what it is wanted for.

  Raises:
    ValueError: an object store; says what to mount or copy.
  """
  kind = scheme(path)
  if kind == 'local':
    return pathlib.Path(path)
  remedy = _REMEDY.get((kind, access), 'give a folder of this machine')
  raise ValueError(
    f'{whole(path)}: {what} on {kind}:// is not carried by {by}; {remedy}.'
  )
