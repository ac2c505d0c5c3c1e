"""Total power of complex SAR, the physical target of RingMoE's SAR-L1 branch.

Power is what polarimetric decompositions preserve, so it is reconstructed
instead of the speckled I/Q values. The paper's norm, scaling and weight are
NOT FOUND; what the public code does is `clip_minmax`, whose flaws (quirk Q21:
clipping at 1 saturates integer I/Q) are mended by `scene`, the default.
"""

from typing import Literal

import jax
import jax.numpy as jnp

Array = jax.Array
Scaling = Literal['scene', 'minmax', 'clip_minmax']

# Added before the logarithm: 20 dB below the mean power of a scene.
LOG_FLOOR = 1e-2


def total_power(iq: Array, band_valid: Array | None = None) -> Array:
  """|HH|² + |HV|² + |VH|² + |VV|² over the valid polarisations.

  Args:
    iq: [..., H, W, 8], adjacent (real, imaginary) pairs.
    band_valid: bool[..., 8]; values of invalid channels never matter.

  Returns:
    [..., H, W, 1].
  """
  if band_valid is not None:
    iq = jnp.where(band_valid[..., None, None, :], iq, 0)
  return jnp.square(iq).sum(-1, keepdims=True)


def mean_power(iq: Array, band_valid: Array) -> Array:
  """Total power divided by the number of valid polarisations: [..., H, W, 1].

  Scenes with one and with four polarisations then share one scale; with all
  four present it is the total power up to the constant 4.
  """
  pairs = band_valid.reshape(*band_valid.shape[:-1], -1, 2).all(-1).sum(-1)
  pairs = jnp.maximum(pairs, 1).astype(iq.dtype)
  return total_power(iq, band_valid) / pairs[..., None, None, None]


def scale(power: Array, how: Scaling) -> Array:
  """Brings [B, H, W, 1] power to the target's range.

  'scene': as is (I/Q was divided by the RMS amplitude of its whole scene
  before cropping, so the scene's mean power is 1). 'minmax': per image to
  [0, 1]. 'clip_minmax': clipped at 1 first, as officially coded.
  """
  if how == 'scene':
    return power
  if how == 'clip_minmax':
    power = jnp.minimum(power, 1)
  low = power.min((1, 2, 3), keepdims=True)
  high = power.max((1, 2, 3), keepdims=True)
  return (power - low) / jnp.where(high > low, high - low, 1)


def compress(power: Array) -> Array:
  """Log-compressed power, ln(P + floor): speckle becomes additive."""
  return jnp.log(power + LOG_FLOOR)
