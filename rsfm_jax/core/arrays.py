"""Arrays in parts, in memory or on disk.

An array-like here has `shape` and `dtype` and is indexed by integers: arrays of
NumPy and JAX, and those that read from disk no more than what is asked for.
"""

from collections.abc import Iterator
import math
from typing import Any

import jax
import numpy as np

_BLOCK_BYTES = 64 << 20


def blocks(
  array: Any, index: tuple[int, ...] = (), *, limit: int = _BLOCK_BYTES
) -> Iterator[np.ndarray]:
  """`array[index]` in parts along its leading axes, in memory's order.

  Args:
    array: any array-like.
    index: of its leading axes; () is all of it.
    limit: bytes of a part, as far as matrices need not be cut.
  """
  if isinstance(array, jax.Array):
    array = np.asarray(jax.device_get(array))
  shape = array.shape[len(index) :]
  size = math.prod(shape) * np.dtype(array.dtype).itemsize
  if size <= limit or len(shape) < 3:
    yield np.asarray(array[index] if index else array[...])
    return
  for i in range(shape[0]):
    yield from blocks(array, (*index, i), limit=limit)
