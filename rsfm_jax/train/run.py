"""A run's workdir: one process at a time, one config for its whole life."""

from collections.abc import Iterator, Mapping
import contextlib
import datetime
from importlib import metadata
import json
import pathlib
import platform
import socket
import subprocess
import sys
import time
from typing import Any

import jax

from rsfm_jax.core import files
from rsfm_jax.core import trees
from rsfm_jax.train import hosts

_ABSENT = 'absent'
_CONFIG, _ENVIRONMENT = 'config.json', 'environment.json'
_SHARED_STORAGE_SECONDS = 60.0  # NFS may show a new file that late.


@contextlib.contextmanager
def opened(
  workdir: files.Path, config: Mapping[str, Any]
) -> Iterator[pathlib.Path]:
  """Locks a workdir and records config and environment before all else.

  `config.json` is written once, and taken back if the caller refuses it by a
  ValueError before it made anything. `environment.json` gets one entry for
  every start, in `starts`: git commit, versions, devices, command line. Process
  0 locks and writes; the others see that they share its storage and its config.

  Args:
    workdir: made when absent.
    config: nested mapping of JSON values.

  Yields:
    The workdir as a path.

  Raises:
    RuntimeError: another run holds the workdir, or any of this failed on
      another process.
    ValueError: the workdir was started with another config (names the keys),
      or is not on storage that all processes share.
  """
  workdir = pathlib.Path(workdir)
  plain = json.loads(json.dumps(config))
  path = workdir / _CONFIG
  with contextlib.ExitStack() as held:
    with hosts.together():
      if jax.process_index() == 0:
        held.enter_context(files.exclusive(workdir))
        if path.exists():
          _check_same(path, files.read_json(path), plain)
        else:
          files.write_json(path, plain)
        _record_start(workdir / _ENVIRONMENT)
    with hosts.together():
      if jax.process_index():
        _check_shared(path)
        _check_same(path, files.read_json(path), plain)
    try:
      yield workdir
    except ValueError:
      if not jax.process_index() and not _made(workdir):
        path.unlink(missing_ok=True)
      raise


def environment() -> dict[str, Any]:
  """What this process runs on, as JSON."""
  names = sorted({d.name for d in metadata.distributions() if d.name})
  return {
    'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'command': sys.argv,
    'git': _git('rev-parse', 'HEAD'),
    'git_changes': bool(_git('status', '--porcelain')),
    'python': platform.python_version(),
    'platform': platform.platform(),
    'devices': [device.device_kind for device in jax.devices()],
    'processes': jax.process_count(),
    'packages': {name: metadata.version(name) for name in names},
  }


def differences(old: Any, new: Any) -> list[str]:
  """`key: old -> new` for every leaf that differs between two configs."""
  old, new = trees.flatten(old), trees.flatten(new)
  return [
    f'{key.replace("/", ".")}: {old.get(key, _ABSENT)!r} -> '
    f'{new.get(key, _ABSENT)!r}'
    for key in sorted(old | new)
    if old.get(key, _ABSENT) != new.get(key, _ABSENT)
  ]


def _check_same(path: pathlib.Path, old: Any, new: Any) -> None:
  if changed := differences(old, new):
    raise ValueError(
      f'{path} belongs to a run with another config; these keys differ (its '
      f'value -> yours): {"; ".join(changed)}. Set them back, or choose '
      'another --workdir.'
    )


def _made(workdir: pathlib.Path) -> list[str]:
  """What a run has left there, beside what every start leaves."""
  names = {path.name for path in workdir.iterdir()}
  return sorted(names - {_CONFIG, _ENVIRONMENT, files.LOCK})


def _check_shared(path: pathlib.Path) -> None:
  deadline = time.monotonic() + _SHARED_STORAGE_SECONDS
  while not path.exists():
    if time.monotonic() > deadline:
      raise ValueError(
        f'{path}, which process 0 wrote, is not on {socket.gethostname()}: '
        '--workdir must be on storage that all hosts share.'
      )
    time.sleep(0.2)


def _record_start(path: pathlib.Path) -> None:
  starts = files.read_json(path)['starts'] if path.exists() else []
  files.write_json(path, {'starts': starts + [environment()]})


def _git(*args: str) -> str | None:
  """Output of a git command in this package's repository, None without one."""
  try:
    return subprocess.run(
      ['git', *args],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
      check=True,
      timeout=10,
    ).stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None
