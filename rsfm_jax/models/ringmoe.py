"""RingMoE: one Swin trunk for four sensors, RMoE in every block.

Structure and numbers follow the official code as documented for this project
(RingMoE, arXiv 2504.03166, and its public framework); where code, paper and
good sense differ there is a switch in `RingMoESpec`, the corrected choice
being the default.
"""

from collections.abc import Mapping
import dataclasses
from typing import ClassVar, Literal, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from rsfm_jax.core import choices as choices_lib
from rsfm_jax.core import rng
from rsfm_jax.models import json_spec
from rsfm_jax.moe import counts as counts_lib
from rsfm_jax.moe import expert_parallel
from rsfm_jax.moe import experts
from rsfm_jax.moe import rmoe
from rsfm_jax.moe import routing
from rsfm_jax.nn import attention as attention_lib
from rsfm_jax.nn import linear
from rsfm_jax.nn import patches
from rsfm_jax.nn import remat as remat_lib
from rsfm_jax.nn import swin
from rsfm_jax.nn import window_kernel

Array = jax.Array
Images = Mapping[str, Array]
SarHead = Literal['power_mse', 'power_l1', 'iq_l1']

# Order, and channels of patch embed and decoder (fact: fixed by index).
SENSORS = ('opt', 'sar_l1', 'sar_l2', 'ms')
BRANCHES = ('specialised', 'collaborative')
CHANNELS = {'opt': 3, 'sar_l1': 8, 'sar_l2': 3, 'ms': 4}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RingMoESpec(json_spec.JsonSpec):
  """Everything that defines a RingMoE's parameters and its forward pass.

  Attributes:
    sensors: in the order of the specialised experts' axis M.
    channels: patch-embed channels per sensor; a one-band image of a sensor
      with more channels is replicated (SAR-L2, as in the official code).
    image_size: pixels; fixes windows and bias tables.
    patch_size: pixels.
    embed_dim: D of stage 0; doubles with every stage.
    depths: blocks per stage.
    heads: heads per stage.
    window: tokens; clipped to the grid of each stage.
    mlp_ratio: F / D of every expert.
    attention: 'v1_bias' (as executed officially) or 'v2_cosine' (Swin V2).
    attention_engine: 'auto' is a fused kernel on TPU and the plain form
      elsewhere; 'plain' and 'fused' hold everywhere.
    cpb_windows: per stage, the window whose largest offset log-CPB counts as 1;
      None takes that of the stage. Weights that were trained in other windows
      need theirs (Swin V2's pretrained_window_sizes).
    norm_gain: start of the gains of the blocks' post-norms.
    init_std: std of all matrices; None takes 1 / sqrt(fan-in).
    specialised: experts per sensor and block, or one such number for each
      block where they differ; 0 for none.
    collaborative: the same for all sensors.
    choices: experts per token and router, K.
    gate: 'prob' keeps the gate's gradient; 'normalised' is as coded (Q1).
    engine: in training, 'capacity' or 'dropless'; evaluation is dropless.
    capacity_factor: slots per expert relative to perfect balance.
    chunks, buffer_factor: how tokens cross devices; see `moe.experts.Options`.
    priority: who gets the slots of a full expert; see `moe.routing.route`.
    balance_scale: None takes each router's own expert count; 8 is as coded
      for routers of 4 (Q3).
    balance_scope: 'mixed' balances the collaborative router over each routing
      group, 'global' over the batch of all devices; 'per_sensor' is as coded
      (Q4).
    routing_groups: capacity and balance are counted in this many slices of
      the batch; None makes one per device that holds samples.
    sar_l1_head: what the SAR-L1 decoder predicts: total power (1 channel) or
      I/Q (8 channels).
    decoders: whether reconstruction decoders are part of the model.
    remat: what blocks compute again in the backward pass; see `nn.remat`.
    unroll: pairs of blocks per scan iteration.
    dtype: compute dtype of matrices; norms, softmax and routers stay float32.
  """

  MODEL: ClassVar[str] = 'ringmoe'
  TITLE: ClassVar[str] = 'RingMoE'

  sensors: tuple[str, ...] = SENSORS
  channels: tuple[int, ...] = tuple(CHANNELS[s] for s in SENSORS)
  image_size: int
  patch_size: int
  embed_dim: int
  depths: tuple[int, ...]
  heads: tuple[int, ...]
  window: int
  mlp_ratio: float = 4.0
  attention: attention_lib.Kind = 'v2_cosine'
  attention_engine: window_kernel.Engine = 'auto'
  cpb_windows: tuple[int, ...] | None = None
  norm_gain: float = 1.0
  init_std: float | None = linear.DEFAULT_STD
  specialised: counts_lib.Counts = 4
  collaborative: counts_lib.Counts = 4
  choices: int = 1
  gate: routing.Gate = 'prob'
  engine: experts.Engine = 'capacity'
  capacity_factor: float = 1.2
  chunks: int = 1
  buffer_factor: float | None = None
  priority: routing.Priority = 'first_come'
  balance_scale: float | None = None
  balance_scope: rmoe.BalanceScope = 'mixed'
  routing_groups: int | None = None
  sar_l1_head: SarHead = 'power_l1'
  decoders: bool = True
  remat: remat_lib.Policy = 'none'
  unroll: int = 1
  dtype: Literal['float32', 'bfloat16'] = 'float32'

  def __post_init__(self):
    for field in ('sensors', 'channels', 'depths', 'heads'):
      object.__setattr__(self, field, tuple(getattr(self, field)))
    if self.cpb_windows is not None:
      object.__setattr__(self, 'cpb_windows', tuple(self.cpb_windows))
    if len(self.channels) != len(self.sensors):
      raise ValueError(
        f'model.channels={self.channels} needs one entry per sensor of '
        f'{self.sensors}.'
      )
    if len(self.heads) != len(self.depths):
      raise ValueError(
        f'model.heads={self.heads} needs one entry per stage of '
        f'model.depths={self.depths}.'
      )
    for field in BRANCHES:
      found = counts_lib.check(
        getattr(self, field), sum(self.depths), key=f'model.{field}'
      )
      object.__setattr__(self, field, found)
    if self.cpb_windows and len(self.cpb_windows) != len(self.depths):
      raise ValueError(
        f'model.cpb_windows={self.cpb_windows} needs one entry per stage of '
        f'model.depths={self.depths}.'
      )
    stride = self.patch_size * 2 ** (len(self.depths) - 1)
    if self.image_size % stride:
      raise ValueError(
        f'model.image_size={self.image_size} is not a multiple of '
        f'{stride} (patch size times merges).'
      )
    for key, allowed in (
      ('attention', ('v1_bias', 'v2_cosine')),
      ('attention_engine', window_kernel.ENGINES),
      ('gate', ('prob', 'normalised')),
      ('engine', ('capacity', 'dropless')),
      ('balance_scope', ('mixed', 'per_sensor', 'global')),
      ('priority', ('first_come', 'batch', 'random')),
      ('sar_l1_head', ('power_mse', 'power_l1', 'iq_l1')),
      ('remat', remat_lib.NAMES),
      ('dtype', ('float32', 'bfloat16')),
    ):
      choices_lib.check(getattr(self, key), allowed, key=f'model.{key}')

  def counts(self, stage: int) -> tuple[tuple[int, int], ...]:
    """(specialised, collaborative) experts of each block of a stage."""
    first = sum(self.depths[:stage])
    every = [
      counts_lib.per_layer(getattr(self, field), sum(self.depths))
      for field in BRANCHES
    ]
    return tuple(zip(*every, strict=True))[first : first + self.depths[stage]]

  @property
  def stride(self) -> int:
    """Pixels per final token: the block of the decoders."""
    return self.patch_size * 2 ** (len(self.depths) - 1)

  def decoder_channels(self, sensor: str) -> int:
    if sensor == 'sar_l1' and self.sar_l1_head != 'iq_l1':
      return 1
    return self.channels[self.sensors.index(sensor)]


class Output(NamedTuple):
  """Of a forward pass.

  Attributes:
    features: final tokens per sensor, [B, h, w, D].
    intermediates: {'embed', 'stage_0', ...}: {sensor: [B, h, w, D]}.
    reconstruction: {sensor: [B, H, W, C']}, or None without decoders.
    aux: one `RMoEAux` with a leading layer axis over all blocks; see
      `moe.counts.join` where their numbers of experts differ.
  """

  features: dict[str, Array]
  intermediates: dict[str, dict[str, Array]]
  reconstruction: dict[str, Array] | None
  aux: rmoe.RMoEAux


class RingMoE(nnx.Module):
  """See the module docstring; parameters are named in docs/architecture.md."""

  def __init__(self, spec: RingMoESpec, *, key: Array):
    dim, std = spec.embed_dim, spec.init_std
    self.spec = spec
    self.embed = nnx.Dict(
      {
        sensor: patches.PatchEmbed(
          c,
          dim,
          spec.patch_size,
          key=rng.named(key, 'embed', sensor),
          std=std,
        )
        for sensor, c in zip(spec.sensors, spec.channels, strict=True)
      }
    )
    self.mask_token = nnx.Param(
      linear.truncated_normal(rng.named(key, 'mask_token'), (1, dim))[0]
    )
    for i in range(len(spec.depths)):
      name = f'stage_{i}'
      setattr(self, name, _make_stage(spec, i, key=rng.named(key, name)))
    last = dim * 2 ** (len(spec.depths) - 1)
    self.norm = linear.LayerNorm(last)
    self.decoder = nnx.Dict(
      {
        sensor: linear.Dense(
          last,
          spec.stride**2 * spec.decoder_channels(sensor),
          key=rng.named(key, 'decoder', sensor),
          std=std and 0.01,
        )
        for sensor in (spec.sensors if spec.decoders else ())
      }
    )

  def __call__(
    self,
    images: Images,
    *,
    masks: Images | None = None,
    mode: Literal['train', 'eval'] = 'eval',
    engine: experts.Engine | None = None,
    placement: expert_parallel.Placement | None = None,
  ) -> Output:
    """Encodes the sensors that are present, and decodes if it can.

    Args:
      images: {sensor: f32[B, H, W, C]}, all of one H x W; B may differ.
      masks: {sensor: bool[B, u, v]}, True where tokens are replaced by the
        mask token; u divides the token grid.
      mode: 'train' routes by `spec.engine`, 'eval' drops nothing.
      engine: overrides the engine of the mode (tests).
      placement: where samples and experts live on a mesh.
    """
    spec = self.spec
    present = self._check(images)
    arrangement = expert_parallel.arrange(
      [(spec.sensors.index(s), images[s].shape[0]) for s in present],
      placement,
      groups=spec.routing_groups if mode == 'train' else None,
    )
    keep = placement.keep if placement else lambda y: y
    x = keep(
      arrangement.join([self._tokens(images, masks, s) for s in present])
    )
    options = experts.Options(
      engine=engine or (spec.engine if mode == 'train' else 'dropless'),
      choices=spec.choices,
      gate=spec.gate,
      capacity_factor=spec.capacity_factor,
      chunks=spec.chunks,
      # Evaluation loses no token.
      buffer_factor=spec.buffer_factor if mode == 'train' else None,
      priority=spec.priority,
      balance_scale=spec.balance_scale,
      norms=mode == 'eval' and engine != 'oracle',
    )
    split = lambda y: dict(zip(present, arrangement.split(y), strict=True))
    intermediates = {'embed': split(x)}
    auxes = []
    for i in range(len(spec.depths)):
      stage = getattr(self, f'stage_{i}')
      x, aux = stage(
        x,
        segments=arrangement.segments,
        options=options,
        groups=arrangement.groups,
        scope=spec.balance_scope,
        placement=placement,
        mesh=placement.mesh if placement else None,
      )
      x = keep(x)
      auxes += aux
      intermediates[f'stage_{i}'] = split(x)
      if stage.merge is not None:
        x = stage.merge(x)
    features = split(self.norm(x))
    reconstruction = None
    if spec.decoders:
      reconstruction = {
        s: patches.depth_to_space(
          self.decoder[s](features[s]), spec.stride
        ).astype(jnp.float32)
        for s in present
      }
    aux = counts_lib.join(auxes)
    return Output(features, intermediates, reconstruction, aux)

  def _check(self, images: Images) -> list[str]:
    for sensor in images:
      choices_lib.check(sensor, self.spec.sensors, key='sensor of the batch')
    sizes = {image.shape[1:3] for image in images.values()}
    if len(sizes) != 1:
      raise ValueError(
        f'All sensors of a batch need one image size, not {sorted(sizes)}.'
      )
    return [s for s in self.spec.sensors if s in images]

  def _tokens(self, images: Images, masks: Images | None, sensor: str) -> Array:
    """Patch tokens of one sensor with the masked ones replaced."""
    image = images[sensor].astype(self.spec.dtype)
    channels = self.spec.channels[self.spec.sensors.index(sensor)]
    if image.shape[-1] == 1 and channels > 1:
      image = jnp.repeat(image, channels, axis=-1)
    if image.shape[-1] != channels:
      raise ValueError(
        f'{sensor}: the image has {image.shape[-1]} bands, the model takes '
        f'{channels}.'
      )
    x = self.embed[sensor](image)
    if masks is None:
      return x
    mask = masks[choices_lib.check(sensor, masks, key='sensor with a mask')]
    repeat = x.shape[1] // mask.shape[1]
    if x.shape[1:3] != (repeat * mask.shape[1], repeat * mask.shape[2]):
      raise ValueError(
        f'{sensor}: a mask of {mask.shape[1]} x {mask.shape[2]} units does '
        f'not fit {x.shape[1]} x {x.shape[2]} tokens; objective.mask_unit '
        'must be a multiple of model.patch_size.'
      )
    mask = jnp.repeat(jnp.repeat(mask, repeat, 1), repeat, 2)[..., None]
    token = self.mask_token[...].astype(x.dtype).reshape(1, 1, 1, -1)
    return jnp.where(mask, token, x)


def _make_stage(spec: RingMoESpec, index: int, *, key: Array) -> swin.SwinStage:
  """Blocks of one resolution and, but for the last, the merging after it."""
  dim = spec.embed_dim * 2**index
  grid = spec.image_size // spec.patch_size // 2**index

  def make_block(block_key: Array, counts: tuple[int, int]) -> swin.SwinBlock:
    specialised, collaborative = counts
    ffn = rmoe.RMoE(
      dim,
      int(dim * spec.mlp_ratio),
      sensors=len(spec.sensors),
      specialised=specialised,
      collaborative=collaborative,
      key=rng.named(block_key, 'ffn'),
      std=spec.init_std,
    )
    attend = attention_lib.WindowAttention(
      dim,
      spec.heads[index],
      min(spec.window, grid),
      kind=spec.attention,
      key=rng.named(block_key, 'attention'),
      std=spec.init_std,
      engine=spec.attention_engine,
      cpb_window=spec.cpb_windows and spec.cpb_windows[index],
    )
    return swin.SwinBlock(attend, ffn, dim=dim, gain=spec.norm_gain)

  last = index == len(spec.depths) - 1
  return swin.SwinStage(
    make_block,
    spec.counts(index),
    key=rng.named(key, 'blocks'),
    merge=None
    if last
    else patches.PatchMerging(
      dim, key=rng.named(key, 'merge'), std=spec.init_std
    ),
    remat=spec.remat,
    unroll=spec.unroll,
  )
