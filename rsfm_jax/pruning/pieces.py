"""Pieces of arrays: what a smaller model is put together from.

A source is {name: array-like}; see `core.arrays`.
"""

from collections.abc import Iterator, Mapping
import math
from typing import Any, NamedTuple, Protocol

import numpy as np

from rsfm_jax.core import arrays

Source = Mapping[str, Any]


class Piece(Protocol):
  """A block of a new array; `origin` names an array that it is made from."""

  origin: str

  def read(self, source: Source) -> np.ndarray: ...


class Cut(NamedTuple):
  """One block of one array.

  Attributes:
    origin: name of the array.
    index: of its leading axes; () is all of it.
    columns: of its last axis; None for all.
    scale: factor.
  """

  origin: str
  index: tuple[int, ...] = ()
  columns: tuple[int, ...] | None = None
  scale: float = 1.0

  def read(self, source: Source) -> np.ndarray:
    found = source[self.origin]
    value = np.asarray(found[self.index or ...])
    if self.columns is not None:
      value = value[..., list(self.columns)]
    if self.scale != 1:
      value = (value.astype(np.float32) * np.float32(self.scale)).astype(
        value.dtype
      )
    return value


class Side(NamedTuple):
  """Blocks side by side along an axis, or their sum without one."""

  parts: tuple[Piece, ...]
  axis: int | None

  @property
  def origin(self) -> str:
    return self.parts[0].origin

  def read(self, source: Source) -> np.ndarray:
    found = [part.read(source) for part in self.parts]
    if self.axis is None:
      return sum(found[1:], found[0])
    return np.concatenate(found, self.axis)


class Leaf(NamedTuple):
  """An array of the smaller model.

  Attributes:
    shape: of the array.
    dtype: as saved.
    pieces: one after another in memory's order.
  """

  shape: tuple[int, ...]
  dtype: Any
  pieces: tuple[Piece, ...]

  def array(self, source: Source) -> Any:
    """All of it; the old array itself where nothing changes."""
    if len(self.pieces) == 1 and self.pieces[0] == Cut(self.pieces[0].origin):
      return source[self.pieces[0].origin]
    source = _InMemory(source)
    out = np.empty(math.prod(self.shape), self.dtype)
    start = 0
    for piece in self.pieces:
      block = piece.read(source)
      out[start : start + block.size] = block.reshape(-1)
      start += block.size
    assert start == len(out), (self.shape, start)
    return out.reshape(self.shape)

  def blocks(self, source: Source) -> Iterator[np.ndarray]:
    """Small arrays that make it up in memory's order."""
    for piece in self.pieces:
      plain = isinstance(piece, Cut) and piece.columns is None
      if plain and piece.scale == 1:
        yield from arrays.blocks(source[piece.origin], piece.index)
      else:
        yield piece.read(source).astype(self.dtype, copy=False)


class _InMemory(dict):
  """Arrays as NumPy's, each converted when first asked for."""

  def __init__(self, source: Source):
    super().__init__()
    self._source = source

  def __missing__(self, name: str) -> np.ndarray:
    self[name] = np.asarray(self._source[name])
    return self[name]
