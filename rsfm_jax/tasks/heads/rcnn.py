"""Faster R-CNN and Oriented R-CNN: propose regions, then name and fit them.

In the form of mmdetection's `faster-rcnn_r50_fpn` and mmrotate's
`oriented_rcnn_r50_fpn`: five levels of a pyramid propose, of the first four
regions are pooled, two layers lead to scores of the classes and to a box.
"""

from collections.abc import Sequence
from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from rsfm_jax.core import rng
from rsfm_jax.nn import batch_norm
from rsfm_jax.nn import linear
from rsfm_jax.tasks import contract
from rsfm_jax.tasks.detection import boxes as boxes_lib
from rsfm_jax.tasks.detection import coders
from rsfm_jax.tasks.detection import matching
from rsfm_jax.tasks.detection import roi_align
from rsfm_jax.tasks.detection import rotated
from rsfm_jax.tasks.detection import spec as spec_lib
from rsfm_jax.tasks.detection import suppression
from rsfm_jax.tasks.heads import feature_pyramid
from rsfm_jax.tasks.heads import region_proposals

Array = jax.Array
Learnt = region_proposals.Learnt
_RPN = {4: coders.Deltas(), 6: coders.Midpoints()}
_STDS = (0.1, 0.1, 0.2, 0.2)


class Stages(NamedTuple):
  """What both stages learn from."""

  anchors: Learnt
  regions: Learnt


class BoxHead(nnx.Module):
  """Two hidden layers, scores of K classes and background, deltas."""

  def __init__(
    self, dim: int, classes: int, deltas: int, *, hidden: int, key: Array
  ):
    make = lambda name, a, b, std: linear.Dense(
      a, b, key=rng.named(key, name), std=std
    )
    self.first = make('first', dim, hidden, (2 / (dim + hidden)) ** 0.5)
    self.second = make('second', hidden, hidden, hidden**-0.5)
    self.scores = make('scores', hidden, classes + 1, 0.01)
    self.deltas = make('deltas', hidden, deltas, 0.001)

  def __call__(self, x: Array) -> tuple[Array, Array]:
    """[..., D] -> scores [..., K + 1] and deltas."""
    x = jax.nn.relu(self.second(jax.nn.relu(self.first(x))))
    return self.scores(x), self.deltas(x)


class Rcnn(nnx.Module):
  """Detections of horizontal or, with `oriented`, of oriented boxes."""

  def __init__(
    self,
    dims: Sequence[int],
    classes: int,
    *,
    levels: Sequence[str],
    channels: int,
    spec: spec_lib.DetectorSpec,
    oriented: bool,
    key: Array,
  ):
    """`dims` are the channels of the maps `levels`, finest first."""
    self.coder = (
      coders.RotatedDeltas((*_STDS, 0.1)) if oriented else coders.Deltas(_STDS)
    )
    self.overlap = rotated.iou if oriented else boxes_lib.iou
    self.pyramid = feature_pyramid.FeaturePyramid(
      dims, channels, key=rng.named(key, 'pyramid')
    )
    self.proposals = region_proposals.RegionProposals(
      channels,
      spec,
      _RPN[6 if oriented else 4],
      key=rng.named(key, 'proposals'),
    )
    self.sets = classes if spec.boxes == 'each' else 1
    self.boxes = BoxHead(
      channels * spec.roi_size**2,
      classes,
      self.sets * self.coder.size,
      hidden=spec.hidden,
      key=rng.named(key, 'boxes'),
    )
    self.levels = tuple(levels)
    self.classes = classes
    self.spec = spec

  def __call__(
    self,
    features: contract.Features,
    *,
    mode: batch_norm.Mode,
    key: Array | None = None,
    target: Array | None = None,
  ) -> Array | Stages:
    """Detections, or with a target what is to be learnt.

    Args:
      features: of the encoder.
      mode: without a meaning: nothing is normalised over the batch.
      key: of the samples, with a target.
      target: f32[B, M, 6], boxes and their class, -1 where there is none.

    Returns:
      `Stages`, or f32[B, D, 7] by falling score: box, score, class; score 0
      and class -1 where there is no detection.
    """
    del mode
    maps = self.pyramid([features.maps[name] for name in self.levels])
    size = features.size
    strides = [size[0] / x.shape[1] for x in maps[:-1]]
    strides.append(2 * strides[-1])
    scored = self.proposals(maps)
    anchors = self.proposals.anchors(maps, strides)
    regions = self.proposals.regions(scored, anchors, size)
    if target is None:
      return self._detect(maps[:-1], strides[:-1], regions, size)
    objects, classes = target[..., :5], target[..., 5].astype(jnp.int32)
    first = self.proposals.learnt(
      scored,
      anchors,
      objects,
      classes >= 0,
      size=size,
      key=rng.named(key, 'anchors'),
    )
    second = self._learnt(
      maps[:-1],
      strides[:-1],
      regions,
      objects,
      classes,
      key=rng.named(key, 'regions'),
    )
    return Stages(first, second)

  def _fit(
    self, maps: Sequence[Array], strides: Sequence[float], rois: Array
  ) -> tuple[Array, Array]:
    """Scores f32[B, R, K + 1] and deltas [B, R, sets, D] of regions."""
    spec = self.spec
    pooled = roi_align.align(
      maps, strides, rois, size=spec.roi_size, points=spec.roi_points
    )
    scores, deltas = self.boxes(pooled.reshape(*rois.shape[:2], -1))
    return scores, deltas.reshape(*rois.shape[:2], self.sets, self.coder.size)

  def _learnt(
    self, maps, strides, regions, objects, classes, *, key: Array
  ) -> Learnt:
    """A sample of regions, among them the objects themselves."""
    spec, background = self.spec, self.classes

    def image(found, some, objects, classes, key):
      here = classes >= 0
      found = jnp.concatenate([objects, found])
      some = jnp.concatenate([here, some])
      match = matching.assign(
        found,
        objects,
        here,
        overlap=self.overlap,
        background=spec.roi_iou,
        foreground=spec.roi_iou,
      )
      drawn = matching.draw(
        jnp.where(some, match.label, -1),
        count=spec.roi_samples,
        fraction=0.25,
        key=key,
      )
      which = match.object[drawn.index]
      label = jnp.where(drawn.positive, classes[which], background)
      rois = found[drawn.index]
      return rois, label, drawn, self.coder.encode(rois, objects[which])

    rois, label, drawn, wanted = jax.vmap(image)(
      *regions, objects, classes, jax.random.split(key, len(objects))
    )
    scores, deltas = self._fit(maps, strides, rois)
    own = jnp.minimum(label, self.sets - 1)[..., None, None]
    deltas = jnp.take_along_axis(deltas, own, 2)[..., 0, :]
    return Learnt(scores, label, drawn.valid, drawn.positive, deltas, wanted)

  def _detect(self, maps, strides, regions, size) -> Array:
    spec, classes = self.spec, self.classes
    scores, deltas = self._fit(maps, strides, regions.boxes)
    scores = jax.nn.softmax(scores, -1)[..., :classes]

    def image(rois, some, scores, deltas):
      ranked = jnp.where(
        some[:, None] & (scores > spec.score), scores, -jnp.inf
      )
      count = min(spec.candidates, ranked.size)
      best, place = jax.lax.top_k(ranked.reshape(-1), count)
      row, label = place // classes, place % classes
      found = self.coder.decode(
        rois[row], deltas[row, jnp.minimum(label, self.sets - 1)]
      )
      if self.coder.size == 4:
        found = boxes_lib.clip(found, size)
      kept = suppression.suppress(
        found,
        best,
        overlap=self.overlap,
        iou=spec.nms_iou,
        count=spec.detections,
        classes=label,
      )
      score = jnp.where(kept.valid, kept.score, 0)
      label = jnp.where(kept.valid, label[kept.index], -1)
      extra = jnp.stack([score, label.astype(score.dtype)], -1)
      return jnp.concatenate([found[kept.index], extra], -1)

    return jax.vmap(image)(*regions, scores, deltas)
