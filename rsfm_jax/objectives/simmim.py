"""SimMIM over several sensors: masked L1, and power for complex SAR.

RingMoE's objective: every sensor is masked by itself, all tokens pass the
encoder, one decoder per sensor; the losses are summed.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from rsfm_jax.core import choices
from rsfm_jax.core import rng
from rsfm_jax.models import clean
from rsfm_jax.moe import balance
from rsfm_jax.objectives import masks as masks_lib
from rsfm_jax.objectives import power

Array = jax.Array
Tree = Any
Batch = Mapping[str, Mapping[str, Array]]

# The official losses divide by (sum of mask + 1e-5).
MASK_EPS = 1e-5


class Encoder(Protocol):
  """`(params, images, *, masks, mode) -> Output` of a model that decodes."""

  def __call__(self, params: Tree, images: Mapping[str, Array], **kw: Any): ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimMIMSpec:
  """What is masked and how errors are weighed.

  Attributes:
    mask_unit: side of a masked unit in pixels (RingMoE: 32 of 192).
    mask_ratio: share of masked units, rounded up.
    weights: loss weight per sensor; 1 for those not named (paper's weights
      NOT FOUND, DEFAULT 1 as in the code).
    sar_l1_head: 'power_mse', 'power_l1' or 'iq_l1'.
    power_scaling: see `power.scale`.
    power_log: 'log' compresses the power target, 'none' does not.
    aux_weight: of the balance losses (RingMoE's code: 0.001).
    z_weight: of the router z-losses; 0 in RingMoE.
  """

  mask_unit: int
  mask_ratio: float = 0.6
  weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
  sar_l1_head: str = 'power_l1'
  power_scaling: power.Scaling = 'scene'
  power_log: str = 'log'
  aux_weight: float = 0.001
  z_weight: float = 0.0

  def __post_init__(self):
    for name, allowed in (
      ('sar_l1_head', ('power_mse', 'power_l1', 'iq_l1')),
      ('power_scaling', ('scene', 'minmax', 'clip_minmax')),
      ('power_log', ('log', 'none')),
    ):
      choices.check(getattr(self, name), allowed, key=f'objective.{name}')
    if not 0 < self.mask_ratio <= 1:
      raise ValueError(
        f'objective.mask_ratio={self.mask_ratio} must be in (0, 1].'
      )


def masked_error(
  target: Array,
  prediction: Array,
  mask: Array,
  *,
  band_valid: Array | None = None,
  order: int = 1,
) -> Array:
  """sum(|x - xhat|^order M) / (sum(M) + eps) / C over the whole batch.

  Args:
    target: [B, H, W, C].
    prediction: [B, H, W, C].
    mask: bool[B, H, W], True where the error counts.
    band_valid: bool[B, C]; errors of invalid bands do not count.
    order: 1 or 2.

  Returns:
    A float32 scalar. Whatever stands in uncounted places has no effect, NaN
    and infinity included.
  """
  counts = jnp.broadcast_to(mask[..., None], target.shape)
  if band_valid is not None:
    counts = counts & band_valid[:, None, None, :]
  target = jnp.where(counts, target, 0).astype(jnp.float32)
  prediction = jnp.where(counts, prediction, 0).astype(jnp.float32)
  error = jnp.abs(target - prediction)
  if order == 2:
    error = jnp.square(error)
  total = counts.sum(dtype=jnp.float32)
  channels = target.shape[-1]
  return error.sum() / (total / channels + MASK_EPS) / channels


@dataclasses.dataclass(frozen=True)
class SimMIM:
  """The objective; `encode` is a model's `apply`.

  Batches: {sensor: {'image' [B, H, W, C] normalised, 'band_valid' [B, C],
  'pixel_valid' [B, H, W], 'valid' [B]}}.
  """

  spec: SimMIMSpec
  encode: Encoder

  def init(self, key: Array) -> tuple[Tree, Tree]:
    """Neither parameters nor state beside the model's."""
    del key
    return {}, {}

  def after_update(
    self, params: Tree, extra: Tree, aux: Tree, step: Array
  ) -> Tree:
    del params, aux, step
    return extra

  def warnings(self, metrics: Mapping[str, Any]) -> dict[str, str]:
    """Reconstruction cannot collapse as self-distillation can."""
    del metrics
    return {}

  def masks(self, batch: Batch, key: Array) -> dict[str, Array]:
    """bool[B, u, u] per sensor; independent of which others are present."""
    out = {}
    for sensor, entry in batch.items():
      size = entry['image'].shape[1]
      if size % self.spec.mask_unit:
        raise ValueError(
          f'objective.mask_unit={self.spec.mask_unit} does not divide the '
          f'{size} px images of {sensor}.'
        )
      out[sensor] = masks_lib.random_masks(
        rng.named(key, 'mask', sensor),
        entry['image'].shape[0],
        side=size // self.spec.mask_unit,
        ratio=self.spec.mask_ratio,
      )
    return out

  def target(self, sensor: str, image: Array, band_valid: Array) -> Array:
    """What the decoder of a sensor has to produce: [B, H, W, C']."""
    spec = self.spec
    if sensor != 'sar_l1' or spec.sar_l1_head == 'iq_l1':
      return image
    values = power.scale(
      power.mean_power(image, band_valid), spec.power_scaling
    )
    return power.compress(values) if spec.power_log == 'log' else values

  def loss(
    self, params: Tree, extra: Tree, batch: Batch, key: Array
  ) -> tuple[Array, dict[str, dict[str, Array]]]:
    """(scalar, {'losses': scalars, 'routing': small arrays per layer}).

    `extra` is unused.
    """
    del extra
    spec = self.spec
    images = {s: clean.series(entry) for s, entry in batch.items()}
    masks = self.masks(batch, key)
    out = self.encode(params, images, masks=masks, mode='train')
    total = jnp.zeros(())
    losses = {}
    for sensor, entry in batch.items():
      losses[sensor] = self._sensor_loss(
        sensor,
        entry,
        images[sensor],
        masks[sensor],
        out.reconstruction[sensor],
      )
      total += spec.weights.get(sensor, 1.0) * losses[sensor]
    losses['balance'] = out.aux.balance.sum()
    losses['z'] = out.aux.z.sum()
    total += spec.aux_weight * losses['balance']
    total += spec.z_weight * losses['z']
    return total, {'losses': losses, 'routing': routing_metrics(out.aux)}

  def _sensor_loss(self, sensor, entry, image, mask, prediction) -> Array:
    spec = self.spec
    counts = masks_lib.upsample(mask, image.shape[1])
    counts &= entry['pixel_valid'] & entry['valid'][:, None, None]
    counts &= entry['band_valid'].any(-1)[:, None, None]
    target = self.target(sensor, image, entry['band_valid'])
    if target.shape[-1] == 1 and prediction.shape[-1] > 1:
      target = jnp.repeat(target, prediction.shape[-1], -1)
    bands = entry['band_valid']
    if bands.shape[-1] != target.shape[-1]:
      bands = None
    order = 2 if (sensor, spec.sar_l1_head) == ('sar_l1', 'power_mse') else 1
    return masked_error(
      target, prediction, counts, band_valid=bands, order=order
    )


def routing_metrics(aux: Any) -> dict[str, Array]:
  """Arrays per layer (leading axis L) for the writers and the report."""
  metrics = {
    'specialised_load': aux.specialised_load,
    'collaborative_load': aux.collaborative_load,
    'dropped': aux.dropped,
    'entropy': aux.entropy,
  }
  if aux.collaborative_load.shape[-1]:
    metrics['mutual_information'] = balance.mutual_information(
      aux.collaborative_load, aux.share[0]
    )
  return jax.lax.stop_gradient(metrics)
