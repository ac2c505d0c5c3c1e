"""Batches on the device before the step asks, and how long it waited."""

from collections.abc import Iterator
import queue
import threading
import time
from typing import Any

import jax

Tree = Any
_END = object()


class Prefetch(Iterator[Tree]):
  """Moves batches to the device in a background thread.

  Attributes:
    waited_seconds: how long the consumer has waited, all in all. The first
      batch is left out: it is start-up, not speed.
    first_seconds: how long it waited for the first batch.
  """

  def __init__(
    self,
    batches: Iterator[Tree],
    sharding: jax.sharding.Sharding | None,
    size: int,
  ):
    if size < 1:
      raise ValueError(f'size={size} must be at least 1.')
    self.waited_seconds = 0.0
    self.first_seconds: float | None = None
    self._sharding = sharding
    self._queue: queue.Queue = queue.Queue(size)
    self._stop = threading.Event()
    self._ended = False
    self._thread = threading.Thread(
      target=self._fill, args=(batches,), daemon=True, name='prefetch'
    )
    self._thread.start()

  def __next__(self) -> Tree:
    if self._ended:
      raise StopIteration
    start = time.perf_counter()
    item = self._queue.get()
    waited = time.perf_counter() - start
    if self.first_seconds is None:
      self.first_seconds = waited
    else:
      self.waited_seconds += waited
    if item is _END or isinstance(item, BaseException):
      self._ended = True
      raise StopIteration if item is _END else item
    return item

  def close(self) -> None:
    """Stops the thread; nothing more comes."""
    self._ended = True
    self._stop.set()
    self._thread.join(timeout=10)

  def __enter__(self) -> 'Prefetch':
    return self

  def __exit__(self, *error) -> None:
    self.close()

  def _fill(self, batches: Iterator[Tree]) -> None:
    try:
      for batch in batches:
        if not self._put(_to_device(batch, self._sharding)):
          return
      self._put(_END)
    except BaseException as error:  # Raised again where it can be handled.
      self._put(error)

  def _put(self, item: Any) -> bool:
    """Queues an item unless the consumer has gone."""
    while not self._stop.is_set():
      try:
        self._queue.put(item, timeout=0.1)
        return True
      except queue.Full:
        continue
    return False


def to_device(
  batches: Iterator[Tree],
  sharding: jax.sharding.Sharding | None = None,
  size: int = 2,
) -> Prefetch:
  """Prefetches batches of host arrays to the device.

  Args:
    batches: trees of NumPy arrays, this host's part of each global batch.
    sharding: of every leaf, e.g. the batch axis over the data axis of a mesh;
      None puts everything on the default device.
    size: batches kept ready.

  Raises:
    ValueError: `size` is not positive. Whatever `batches` raises comes out
      of the iterator, in its place.
  """
  return Prefetch(batches, sharding, size)


def _to_device(batch: Tree, sharding: jax.sharding.Sharding | None) -> Tree:
  if sharding is None:
    return jax.device_put(batch)
  return jax.tree.map(
    lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), batch
  )
