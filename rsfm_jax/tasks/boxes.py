"""Detection of objects as boxes, by two stages."""

import dataclasses

import jax
import jax.numpy as jnp

from rsfm_jax.tasks import contract
from rsfm_jax.tasks import losses
from rsfm_jax.tasks import spec as spec_lib
from rsfm_jax.tasks.heads import rcnn

Array = jax.Array
Learnt = rcnn.Learnt


@dataclasses.dataclass(frozen=True)
class Detection:
  """Faster R-CNN's four losses, all with weight 1.

  Targets: f32[B, M, 6], (cx, cy, w, h, angle, class) in pixels and radians,
  class -1 where there is no object. The head sees them too: it samples which
  boxes are learnt from.
  """

  spec: spec_lib.TaskSpec

  def seen(self, features: contract.Features) -> contract.Features:
    return features

  def loss(
    self, outputs: rcnn.Stages, target: Array
  ) -> tuple[Array, dict[str, Array]]:
    """Losses are sums over the sampled boxes of the batch over their number.

    Boxes count only where they are objects, but are divided by all that were
    sampled, as in mmdetection.
    """
    del target
    detector = self.spec.detector
    first, second = outputs
    found = losses.soft_margin(
      first.scores, jnp.where(first.valid, first.label, losses.UNLABELLED)
    )
    named = losses.cross_entropy(
      second.scores,
      jnp.where(second.valid, second.label, losses.UNLABELLED),
    )
    parts = {
      'rpn_loss': found,
      'rpn_box_loss': _boxes(first, detector.rpn_beta),
      'class_loss': named,
      'box_loss': _boxes(second, detector.roi_beta),
    }
    right = (second.scores.argmax(-1) == second.label) & second.positive
    objects = second.positive.sum(dtype=jnp.float32)
    recall = right.sum(dtype=jnp.float32) / jnp.maximum(objects, 1)
    return sum(parts.values()), parts | {'recall': recall}

  def predict(self, outputs: Array, *, size: tuple[int, int]) -> Array:
    """Detections f32[B, D, 7]: box, score, class; see `rcnn.Rcnn`."""
    del size
    return outputs


def _boxes(learnt: Learnt, beta: float) -> Array:
  loss = losses.smooth_l1(learnt.deltas, learnt.target, beta=beta).sum(-1)
  total = learnt.valid.sum(dtype=jnp.float32)
  return jnp.where(learnt.positive, loss, 0).sum() / jnp.maximum(total, 1)
