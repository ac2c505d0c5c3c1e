"""How many experts the layers of a model have, where they differ.

A pruned model keeps different numbers in different layers. Blocks of equal
numbers stand in one stack; what layers report is brought to one width.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

Counts = int | tuple[int, ...]


def check(counts: Counts, layers: int, *, key: str) -> Counts:
  """One number if all layers have it, else one per layer.

  Raises:
    ValueError: another number of entries than layers, or a negative one.
  """
  if isinstance(counts, int):
    if counts < 0:
      raise ValueError(f'{key}={counts} must not be negative.')
    return counts
  counts = tuple(int(n) for n in counts)
  if len(counts) != layers or min(counts, default=0) < 0:
    raise ValueError(
      f'{key}={counts} must be one number of experts, or one for each of the '
      f'{layers} layers that have experts.'
    )
  return counts[0] if len(set(counts)) == 1 else counts


def per_layer(counts: Counts, layers: int) -> tuple[int, ...]:
  return (counts,) * layers if isinstance(counts, int) else counts


def join(reports: Sequence[Any]) -> Any:
  """Trees of [L, ..., E] one after another along L.

  Those of fewer experts get zeros at the end, as if nobody had asked for them.
  """

  def widen(x: jax.Array, last: int) -> jax.Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, last - x.shape[-1])])

  def joined(*parts: jax.Array) -> jax.Array:
    if parts[0].ndim > 1:
      last = max(p.shape[-1] for p in parts)
      parts = [p if p.shape[-1] == last else widen(p, last) for p in parts]
    return jnp.concatenate(parts)

  return jax.tree.map(joined, *reports)
