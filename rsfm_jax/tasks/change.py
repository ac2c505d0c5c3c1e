"""Change detection: what differs between two dates, per pixel."""

import dataclasses

import jax
import jax.numpy as jnp

from rsfm_jax.nn import resampling
from rsfm_jax.tasks import contract
from rsfm_jax.tasks import losses
from rsfm_jax.tasks import segmentation
from rsfm_jax.tasks import spec as spec_lib

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class ChangeDetection:
  """One encoder sees both dates (Siamese); the head sees their difference.

  BIT compares the dates itself. With the loss 'soft_margin' the head has one
  score, of change (OSCD's U-Net); with 'cross_entropy' one per class, of which
  0 is no change. Targets: codes [B, H, W], 255 where unlabelled.
  """

  spec: spec_lib.TaskSpec

  def seen(self, features: contract.Features) -> contract.Features:
    """Absolute differences of the maps, but for BIT.

    Raises:
      ValueError: features of one date.
    """
    contract.check_pair(features, self.spec)
    if self.spec.head == 'bit':
      return features
    return features._replace(
      maps={
        name: jnp.abs(pair[:, 0] - pair[:, 1])
        for name, pair in features.maps.items()
      }
    )

  def loss(
    self, outputs: Array, target: Array
  ) -> tuple[Array, dict[str, Array]]:
    if self.spec.loss == 'cross_entropy':
      return segmentation.Segmentation(self.spec).loss(outputs, target)
    scores = resampling.bilinear(outputs, *target.shape[1:])[..., 0]
    counts = target != losses.UNLABELLED
    bits = jnp.where(counts, jnp.minimum(target, 1), target)
    right = ((scores > 0) == (bits > 0)) & counts
    total = jnp.maximum(counts.sum(dtype=jnp.float32), 1)
    return (
      losses.soft_margin(scores, bits),
      {'accuracy': right.sum(dtype=jnp.float32) / total},
    )

  def averaged(self, outputs: Array, *, size: tuple[int, int]) -> Array:
    """Probabilities of the classes, f32[B, H, W, K]; 0 is no change."""
    scores = resampling.bilinear(outputs, *size).astype(jnp.float32)
    if self.spec.loss == 'cross_entropy':
      return jax.nn.softmax(scores, axis=-1)
    change = jax.nn.sigmoid(scores)
    return jnp.concatenate([1 - change, change], axis=-1)

  def predict(self, outputs: Array, *, size: tuple[int, int]) -> Array:
    """Classes u8[B, H, W]; 0 is no change."""
    scores = resampling.bilinear(outputs, *size)
    if self.spec.loss == 'cross_entropy':
      return scores.argmax(-1).astype(jnp.uint8)
    return (scores[..., 0] > 0).astype(jnp.uint8)
