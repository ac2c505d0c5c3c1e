"""Which dimension of which parameter is cut over which mesh axis."""

from collections.abc import Mapping
import math
import re

from jax.sharding import Mesh
from jax.sharding import PartitionSpec

from rsfm_jax.core import choices
from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.models import ringmoe
from rsfm_jax.moe import expert_parallel
from rsfm_jax.sharding import mesh as meshes
from rsfm_jax.sharding import rules as rules_lib

P = PartitionSpec
# Fewer elements than this are not worth the latency of gathering them.
_SMALL = 2**16
KINDS = ('auto', 'exchange', 'sensor')


def placement(
  spec: ringmoe.RingMoESpec,
  mesh: Mesh,
  counts: Mapping[str, int],
  *,
  kind: str = 'auto',
) -> expert_parallel.Placement | None:
  """Where experts and samples live; None on a mesh of one device.

  'auto' aligns experts with sensors where it can: the expert axis divides the
  number of sensors, all of them present with equally many images.

  Raises:
    ValueError: experts or samples that do not divide; names the config key.
  """
  choices.check(kind, KINDS, key='mesh.placement')
  if mesh.size == 1:
    return None
  columns, tensor = mesh.shape['expert'], mesh.shape['tensor']
  if kind == 'auto':
    same = len(set(counts.values())) == 1 and len(counts) == len(spec.sensors)
    fits = columns > 1 and len(spec.sensors) % columns == 0
    kind = 'sensor' if same and fits and spec.specialised else 'exchange'
  for name in ('specialised', 'collaborative'):
    cut = kind == 'exchange' or name == 'collaborative'
    if cut and getattr(spec, name) % columns:
      raise ValueError(
        f'mesh.expert={columns} does not divide model.{name}='
        f'{getattr(spec, name)} experts.'
      )
  for i in range(len(spec.depths)):
    hidden = int(spec.embed_dim * 2**i * spec.mlp_ratio)
    if hidden % tensor:
      raise ValueError(
        f'mesh.tensor={tensor} does not divide the {hidden} hidden units of '
        f'stage {i}.'
      )
  found = expert_parallel.Placement(mesh, kind)
  expert_parallel.arrange(
    [(spec.sensors.index(s), n) for s, n in counts.items()],
    found,
    groups=spec.routing_groups,
  )
  return found


def rules(
  spec: ringmoe.RingMoESpec, found: expert_parallel.Placement | None
) -> rules_lib.Rules:
  """A rule for every parameter: experts, then hidden units, then FSDP.

  Rows of matrices are cut over `fsdp` (those that are no experts over `expert`
  too) as far as their number divides; vectors and small ones are whole
  everywhere.
  """
  if found is None:
    return [('.*', P())]
  leaves = trees.flatten(build.build(spec).abstract)
  return [
    (re.escape(name), _spec(name, leaf.shape, found))
    for name, leaf in leaves.items()
  ]


def _spec(
  name: str, shape: tuple[int, ...], found: expert_parallel.Placement
) -> PartitionSpec:
  """The last two dimensions of a matrix, and the experts' axes before."""
  branch, _, leaf = name.rpartition('/')
  axes: list[str | tuple[str, ...] | None] = [None] * len(shape)
  routed = branch.endswith(('specialised', 'collaborative'))
  weight = leaf in ('w_in', 'w_out', 'b_in', 'b_out')
  if routed:
    by_sensor = branch.endswith('specialised') and found.kind == 'sensor'
    if by_sensor:
      axes[1] = 'expert'
    elif weight:
      axes[2 if branch.endswith('specialised') else 1] = 'expert'
  if not routed and math.prod(shape) < _SMALL:
    return P()
  if leaf not in ('w_in', 'w_out', 'kernel', 'router'):
    return P(*axes) if routed else P()
  over = meshes.WEIGHT_AXES[:1] if routed else meshes.WEIGHT_AXES
  mesh, rows = found.mesh, shape[-2]
  if leaf == 'w_in':
    axes[-1] = 'tensor'
  if leaf == 'w_out':
    rows //= mesh.shape['tensor']
  cut = meshes.dividing(rows, over, mesh) or ()
  axes[-2] = ('tensor', *cut) if leaf == 'w_out' else cut or None
  return P(*axes)
