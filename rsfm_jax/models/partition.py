"""Which dimension of which parameter is cut over which mesh axis."""

from collections.abc import Mapping
import math
import re

from jax.sharding import Mesh
from jax.sharding import PartitionSpec

from rsfm_jax.core import choices
from rsfm_jax.core import trees
from rsfm_jax.models import mapex_spec
from rsfm_jax.models import ringmoe
from rsfm_jax.models import skysense_v2_spec
from rsfm_jax.moe import expert_parallel
from rsfm_jax.sharding import mesh as meshes
from rsfm_jax.sharding import rules as rules_lib

P = PartitionSpec
# Fewer elements than this are not worth the latency of gathering them.
_SMALL = 2**16
KINDS = ('auto', 'exchange', 'sensor')
PROTOTYPES = 'prototypes'
Spec = (
  ringmoe.RingMoESpec | skysense_v2_spec.SkySenseV2Spec | mapex_spec.MapexSpec
)


def placement(
  spec: Spec,
  mesh: Mesh,
  counts: Mapping[str, int],
  *,
  kind: str = 'auto',
) -> expert_parallel.Placement | None:
  """Where experts and samples live; None on a mesh of one device.

  'auto' aligns experts with sensors where it can: a RingMoE whose number of
  sensors the expert axis divides, all of them present with equally many images.

  Raises:
    ValueError: experts or samples that do not divide; names the config key.
  """
  choices.check(kind, KINDS, key='mesh.placement')
  if mesh.size == 1:
    return None
  columns = mesh.shape['expert']
  by_sensor = isinstance(spec, ringmoe.RingMoESpec)
  if kind == 'auto':
    kind = 'sensor' if by_sensor and _alike(spec, counts, columns) else kind
    kind = 'exchange' if kind == 'auto' else kind
  if kind == 'sensor' and not by_sensor:
    raise ValueError(
      'mesh.placement=sensor needs specialised experts, which only RingMoE '
      "has; use 'exchange' or 'auto'."
    )
  for name in ('specialised', 'collaborative') if by_sensor else ('experts',):
    cut = kind == 'exchange' or name != 'specialised'
    if cut and any(number % columns for number in _numbers(spec, name)):
      raise ValueError(
        f'mesh.expert={columns} does not divide model.{name}='
        f'{getattr(spec, name)} experts.'
      )
  _check_hidden(spec, mesh.shape['tensor'])
  found = expert_parallel.Placement(mesh, kind)
  if by_sensor:
    expert_parallel.arrange(
      [(spec.sensors.index(s), n) for s, n in counts.items()],
      found,
      groups=spec.routing_groups,
    )
  return found


def _numbers(spec: Spec, name: str) -> list[int]:
  """How many experts there are to cut, where there is a router."""
  found = getattr(spec, name)
  if isinstance(found, tuple):
    return [number for number in found if number > 1]
  return [found]


def _alike(
  spec: ringmoe.RingMoESpec, counts: Mapping[str, int], columns: int
) -> bool:
  """Whether every column of devices can have as many sensors and images."""
  same = len(set(counts.values())) == 1 and len(counts) == len(spec.sensors)
  fits = columns > 1 and len(spec.sensors) % columns == 0
  return bool(same and fits and spec.specialised)


def _check_hidden(spec: Spec, tensor: int) -> None:
  grows = not isinstance(spec, mapex_spec.MapexSpec)
  for i in range(len(spec.depths)):
    hidden = int(spec.embed_dim * (2**i if grows else 1) * spec.mlp_ratio)
    if hidden % tensor:
      raise ValueError(
        f'mesh.tensor={tensor} does not divide the {hidden} hidden units of '
        f'stage {i}.'
      )


def rules(
  params: trees.Tree,
  found: expert_parallel.Placement | None,
  *,
  extra: trees.Tree | None = None,
) -> rules_lib.Rules:
  """A rule for every parameter: experts, then hidden units, then FSDP.

  Rows of matrices are cut over `fsdp` (those that are no experts over `expert`
  too) as far as their number divides; vectors and small ones are whole
  everywhere.

  Args:
    params: abstract, of the model and, under `objective`, of its heads.
    found: see `placement`.
    extra: abstract state beside them: the regions of prototypes are cut over
      `fsdp`, other arrays are whole.
  """
  if found is None:
    return [('.*', P())]
  out = [
    (re.escape(name), _spec(name, leaf.shape, found))
    for name, leaf in trees.flatten(params).items()
  ]
  for name, leaf in trees.flatten(extra or {}).items():
    if leaf.ndim:
      by_region = name == PROTOTYPES
      over = meshes.WEIGHT_AXES[:1] if by_region else ()
      cut = meshes.dividing(leaf.shape[0], over, found.mesh)
      out.append((re.escape(f'extra/{name}'), P(cut)))
  return out


def _spec(
  name: str, shape: tuple[int, ...], found: expert_parallel.Placement
) -> PartitionSpec:
  """The last two dimensions of a matrix, and the experts' axes before."""
  branch, _, leaf = name.rpartition('/')
  axes: list[str | tuple[str, ...] | None] = [None] * len(shape)
  routed = branch.endswith(('specialised', 'collaborative', 'routed'))
  weight = leaf in ('w_in', 'w_out', 'b_in', 'b_out')
  if routed:
    by_sensor = branch.endswith('specialised') and found.kind == 'sensor'
    if by_sensor:
      axes[1] = 'expert'
    elif weight:
      axes[2 if branch.endswith('specialised') else 1] = 'expert'
  if not routed and math.prod(shape) < _SMALL:
    return P()
  if leaf not in ('w_in', 'w_out', 'kernel', 'router', 'directions'):
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
