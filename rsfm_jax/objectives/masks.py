"""SimMIM masks with an exact number of masked units."""

import math

import jax
import jax.numpy as jnp

Array = jax.Array


def masked_units(units: int, ratio: float) -> int:
  """ceil(units * ratio): 22 of 36 for RingMoE's 6 x 6 units at 0.6."""
  return math.ceil(units * ratio - 1e-9)


def from_order(order: Array, side: int, ratio: float) -> Array:
  """Masks the first units of a permutation: i32[B, u²] -> bool[B, u, u]."""
  count = masked_units(side * side, ratio)
  rank = jnp.argsort(order, axis=-1)
  return (rank < count).reshape(-1, side, side)


def random_masks(key: Array, batch: int, *, side: int, ratio: float) -> Array:
  """Uniformly random masks, one permutation per sample: bool[B, u, u]."""
  keys = jax.random.split(key, batch)
  order = jax.vmap(lambda k: jax.random.permutation(k, side * side))(keys)
  return from_order(order, side, ratio)


def upsample(mask: Array, size: int) -> Array:
  """bool[B, u, u] -> bool[B, size, size], each unit repeated."""
  repeat = size // mask.shape[1]
  return jnp.repeat(jnp.repeat(mask, repeat, 1), repeat, 2)
