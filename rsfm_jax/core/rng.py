"""Keys as a function of (seed, step, name); no stateful random numbers."""

import zlib

import jax


def key_for(seed: int, step: int | jax.Array = 0) -> jax.Array:
  """The key of one step: the same on every host and after every resume."""
  return jax.random.fold_in(jax.random.key(seed), step)


def named(key: jax.Array, *names: str) -> jax.Array:
  """Derives a key by names, so that adding a user moves no other stream."""
  for name in names:
    key = jax.random.fold_in(key, zlib.crc32(name.encode()))
  return key
