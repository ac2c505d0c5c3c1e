"""Size tables: keyword arguments of a spec by model and size name."""

from typing import Any

from rsfm_jax.core import choices
from rsfm_jax.models import ringmoe

# `giant` is the published 14.7 B model (RingMoE's public configuration:
# 192 px, patch 4, window 12, every expert at ratio 4). The others are ours:
# `tiny` follows what was measured to learn on two CPU cores.
RINGMOE: dict[str, dict[str, Any]] = {
  'tiny': dict(
    image_size=32,
    patch_size=2,
    embed_dim=32,
    depths=(2, 2, 6),
    heads=(2, 4, 8),
    window=8,
    mlp_ratio=2.0,
    norm_gain=0.3,
    init_std=None,
  ),
  'small': dict(
    image_size=96,
    patch_size=4,
    embed_dim=96,
    depths=(2, 2, 6, 2),
    heads=(3, 6, 12, 24),
    window=6,
  ),
  'base': dict(
    image_size=192,
    patch_size=4,
    embed_dim=128,
    depths=(2, 2, 18, 2),
    heads=(4, 8, 16, 32),
    window=12,
  ),
  'giant': dict(
    image_size=192,
    patch_size=4,
    embed_dim=448,
    depths=(2, 2, 18, 2),
    heads=(14, 28, 56, 112),
    window=12,
    attention='v1_bias',
  ),
}


def ringmoe_spec(size: str, **changes: Any) -> ringmoe.RingMoESpec:
  """The spec of a named size with some fields changed.

  Raises:
    ValueError: an unknown size.
  """
  choices.check(size, RINGMOE, key='model.size')
  return ringmoe.RingMoESpec(**(RINGMOE[size] | changes))
