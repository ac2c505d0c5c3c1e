"""Size tables: keyword arguments of a spec by model and size name."""

from typing import Any

from rsfm_jax.core import choices
from rsfm_jax.models import mapex_spec as mapex
from rsfm_jax.models import ringmoe
from rsfm_jax.models import skysense_v2

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

# `huge` is the paper's (arXiv 2507.13812, section 4.1; tables of positions, and
# that crops have 512 and 16 px, are defaults). The others are ours: heads of 32
# channels and a third to all of the blocks, as in the paper.
SKYSENSE_V2: dict[str, dict[str, Any]] = {
  'tiny': dict(
    image_sizes=(64, 8, 8),
    patch_size=2,
    embed_dim=16,
    depths=(2, 2, 2, 2),
    heads=(1, 1, 2, 4),
    experts=4,
    moe_layers=2,
    fusion_dim=32,
    fusion_depth=2,
    fusion_heads=2,
    prototypes_dim=32,
    init_std=None,
  ),
  'small': dict(
    image_sizes=(512, 16, 16),
    embed_dim=96,
    depths=(2, 2, 6, 2),
    heads=(3, 6, 12, 24),
    moe_layers=4,
    fusion_dim=384,
    fusion_depth=6,
    fusion_heads=6,
    prototypes_dim=192,
  ),
  'base': dict(
    image_sizes=(512, 16, 16),
    embed_dim=128,
    heads=(4, 8, 16, 32),
    fusion_dim=768,
    fusion_depth=12,
    fusion_heads=12,
    prototypes_dim=384,
  ),
  'huge': dict(
    image_sizes=(512, 16, 16),
    embed_dim=352,
    heads=(11, 22, 44, 88),
    position_grids=(32, 16),
  ),
}

# No size of MAPEX is known. `base` is the fact sheet's DEFAULT: ViT-B/16 with
# six experts in every second block; `large` is ViT-L/16 alike, `small` ViT-S.
# `tiny` is narrow, with patches of 4 px, for two CPU cores.
MAPEX: dict[str, dict[str, Any]] = {
  'tiny': dict(
    image_size=32,
    patch_size=4,
    embed_dim=96,
    depth=8,
    heads=3,
    mlp_ratio=2.0,
    experts=(6,) * 4,
    decoder_dim=64,
    decoder_depth=2,
    decoder_heads=2,
    init_std=None,
  ),
  'small': dict(
    image_size=224,
    embed_dim=384,
    depth=12,
    heads=6,
    experts=(6,) * 6,
    decoder_dim=256,
    decoder_depth=4,
    decoder_heads=8,
  ),
  'base': dict(
    image_size=224,
    embed_dim=768,
    depth=12,
    heads=12,
    experts=(6,) * 6,
  ),
  'large': dict(
    image_size=224,
    embed_dim=1024,
    depth=24,
    heads=16,
    experts=(6,) * 12,
  ),
}


def ringmoe_spec(size: str, **changes: Any) -> ringmoe.RingMoESpec:
  """The spec of a named size with some fields changed.

  Raises:
    ValueError: an unknown size.
  """
  choices.check(size, RINGMOE, key='model.size')
  return ringmoe.RingMoESpec(**(RINGMOE[size] | changes))


def skysense_v2_spec(size: str, **changes: Any) -> skysense_v2.SkySenseV2Spec:
  """The spec of a named size with some fields changed.

  Raises:
    ValueError: an unknown size.
  """
  choices.check(size, SKYSENSE_V2, key='model.size')
  return skysense_v2.SkySenseV2Spec(**(SKYSENSE_V2[size] | changes))


def mapex_spec(size: str, **changes: Any) -> mapex.MapexSpec:
  """The spec of a named size with some fields changed.

  Raises:
    ValueError: an unknown size.
  """
  choices.check(size, MAPEX, key='model.size')
  return mapex.MapexSpec(**(MAPEX[size] | changes))
