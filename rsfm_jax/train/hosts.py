"""What all processes of a run must agree on; alone, nothing is exchanged.

Every function here is a collective: each process calls it at the same point,
from its main thread, or all of them wait for the one that does not.
"""

from collections.abc import Iterator
import contextlib
import json
import socket
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

# One size for all messages, so that one small program carries them all.
_BYTES = 2048


def told(value: Any) -> Any:
  """The value of process 0, on every process.

  Args:
    value: JSON; only that of process 0 counts.
  """
  if jax.process_count() == 1:
    return value
  data = json.dumps(value if jax.process_index() == 0 else None).encode()
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
  room = -(-size // _BYTES) * _BYTES
  mine = _padded(data if jax.process_index() == 0 else b'', room)
  sent = multihost_utils.broadcast_one_to_all(mine)
  return json.loads(np.asarray(sent, np.uint8).tobytes()[:size])


def gathered(text: str) -> list[str]:
  """The text of every process, in their order; the first 2,000 bytes or so."""
  if jax.process_count() == 1:
    return [text]
  rows = multihost_utils.process_allgather(_padded(text.encode(), _BYTES))
  return [_text(row) for row in np.asarray(rows, np.uint8)]


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Runs a block on every process; if it fails on one, it fails on all.

  Without it a process that fails alone (no such file on that host, no room on
  that disk) leaves the others waiting in the next collective. The block itself
  must not contain one.

  Raises:
    Exception: what the block raised here.
    RuntimeError: it raised nothing here, but did elsewhere; says where.
  """
  problem = None
  try:
    yield
  except Exception as error:
    problem = error
  said = gathered(_told_by(problem) if problem else '')
  if problem:
    raise problem
  for process, text in enumerate(said):
    if text:
      raise RuntimeError(f'process {process} {text}')


def _told_by(problem: Exception) -> str:
  return f'({socket.gethostname()}): {problem or repr(problem)}'


def _padded(data: bytes, room: int) -> np.ndarray:
  """u8[room]: data, cut or filled up with zeros."""
  out = np.zeros(room, np.uint8)
  data = data[:room]
  out[: len(data)] = np.frombuffer(data, np.uint8)
  return out


def _text(row: np.ndarray) -> str:
  return row.tobytes().rstrip(b'\0').decode(errors='replace')
