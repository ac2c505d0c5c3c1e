"""Processes of this machine that share work, as an executor."""

from collections.abc import Iterator
from concurrent import futures
import contextlib
import multiprocessing
import os
import signal

from rsfm_jax.core import memory


def available() -> int:
  """Cores that this process may run on."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


@contextlib.contextmanager
def local(count: int | None = None) -> Iterator[futures.Executor]:
  """Processes that are stopped at the end, whatever is left to do.

  Args:
    count: of processes, None for one per core; with 1 the work stays in this
      process, where nothing has to start.

  Raises:
    ValueError: a count below 1.
  """
  count = available() if count is None else count
  if count < 1:
    raise ValueError(f'workers={count} must be at least 1.')
  if count == 1:
    pool: futures.Executor = futures.ThreadPoolExecutor(1)
  else:
    pool = futures.ProcessPoolExecutor(
      count,
      # JAX has threads, and forking a process with threads can hang.
      mp_context=multiprocessing.get_context('spawn'),
      initializer=_begin,
    )
  try:
    yield pool
  finally:
    pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
  # Ctrl-C reaches the whole group; the parent says when to stop.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  memory.keep_freed_memory()  # As the parent does; 5 % of the time of a pack.
