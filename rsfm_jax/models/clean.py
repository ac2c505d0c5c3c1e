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
  """bool[B, (T,) H, W, C]: values that were measured, of series or images."""
  there = dates(entry) if 'date_valid' in entry else entry['valid']
  bands = entry['band_valid']
  if there.ndim == 2:
    bands = bands[:, None]
  bands = bands & there[..., None]
  return entry['pixel_valid'][..., None] & bands[..., None, None, :]


def series(entry: Entry) -> Array:
  """[B, (T,) H, W, C] with zeros for whatever does not count.

  That includes samples that only fill up the batch: routing sees their tokens.
  """
  return jnp.where(counts(entry), entry['image'], 0)
