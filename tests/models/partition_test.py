"""Weights come to the door of a block cut as they are stored."""

import math

import jax
from jax.sharding import PartitionSpec as P
import pytest

from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.models import partition
from rsfm_jax.models import sizes
from rsfm_jax.moe import experts
from rsfm_jax.moe import rmoe
from rsfm_jax.sharding import mesh as meshes
from rsfm_jax.sharding import rules

FFN = 'stage_0/blocks/ffn'
NAMES = ('w_in', 'b_in', 'w_out', 'b_out')


def cut(spec):
  """A spec as one tuple of axes for each dimension, whole ones left out."""
  axes = [
    () if a is None else a if isinstance(a, tuple) else (a,) for a in spec
  ]
  while axes and not axes[-1]:
    axes.pop()
  return axes


@pytest.mark.parametrize('kind', ['exchange', 'sensor'])
@pytest.mark.parametrize(
  'sizes_', [dict(expert=4, fsdp=2), dict(expert=2, fsdp=2, tensor=2)]
)
def test_a_block_takes_its_weights_as_the_rules_store_them(kind, sizes_):
  spec = sizes.ringmoe_spec(
    'tiny', image_size=16, depths=(1, 1), heads=(2, 4), embed_dim=256, window=4
  )
  mesh = meshes.make_mesh(data=1, **sizes_)
  found = partition.placement(
    spec, mesh, {s: 16 for s in spec.sensors}, kind=kind
  )
  params = build.build(spec).abstract
  stored = trees.flatten(rules.specs(params, partition.rules(params, found)))
  leaves = trees.flatten(params)

  def first(name):  # Of the layers that a scan runs over.
    leaf = leaves[f'{FFN}/{name}']
    sets = () if name.startswith('specialised') else (1,)
    return jax.ShapeDtypeStruct((*sets, *leaf.shape[1:]), leaf.dtype)

  def routed(branch):
    names = experts.Weights._fields
    return experts.Weights(*(first(f'{branch}/{n}') for n in names))

  weights = rmoe.Weights(
    tuple(first(f'shared/{n}') for n in NAMES),
    routed('specialised'),
    routed('collaborative'),
  )
  taken = weights.specs(kind, weights.cuts(mesh))
  for branch in ('shared', 'specialised', 'collaborative'):
    names = NAMES if branch == 'shared' else experts.Weights._fields
    for name, spec_ in zip(names, getattr(taken, branch), strict=True):
      if math.prod(leaves[f'{FFN}/{branch}/{name}'].shape[1:]) < 2**14:
        continue  # Vectors and routers are whole where they are kept.
      # The layers' axis is there alone; one set of experts has no axis here.
      axes = P(*spec_[1:]) if branch != 'specialised' else spec_
      assert cut(axes) == cut(stored[f'{FFN}/{branch}/{name}'][1:]), name
