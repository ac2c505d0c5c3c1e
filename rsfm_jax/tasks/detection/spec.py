"""What defines a two-stage detector besides its task."""

from collections.abc import Sequence
import dataclasses
from typing import Literal, get_args

from rsfm_jax.core import choices

Border = Literal['any', 'inside']
Share = Literal['each', 'shared']


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorSpec:
  """Anchors, thresholds and numbers of boxes of both stages.

  The defaults are mmdetection 3's `faster-rcnn_r50_fpn` (1x); where mmrotate's
  `oriented_rcnn_r50_fpn_1x_dota_le90` differs, its value stands behind it in
  brackets and the configs of oriented boxes set it. Two deviations keep shapes
  static and small: regions are sampled at a fixed number of points (Faster
  R-CNN there takes as many as the region is large), and as many proposals are
  ranked in evaluation as in training.

  Attributes:
    anchor_scale: side of an anchor in strides of its level.
    anchor_ratios: height over width.
    border: 'any' anchor is learnt from ['inside': those within the image].
    rpn_iou: below the first an anchor is background, from the second on an
      object; between them it counts as neither.
    rpn_least: overlap from which on the best anchors of an object are its.
    rpn_samples: anchors per image in the loss, at most half of them objects.
    rpn_beta: where the loss of boxes turns linear; 0 is plain L1 [1 / 9].
    pre_nms: boxes per level of the pyramid that are ranked.
    proposals: regions per image that the second stage sees [2000].
    proposal_iou: above which a proposal is suppressed [0.8].
    roi_iou: from which on a region is an object.
    roi_samples: regions per image in the loss, a quarter of them objects.
    roi_beta: as `rpn_beta` [1].
    roi_size: bins per side of a region.
    roi_points: sampling points per side of a bin.
    hidden: width of the two layers of the box head.
    boxes: whether 'each' class corrects boxes itself ['shared'].
    score: below which nothing is detected.
    candidates: (region, class) pairs per image that are ranked, DEFAULT.
    nms_iou: above which a detection of the same class is suppressed [0.1].
    detections: per image [2000].
  """

  anchor_scale: float = 8.0
  anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0)
  border: Border = 'any'
  rpn_iou: tuple[float, float] = (0.3, 0.7)
  rpn_least: float = 0.3
  rpn_samples: int = 256
  rpn_beta: float = 0.0
  pre_nms: int = 2000
  proposals: int = 1000
  proposal_iou: float = 0.7
  roi_iou: float = 0.5
  roi_samples: int = 512
  roi_beta: float = 0.0
  roi_size: int = 7
  roi_points: int = 2
  hidden: int = 1024
  boxes: Share = 'each'
  score: float = 0.05
  candidates: int = 1000
  nms_iou: float = 0.5
  detections: int = 100

  def __post_init__(self):
    for name in ('anchor_ratios', 'rpn_iou'):
      object.__setattr__(self, name, tuple(getattr(self, name)))
    choices.check(self.border, get_args(Border), key='task.detector.border')
    choices.check(self.boxes, get_args(Share), key='task.detector.boxes')
    positive = [
      f.name for f in dataclasses.fields(self) if f.type in (int, 'int')
    ]
    for name in (*positive, 'anchor_scale'):
      if getattr(self, name) <= 0:
        raise ValueError(
          f'task.detector.{name}={getattr(self, name)} must be positive.'
        )
    low, high = self.rpn_iou
    shares = (low, high, self.rpn_least, self.proposal_iou, self.roi_iou)
    if low > high or not all(
      0 <= x <= 1 for x in (*shares, self.score, self.nms_iou)
    ):
      raise ValueError(
        'task.detector: rpn_iou, rpn_least, proposal_iou, roi_iou, score and '
        f'nms_iou must be within 0..1, rpn_iou={self.rpn_iou} ascending.'
      )
    if not self.anchor_ratios or min(self.anchor_ratios) <= 0:
      raise ValueError(
        f'task.detector.anchor_ratios={self.anchor_ratios} must be positive.'
      )
