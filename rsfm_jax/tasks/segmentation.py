"""Semantic segmentation: one class per pixel."""

import dataclasses

import jax
import jax.numpy as jnp

from rsfm_jax.nn import resampling
from rsfm_jax.tasks import contract
from rsfm_jax.tasks import losses
from rsfm_jax.tasks import spec as spec_lib

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Segmentation:
  """Scores are brought to the pixels of the masks, then cross-entropy.

  Targets: codes [B, H, W], 255 where unlabelled.
  """

  spec: spec_lib.TaskSpec

  def seen(self, features: contract.Features) -> contract.Features:
    return features

  def loss(
    self, outputs: Array, target: Array
  ) -> tuple[Array, dict[str, Array]]:
    logits = resampling.bilinear(outputs, *target.shape[1:])
    loss = losses.cross_entropy(
      logits,
      target,
      weights=self.spec.class_weights or None,
      smoothing=self.spec.smoothing,
      over=self.spec.over,
    )
    counts = target != losses.UNLABELLED
    right = (logits.argmax(-1) == target) & counts
    total = jnp.maximum(counts.sum(dtype=jnp.float32), 1)
    return loss, {'accuracy': right.sum(dtype=jnp.float32) / total}

  def averaged(self, outputs: Array, *, size: tuple[int, int]) -> Array:
    """Probabilities of the classes, f32[B, H, W, K]."""
    logits = resampling.bilinear(outputs, *size).astype(jnp.float32)
    return jax.nn.softmax(logits, axis=-1)

  def predict(self, outputs: Array, *, size: tuple[int, int]) -> Array:
    """Classes u8[B, H, W]."""
    return resampling.bilinear(outputs, *size).argmax(-1).astype(jnp.uint8)
