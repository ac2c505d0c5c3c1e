"""Our models at the sizes of `torch_models`, and imports into them."""

from rsfm_jax.convert import fill
from rsfm_jax.core import trees
from rsfm_jax.models import mapex_spec as mapex_lib
from rsfm_jax.models import ringmoe
from rsfm_jax.models import skysense_v2_spec
from tests.convert import torch_models


def ringmoe_spec(**changes):
  return ringmoe.RingMoESpec(
    **{
      'sensors': ('opt', 'ms'),
      'channels': (3, 4),
      'image_size': 8,
      'patch_size': 2,
      'embed_dim': 4,
      'depths': (1, 1),
      'heads': (1, 2),
      'window': 2,
      'mlp_ratio': 2,
      'specialised': 2,
      'collaborative': 2,
    }
    | changes
  )


def skysense_spec(**changes):
  return skysense_v2_spec.SkySenseV2Spec(
    **{
      'sensors': ('opt',),
      'channels': (3,),
      'reduces': ((True,) * 3,),
      'image_sizes': (32,),
      'patch_size': 2,
      'embed_dim': 4,
      'depths': (1, 1, 2, 1),
      'heads': (1, 2, 4, 8),
      'window': 2,
      'mlp_ratio': 2,
      'prompts': 0,
      'experts': 4,
      'moe_layers': 2,
      'fusion_depth': 0,
    }
    | changes
  )


def mapex_spec(**changes):
  return mapex_lib.MapexSpec(
    **{
      'sensors': ('opt', 'ms'),
      'channels': (3, 4),
      'image_size': 8,
      'patch_size': 4,
      'embed_dim': 8,
      'depth': 2,
      'heads': 2,
      'mlp_ratio': 2,
      'experts': (3,),
      'decoder_depth': 0,
    }
    | changes
  )


def filled(tensors, source, spec, *, zeros='nothing', **options):
  """`zeros`: parameters whose names end so start as zeros."""
  initial = torch_models.initial(spec)
  initial = trees.map_named(
    lambda name, x: 0 * x if name.endswith(zeros) else x, initial
  )
  return fill.fill(
    tensors, source=source, spec=spec, initial=initial, **options
  )
