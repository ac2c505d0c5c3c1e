"""A region proposal network: where objects may be, whatever they are.

Ren et al., "Faster R-CNN"; of oriented boxes Xie et al., "Oriented R-CNN"
(arXiv 2108.05699): the same network with six numbers for a box.
"""

from collections.abc import Sequence
from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.core import rng
from rsfm_jax.nn import convolution
from rsfm_jax.tasks.detection import anchors as anchors_lib
from rsfm_jax.tasks.detection import boxes as boxes_lib
from rsfm_jax.tasks.detection import coders
from rsfm_jax.tasks.detection import matching
from rsfm_jax.tasks.detection import spec as spec_lib
from rsfm_jax.tasks.detection import suppression

Array = jax.Array


class Scored(NamedTuple):
  """What the network says of every anchor, level by level.

  Attributes:
    logits: f32[B, A] each.
    deltas: f32[B, A, D] each.
  """

  logits: list[Array]
  deltas: list[Array]


class Regions(NamedTuple):
  """Proposals: boxes f32[B, R, 5] and which of them are some, bool[B, R]."""

  boxes: Array
  valid: Array


class Learnt(NamedTuple):
  """Sampled boxes of one stage beside what they should be.

  Attributes:
    scores: f32[B, S] of objects, or f32[B, S, K + 1] of classes.
    label: i32[B, S], 1 for an object, or its class with K for background.
    valid: bool[B, S].
    positive: bool[B, S], has a box.
    deltas: f32[B, S, D] as predicted.
    target: f32[B, S, D], where positive.
  """

  scores: Array
  label: Array
  valid: Array
  positive: Array
  deltas: Array
  target: Array


class RegionProposals(nnx.Module):
  """A 3x3 convolution, then scores and deltas, shared by all levels."""

  def __init__(
    self,
    channels: int,
    spec: spec_lib.DetectorSpec,
    coder: coders.Coder,
    *,
    key: Array,
  ):
    make = lambda name, dim, size: convolution.Conv(
      channels, dim, size, key=rng.named(key, name), std=0.01
    )
    count = len(spec.anchor_ratios)
    self.shared = make('shared', channels, 3)
    self.scores = make('scores', count, 1)
    self.deltas = make('deltas', count * coder.size, 1)
    self.spec = spec
    self.coder = coder

  def __call__(self, maps: Sequence[Array]) -> Scored:
    """Levels [B, h, w, C] -> scores of their anchors."""
    logits, deltas = [], []
    for x in maps:
      y = jax.nn.relu(self.shared(x))
      logits.append(self.scores(y).reshape(len(x), -1))
      deltas.append(self.deltas(y).reshape(len(x), -1, self.coder.size))
    return Scored(logits, deltas)

  def anchors(
    self, maps: Sequence[Array], strides: Sequence[float]
  ) -> list[np.ndarray]:
    """Of every level, f32[A, 5]."""
    return [
      anchors_lib.grid(
        x.shape[1:3],
        stride,
        scale=self.spec.anchor_scale,
        ratios=self.spec.anchor_ratios,
      )
      for x, stride in zip(maps, strides)
    ]

  def regions(
    self, scored: Scored, anchors: Sequence[np.ndarray], size: tuple[int, int]
  ) -> Regions:
    """The best boxes of an image, levels suppressed each for themselves.

    Oriented boxes suppress each other by their hulls, as in mmrotate.
    """
    spec = self.spec

    def level(logits: Array, deltas: Array, base: Array):
      best, order = jax.lax.top_k(logits, min(spec.pre_nms, len(logits)))
      found = self.coder.decode(base[order], deltas[order])
      if self.coder.size == 4:
        found = boxes_lib.clip(found, size)
      some = (found[:, 2:4] > 0).all(-1)
      kept = suppression.suppress(
        boxes_lib.hull(found),
        jnp.where(some, best, -jnp.inf),
        overlap=boxes_lib.iou,
        iou=spec.proposal_iou,
        count=spec.proposals,
      )
      return found[kept.index], kept.score

    def image(logits: list[Array], deltas: list[Array]) -> Regions:
      parts = [
        level(one, two, jnp.asarray(base))
        for one, two, base in zip(logits, deltas, anchors)
      ]
      found, scores = (jnp.concatenate(x) for x in zip(*parts))
      best, order = jax.lax.top_k(scores, min(spec.proposals, len(scores)))
      return Regions(found[order], best > -jnp.inf)

    return jax.vmap(image)(*jax.lax.stop_gradient(scored))

  def learnt(
    self,
    scored: Scored,
    anchors: Sequence[np.ndarray],
    objects: Array,
    valid: Array,
    *,
    size: tuple[int, int],
    key: Array,
  ) -> Learnt:
    """A sample of anchors; objects f32[B, M, 5], valid bool[B, M]."""
    spec, base = self.spec, np.concatenate(anchors)
    usable = np.ones(len(base), bool)
    if spec.border == 'inside':
      usable = anchors_lib.inside(base, size)
    base, usable = jnp.asarray(base), jnp.asarray(usable)

    def image(logits, deltas, objects, valid, key) -> Learnt:
      match = matching.assign(
        base,
        boxes_lib.hull(objects),
        valid,
        # Anchors that are not used are nobody's best either.
        overlap=lambda a, b: jnp.where(usable, boxes_lib.iou(a, b), 0),
        background=spec.rpn_iou[0],
        foreground=spec.rpn_iou[1],
        least=spec.rpn_least,
      )
      drawn = matching.draw(
        jnp.where(usable, match.label, -1),
        count=spec.rpn_samples,
        fraction=0.5,
        key=key,
      )
      at = drawn.index
      return Learnt(
        logits[at],
        drawn.positive.astype(jnp.int32),
        drawn.valid,
        drawn.positive,
        deltas[at],
        self.coder.encode(base[at], objects[match.object[at]]),
      )

    return jax.vmap(image)(
      jnp.concatenate(scored.logits, 1),
      jnp.concatenate(scored.deltas, 1),
      objects,
      valid,
      jax.random.split(key, len(objects)),
    )
