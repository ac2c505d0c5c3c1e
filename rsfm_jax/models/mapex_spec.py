"""What defines a MAPEX-style model: its spec, and the runs of blocks it has.

The method text of MAPEX (arXiv 2507.07527) could not be reached: beyond
routing per token, conditioned on the sensor, and pruning to the experts of a
task's sensors, every choice here is a DEFAULT of the project's fact sheet.
"""

import dataclasses
import itertools
import math
from typing import Any, ClassVar, Literal, NamedTuple

from rsfm_jax.core import choices as choices_lib
from rsfm_jax.models import json_spec
from rsfm_jax.moe import experts as experts_lib
from rsfm_jax.moe import routers
from rsfm_jax.moe import routing
from rsfm_jax.nn import linear
from rsfm_jax.nn import mlp
from rsfm_jax.nn import remat as remat_lib

# Groups of bands and polarisations as sensors (DEFAULT, after a data set of
# MAPEX's authors); digital elevation, 'dem', may be added.
SENSORS = ('s2_rgb', 's2_rededge', 's2_nir', 's2_swir', 's1_vv', 's1_vh')
CHANNELS = (3, 3, 1, 3, 1, 1)
LEVELS = 4  # Named depths, for probes and dense heads.

# Of a routed block: experts by sensor.
Partition = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapexSpec(json_spec.JsonSpec):
  """Everything that defines a MAPEX-style model; all values are DEFAULTs.

  Attributes:
    sensors: any names; each has a patch embedding and a learnt vector.
    channels: per sensor.
    image_size: pixels, of all sensors; at others positions are resized.
    patch_size: pixels.
    embed_dim: D.
    depth: blocks.
    heads: of the attention.
    mlp_ratio: F / D of every FFN and expert.
    moe_every: every n-th block has experts, the n-th one first; 0 for none.
    experts: of each block that has them, in order; one expert is a plain FFN
      without a router, as pruning leaves it.
    choices: experts per token, K.
    conditioning: how routers see the sensor; see `moe.routers`.
    partition: for conditioning='partition', which experts each sensor may
      use, per block with experts; None deals them out in turn.
    shared: experts (0 or 1) that all tokens pass beside the routed ones. Where
      one routed expert is left, both are one FFN of twice the width.
    gate_noise: times 1 / experts is the deviation of the gates' noise.
    capacity_factor, priority: of V-MoE; see `moe.routing`.
    engine: in training; evaluation is dropless.
    routing_groups: capacity is counted in this many slices of the batch; None
      makes one per device that holds samples.
    decoder_dim, decoder_depth, decoder_heads: of the dense decoder that all
      sensors share; depth 0 for none.
    drop_path: of the last block, from 0 at the first, in equal steps.
    activation: of every FFN and expert.
    init_std: std of all matrices; None takes 1 / sqrt(fan-in).
    remat: what blocks compute again in the backward pass; see `nn.remat`.
    unroll: steps of the scans over blocks that are written out.
    dtype: compute dtype of matrices; norms, softmax and routers stay float32.
  """

  MODEL: ClassVar[str] = 'mapex'
  TITLE: ClassVar[str] = 'MAPEX-style'

  sensors: tuple[str, ...] = SENSORS
  channels: tuple[int, ...] = CHANNELS
  image_size: int
  patch_size: int = 16
  embed_dim: int
  depth: int
  heads: int
  mlp_ratio: float = 4.0
  moe_every: int = 2
  experts: tuple[int, ...]
  choices: int = 1
  conditioning: routers.Conditioning = 'bias'
  partition: tuple[Partition, ...] | None = None
  shared: int = 0
  gate_noise: float = 1.0
  capacity_factor: float = 1.25
  priority: routing.Priority = 'batch'
  engine: experts_lib.Engine = 'capacity'
  routing_groups: int | None = None
  decoder_dim: int = 512
  decoder_depth: int = 8
  decoder_heads: int = 16
  drop_path: float = 0.0
  activation: mlp.Activation = 'gelu'
  init_std: float | None = linear.DEFAULT_STD
  remat: remat_lib.Policy = 'none'
  unroll: int = 1
  dtype: Literal['float32', 'bfloat16'] = 'float32'

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      object.__setattr__(self, field.name, json_spec.tuples(value))
    if len(self.channels) != len(self.sensors):
      raise ValueError(
        f'model.channels={self.channels} needs one entry per sensor of '
        f'{self.sensors}.'
      )
    if self.image_size % self.patch_size:
      raise ValueError(
        f'model.image_size={self.image_size} is not a multiple of '
        f'model.patch_size={self.patch_size}.'
      )
    if self.embed_dim % 4 or (self.decoder_depth and self.decoder_dim % 4):
      raise ValueError(
        f'model.embed_dim={self.embed_dim} and model.decoder_dim='
        f'{self.decoder_dim} must be multiples of 4, for positions in waves.'
      )
    self._check_experts()
    if not 0 <= self.drop_path < 1:
      raise ValueError(
        f'model.drop_path={self.drop_path} must be at least 0 and below 1.'
      )
    for key, allowed in (
      ('conditioning', routers.CONDITIONINGS),
      ('shared', (0, 1)),
      ('priority', ('first_come', 'batch', 'random')),
      ('engine', ('capacity', 'dropless')),
      ('activation', mlp.ACTIVATIONS),
      ('remat', remat_lib.NAMES),
      ('dtype', ('float32', 'bfloat16')),
    ):
      choices_lib.check(getattr(self, key), allowed, key=f'model.{key}')

  def _check_experts(self) -> None:
    blocks = self.depth // self.moe_every if self.moe_every else 0
    if len(self.experts) != blocks or any(e < 1 for e in self.experts):
      raise ValueError(
        f'model.experts={self.experts} needs one number, at least 1, for each '
        f'of the {blocks} blocks that model.moe_every={self.moe_every} of '
        f'model.depth={self.depth} gives experts.'
      )
    if self.partition is None:
      return
    if self.conditioning != 'partition' or len(self.partition) != blocks:
      raise ValueError(
        f'model.partition has {len(self.partition)} entries; it needs '
        "model.conditioning='partition' and one entry for each of the "
        f'{blocks} blocks with experts.'
      )
    for experts, rows in zip(self.experts, self.partition, strict=True):
      fits = all(row and set(row) <= set(range(experts)) for row in rows)
      if len(rows) != len(self.sensors) or not fits:
        raise ValueError(
          f'model.partition={rows}: each of {self.sensors} needs some of the '
          f'experts 0..{experts - 1}.'
        )

  def of(self, field: str, sensor: str) -> Any:
    """The sensor's entry of `channels`."""
    choices_lib.check(sensor, self.sensors, key='sensor')
    return getattr(self, field)[self.sensors.index(sensor)]

  @property
  def grid(self) -> int:
    """Tokens along an image of `image_size`."""
    return self.image_size // self.patch_size

  @property
  def routed(self) -> tuple[int, ...]:
    """Blocks whose FFN is routed: those with more than one expert."""
    every = self.moe_every
    return tuple(
      (i + 1) * every - 1 for i, e in enumerate(self.experts) if e > 1
    )

  def partition_of(self, layer: int) -> Partition:
    """Experts by sensor, of the block with experts at place `layer`.

    Unless `partition` says so, expert e belongs to sensor e mod M; where there
    are fewer experts than sensors, sensor m has expert m mod E (DEFAULT).
    """
    if self.partition is not None:
      return self.partition[layer]
    number, sensors = self.experts[layer], len(self.sensors)
    if number < sensors:
      return tuple((m % number,) for m in range(sensors))
    return tuple(tuple(range(m, number, sensors)) for m in range(sensors))

  def router(self, layer: int) -> routers.Kind:
    """What the router of the block at place `layer` is."""
    allowed = ()
    if self.conditioning == 'partition':
      every = range(self.experts[layer])
      allowed = tuple(
        tuple(e in row for e in every) for row in self.partition_of(layer)
      )
    return routers.Kind(self.conditioning, len(self.sensors), allowed)

  @property
  def depths(self) -> tuple[int, ...]:
    """Blocks between the named levels `stage_0`, `stage_1` and so on.

    A level is the output of a whole unit of `moe_every` blocks: of the four
    quarters of the depth, rounded up.
    """
    sizes = [run.size for run in runs(self) for _ in range(run.units)]
    number = min(LEVELS, len(sizes))
    ends = [math.ceil(len(sizes) * i / number) for i in range(number + 1)]
    return tuple(sum(sizes[a:b]) for a, b in itertools.pairwise(ends))


class Run(NamedTuple):
  """Consecutive units of equal blocks, whose parameters are stacked.

  A unit is `moe_every` blocks, the last of which has experts; or one block of
  those that are left at the end, or of a model without experts.

  Attributes:
    name: of the parameters.
    units: L, how many are stacked.
    size: blocks of a unit.
    first: place of the first block in the model.
    layer: place of the first unit among the blocks with experts.
    experts: of the unit's last block; 1 is a plain FFN.
    widths: the width of that FFN, in FFNs: 2 where a shared one is in it.
    router: of the unit's last block, if it has one.
  """

  name: str
  units: int
  size: int
  first: int
  layer: int
  experts: int
  widths: int
  router: routers.Kind | None


def runs(spec: MapexSpec) -> tuple[Run, ...]:
  """Units that are alike and follow each other, as one run each."""
  single = [(1, 1, 1, None)]
  kinds = [
    (
      spec.moe_every,
      number,
      1 + spec.shared if number == 1 else 1,
      spec.router(layer) if number > 1 else None,
    )
    for layer, number in enumerate(spec.experts)
  ]
  kinds += single * (spec.depth - len(kinds) * spec.moe_every)
  out, first, layer = [], 0, 0
  for kind, alike in itertools.groupby(kinds):
    units, (size, number, widths, router) = len(list(alike)), kind
    out.append(
      Run(f'run_{len(out)}', units, size, first, layer, number, widths, router)
    )
    first, layer = first + units * size, layer + units
  return tuple(out)
