"""What defines a SkySense V2: its spec, and the runs of blocks it has."""

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from rsfm_jax.core import choices as choices_lib
from rsfm_jax.models import json_spec
from rsfm_jax.moe import counts as counts_lib
from rsfm_jax.moe import experts as experts_lib
from rsfm_jax.moe import routing
from rsfm_jax.nn import linear
from rsfm_jax.nn import remat as remat_lib
from rsfm_jax.nn import swin
from rsfm_jax.nn import window_kernel

Reduces = tuple[bool, bool, bool]

# High-resolution optical, multi-spectral and SAR series, as in the paper.
SENSORS = ('opt', 'sentinel2_skysense', 'sentinel1_grd')
CHANNELS = (3, 10, 2)
STAGES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkySenseV2Spec(json_spec.JsonSpec):
  """Everything that defines a SkySense V2's parameters and forward pass.

  Attributes:
    sensors: any names; each has a tokenizer, prompts and tables of positions.
    channels: per sensor.
    reduces: per sensor, whether the merges before stages 1, 2 and 3 halve the
      grid; a call may override it.
    image_sizes: pixels per sensor at which tables of positions fit without
      resizing.
    patch_size: pixels.
    embed_dim: D of stage 0; doubles with every stage.
    depths: blocks of the four stages.
    heads: per stage; the paper's have 32 channels.
    window: tokens, of the Swin stages; clipped to the grid.
    cpb_windows: per stage, the window whose largest offset log-CPB counts as 1;
      None takes that of the stage. Weights that were trained in other windows
      need theirs (Swin V2's pretrained_window_sizes).
    mlp_ratio: F / D of every FFN and expert.
    prompts: tokens per sensor in each stage of global attention; 0 for none.
    global_attention: in stages 2 and 3; otherwise all four stages are Swin's,
      without prompts and tables of positions (the paper's ablation).
    position_grids: sides of the tables in stages 2 and 3 for every sensor;
      None takes each sensor's own at `image_sizes` (NOT FOUND).
    experts: per MoE layer, or one number for each of them; a layer of one is a
      dense FFN without a router, and so are all with 0.
    choices: experts per token, K.
    moe_layers: blocks with experts.
    moe_placement: the 'last' blocks, or 'spread' evenly, the last one included.
    capacity_factor, gate_noise, priority: Swin-MoE's (NOT FOUND); the noise
      has the standard deviation gate_noise / experts.
    engine: in training; evaluation is dropless.
    routing_groups: capacity is counted in this many slices of the batch of a
      sensor; None makes one per device that holds samples.
    fusion_dim, fusion_depth, fusion_heads: of the fusion transformer; depth 0
      for none.
    prototypes_dim: of geo-context prototypes; 0 for none.
    drop_path: of the last block, from 0 at the first, in equal steps.
    fusion_drop_path: the same in the fusion.
    attention_engine: of the Swin blocks; see `nn.window_kernel`.
    init_std: std of all matrices; None takes 1 / sqrt(fan-in).
    remat: what blocks compute again in the backward pass; see `nn.remat`.
    unroll: steps of the scans over blocks that are written out.
    dtype: compute dtype of matrices; norms, softmax and routers stay float32.
  """

  MODEL: ClassVar[str] = 'skysense_v2'
  TITLE: ClassVar[str] = 'SkySense V2'

  sensors: tuple[str, ...] = SENSORS
  channels: tuple[int, ...] = CHANNELS
  reduces: tuple[Reduces, ...] = ((True,) * 3, (False,) * 3, (False,) * 3)
  image_sizes: tuple[int, ...]
  patch_size: int = 4
  embed_dim: int
  depths: tuple[int, ...] = (2, 2, 18, 2)
  heads: tuple[int, ...]
  window: int = 8
  cpb_windows: tuple[int, ...] | None = None
  mlp_ratio: float = 4.0
  prompts: int = 4
  global_attention: bool = True
  position_grids: tuple[int, int] | None = None
  experts: counts_lib.Counts = 8
  choices: int = 1
  moe_layers: int = 6
  moe_placement: Literal['last', 'spread'] = 'last'
  capacity_factor: float = 1.25
  gate_noise: float = 1.0
  priority: routing.Priority = 'batch'
  engine: experts_lib.Engine = 'capacity'
  routing_groups: int | None = None
  fusion_dim: int = 1024
  fusion_depth: int = 24
  fusion_heads: int = 16
  prototypes_dim: int = 512
  drop_path: float = 0.0
  fusion_drop_path: float = 0.0
  attention_engine: window_kernel.Engine = 'auto'
  init_std: float | None = linear.DEFAULT_STD
  remat: remat_lib.Policy = 'none'
  unroll: int = 1
  dtype: Literal['float32', 'bfloat16'] = 'float32'

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      object.__setattr__(self, field.name, json_spec.tuples(value))
    for key in ('channels', 'reduces', 'image_sizes'):
      if len(getattr(self, key)) != len(self.sensors):
        raise ValueError(
          f'model.{key}={getattr(self, key)} needs one entry per sensor of '
          f'{self.sensors}.'
        )
    for key in ('depths', 'heads'):
      if len(getattr(self, key)) != STAGES:
        raise ValueError(
          f'model.{key}={getattr(self, key)} needs {STAGES} entries, one per '
          'stage.'
        )
    if self.cpb_windows and len(self.cpb_windows) != len(self.depths):
      raise ValueError(
        f'model.cpb_windows={self.cpb_windows} needs one entry per stage of '
        f'model.depths={self.depths}.'
      )
    for reduces in self.reduces:
      check_reduces(reduces, key='model.reduces')
    for sensor, size in zip(self.sensors, self.image_sizes, strict=True):
      if size % self.stride(sensor):
        raise ValueError(
          f'model.image_sizes: {size} px of {sensor} is not a multiple of '
          f'{self.stride(sensor)} (patch size times reductions).'
        )
    if not self.global_attention and self.prompts:
      raise ValueError(
        f'model.prompts={self.prompts} needs global attention: set '
        'model.prompts=0 with model.global_attention=False.'
      )
    if self.experts and not 0 < self.moe_layers <= sum(self.depths):
      raise ValueError(
        f'model.moe_layers={self.moe_layers} must lie between 1 and the '
        f'{sum(self.depths)} blocks of model.depths; model.experts=0 is the '
        'dense model.'
      )
    object.__setattr__(
      self,
      'experts',
      counts_lib.check(self.experts, self.moe_layers, key='model.experts'),
    )
    if self.fusion_depth:
      _check_bridges(self)
    for key in ('drop_path', 'fusion_drop_path'):
      if not 0 <= getattr(self, key) < 1:
        raise ValueError(
          f'model.{key}={getattr(self, key)} must be at least 0 and below 1.'
        )
    for key, allowed in (
      ('moe_placement', ('last', 'spread')),
      ('priority', ('first_come', 'batch', 'random')),
      ('engine', ('capacity', 'dropless')),
      ('attention_engine', window_kernel.ENGINES),
      ('remat', remat_lib.NAMES),
      ('dtype', ('float32', 'bfloat16')),
    ):
      choices_lib.check(getattr(self, key), allowed, key=f'model.{key}')

  def of(self, field: str, sensor: str) -> Any:
    """The sensor's entry of `channels`, `reduces` or `image_sizes`."""
    choices_lib.check(sensor, self.sensors, key='sensor')
    return getattr(self, field)[self.sensors.index(sensor)]

  def stride(self, sensor: str) -> int:
    """Pixels per final token."""
    return self.patch_size * 2 ** sum(self.of('reduces', sensor))

  def dim(self, stage: int) -> int:
    """Channels of the tokens of a stage; -1 is the last."""
    return self.embed_dim * 2 ** (stage % STAGES)

  @property
  def moe_blocks(self) -> tuple[int, ...]:
    """Blocks that `experts` counts for, in order over all stages."""
    total, count = sum(self.depths), self.moe_layers if self.experts else 0
    if self.moe_placement == 'last':
      return tuple(range(total - count, total))
    return tuple(-(-(i + 1) * total // count) - 1 for i in range(count))

  @property
  def routed(self) -> dict[int, int]:
    """{block: its experts} of those with a router."""
    blocks = self.moe_blocks
    found = zip(
      blocks, counts_lib.per_layer(self.experts, len(blocks)), strict=True
    )
    return {block: count for block, count in found if count > 1}


def check_reduces(reduces: Reduces, *, key: str) -> Reduces:
  """What to do at each merge, or a ValueError that names `key`."""
  if len(reduces) != STAGES - 1 or not all(
    isinstance(r, bool | np.bool_) for r in reduces
  ):
    raise ValueError(
      f'{key}={reduces} must say True (halve the grid) or False (keep it) for '
      f'each of the {STAGES - 1} merges.'
    )
  return tuple(bool(r) for r in reduces)


def _check_bridges(spec: SkySenseV2Spec) -> None:
  """The fusion repeats coarse grids a whole number of times."""
  sides = {
    s: size // spec.stride(s)
    for s, size in zip(spec.sensors, spec.image_sizes, strict=True)
  }
  for sensor, side in sides.items():
    if max(sides.values()) % side:
      raise ValueError(
        f'model.image_sizes={spec.image_sizes}: the final grid of {sensor}, '
        f'{side} tokens wide, does not divide the finest of {sides}, so that '
        'they cannot be fused; model.fusion_depth=0 fuses nothing.'
      )


class Run(NamedTuple):
  """Consecutive equal blocks, whose parameters are stacked.

  Attributes:
    name: of the parameters inside their stage.
    start: place of the first block in its stage.
    depth: blocks.
    first: place of the first block in the model.
    experts: of each FFN; 1 for a dense one.
  """

  name: str
  start: int
  depth: int
  first: int
  experts: int


def runs(spec: SkySenseV2Spec, stage: int) -> tuple[Run, ...]:
  """What a stage consists of: `blocks` if it is one run of Swin blocks."""
  first, routed = sum(spec.depths[:stage]), spec.routed
  kinds = [routed.get(first + i, 1) for i in range(spec.depths[stage])]
  found = swin.run_names(kinds)
  if is_global(spec, stage):
    found = {f'run_{n}': run for n, run in enumerate(found.values())}
  return tuple(
    Run(name, a, b - a, first + a, kinds[a]) for name, (a, b) in found.items()
  )


def is_global(spec: SkySenseV2Spec, stage: int) -> bool:
  """Whether a stage has global attention rather than windows."""
  return spec.global_attention and stage >= STAGES - 2
