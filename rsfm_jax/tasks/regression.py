"""Regression of numbers per scene and per pixel; NaN is unlabelled."""

import dataclasses

import jax
import jax.numpy as jnp

from rsfm_jax.nn import resampling
from rsfm_jax.tasks import contract
from rsfm_jax.tasks import losses
from rsfm_jax.tasks import spec as spec_lib

Array = jax.Array
_ORDER = {'mae': 1, 'mse': 2}


@dataclasses.dataclass(frozen=True)
class SceneRegression:
  """One number per scene; targets f32[B]."""

  spec: spec_lib.TaskSpec

  def seen(self, features: contract.Features) -> contract.Features:
    return features

  def loss(
    self, outputs: Array, target: Array
  ) -> tuple[Array, dict[str, Array]]:
    values = outputs[..., 0]
    loss = losses.error(values, target, order=_ORDER[self.spec.loss])
    return loss, {'mae': losses.error(values, target, order=1)}

  def predict(self, outputs: Array, *, size: tuple[int, int]) -> Array:
    """f32[B]."""
    del size
    return outputs[..., 0]


@dataclasses.dataclass(frozen=True)
class MapRegression:
  """One number per pixel; targets f32[B, H, W]."""

  spec: spec_lib.TaskSpec

  def seen(self, features: contract.Features) -> contract.Features:
    return features

  def loss(
    self, outputs: Array, target: Array
  ) -> tuple[Array, dict[str, Array]]:
    values = resampling.bilinear(outputs, *target.shape[1:])[..., 0]
    loss = losses.error(values, target, order=_ORDER[self.spec.loss])
    return loss, {'mae': losses.error(values, target, order=1)}

  def averaged(self, outputs: Array, *, size: tuple[int, int]) -> Array:
    """The numbers themselves, f32[B, H, W, 1]."""
    return resampling.bilinear(outputs, *size).astype(jnp.float32)

  def predict(self, outputs: Array, *, size: tuple[int, int]) -> Array:
    """f32[B, H, W]."""
    return resampling.bilinear(outputs, *size)[..., 0]
