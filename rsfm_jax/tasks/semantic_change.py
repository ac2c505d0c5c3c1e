"""Semantic change: the class of every pixel at two dates."""

import dataclasses

import jax

from rsfm_jax.tasks import contract
from rsfm_jax.tasks import segmentation
from rsfm_jax.tasks import spec as spec_lib

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class SemanticChange:
  """One encoder and one head segment both dates; change is where they differ.

  That is how DynamicEarthNet compares land cover of two months (Toker et al.,
  CVPR 2022, arXiv 2203.12560). Targets: codes [B, 2, H, W], 255 where
  unlabelled.
  """

  spec: spec_lib.TaskSpec

  def seen(self, features: contract.Features) -> contract.Features:
    """Maps of the dates as those of images of their own: [2 B, h, w, D].

    Raises:
      ValueError: features of one date.
    """
    contract.check_pair(features, self.spec)
    flat = {n: x.reshape(-1, *x.shape[2:]) for n, x in features.maps.items()}
    return features._replace(maps=flat)

  def loss(
    self, outputs: Array, target: Array
  ) -> tuple[Array, dict[str, Array]]:
    flat = target.reshape(-1, *target.shape[2:])
    return segmentation.Segmentation(self.spec).loss(outputs, flat)

  def predict(self, outputs: Array, *, size: tuple[int, int]) -> Array:
    """Classes u8[B, 2, H, W]."""
    found = segmentation.Segmentation(self.spec).predict(outputs, size=size)
    return found.reshape(-1, 2, *size)
