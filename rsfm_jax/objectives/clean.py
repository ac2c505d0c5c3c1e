"""What of a batch counts; the rest becomes zero, whatever stood there.

NaN under a mask must not change a bit, so zeros come before any arithmetic.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

Array = jax.Array
Entry = Mapping[str, Array]


def dates(entry: Entry) -> Array:
  """bool[B, T]: dates that are there, of samples that are there."""
  return entry['date_valid'] & entry['valid'][:, None]


def counts(entry: Entry) -> Array:
  """bool[B, T, H, W, C]: values that were measured."""
  pixels = entry['pixel_valid'] & dates(entry)[:, :, None, None]
  return pixels[..., None] & entry['band_valid'][:, None, None, None, :]


def series(entry: Entry) -> Array:
  """[B, T, H, W, C] with zeros for whatever does not count."""
  return jnp.where(counts(entry), entry['image'], 0)
