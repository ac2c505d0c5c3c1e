"""Scene classification: one class of a scene, or several labels of it."""

import dataclasses

import jax
import jax.numpy as jnp

from rsfm_jax.tasks import contract
from rsfm_jax.tasks import losses
from rsfm_jax.tasks import spec as spec_lib

Array = jax.Array
Features = contract.Features


@dataclasses.dataclass(frozen=True)
class SceneClasses:
  """One class per scene, by cross-entropy; targets int[B]."""

  spec: spec_lib.TaskSpec

  def seen(self, features: Features) -> Features:
    return features

  def loss(
    self, outputs: Array, target: Array
  ) -> tuple[Array, dict[str, Array]]:
    loss = losses.cross_entropy(
      outputs,
      target,
      weights=self.spec.class_weights or None,
      smoothing=self.spec.smoothing,
    )
    right = (outputs.argmax(-1) == target).mean(dtype=jnp.float32)
    return loss, {'accuracy': right}

  def predict(self, outputs: Array, *, size: tuple[int, int]) -> Array:
    """Scores f32[B, K]."""
    del size
    return outputs


@dataclasses.dataclass(frozen=True)
class SceneLabels:
  """Several labels per scene, each by itself; targets bits [B, L]."""

  spec: spec_lib.TaskSpec

  def seen(self, features: Features) -> Features:
    return features

  def loss(
    self, outputs: Array, target: Array
  ) -> tuple[Array, dict[str, Array]]:
    right = ((outputs > 0) == (target > 0)).mean(dtype=jnp.float32)
    return losses.soft_margin(outputs, target), {'accuracy': right}

  def predict(self, outputs: Array, *, size: tuple[int, int]) -> Array:
    """Scores f32[B, L]; above 0 is yes."""
    del size
    return outputs
