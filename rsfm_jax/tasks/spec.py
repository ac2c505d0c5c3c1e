"""What defines a task: one frozen spec for all kinds."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Literal, get_args

from rsfm_jax.core import choices
from rsfm_jax.tasks.detection import spec as detector_spec

Kind = Literal[
  'classes',
  'labels',
  'segmentation',
  'change',
  'semantic_change',
  'scalar',
  'map',
  'boxes',
  'oriented_boxes',
]
KINDS = get_args(Kind)
MAPPED = ('segmentation', 'change', 'map')  # One map of a scene.
DENSE = (*MAPPED, 'semantic_change')
BOXES = ('boxes', 'oriented_boxes')
# Which heads can do what.
HEADS: dict[str, tuple[str, ...]] = {
  'classes': ('linear',),
  'labels': ('linear',),
  'scalar': ('linear',),
  'segmentation': ('linear', 'fcn', 'upernet', 'unet'),
  'change': ('linear', 'fcn', 'upernet', 'unet', 'bit'),
  'semantic_change': ('linear', 'fcn', 'upernet', 'unet'),
  'map': ('linear', 'fcn', 'upernet', 'unet'),
  'boxes': ('faster_rcnn',),
  'oriented_boxes': ('oriented_rcnn',),
}
PYRAMIDS = ('upernet', 'unet', 'faster_rcnn', 'oriented_rcnn')


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskSpec:
  """A kind of target, the head that finds it and the loss it is taught by.

  Attributes:
    kind: 'classes' is one class per scene, 'labels' several; 'segmentation'
      one class per pixel; 'change' one class per pixel of two dates, compared
      by the difference of their features; 'semantic_change' the class of every
      pixel at both dates; 'scalar' and 'map' are numbers per scene and per
      pixel; 'boxes' and 'oriented_boxes' are objects.
    head: see `HEADS`.
    outputs: classes (of objects, without background) or labels; 1 for
      numbers.
    loss: 'cross_entropy', 'soft_margin' (binary cross-entropy, of one score
      per label or, for changes, one of change), 'mse' or 'mae'.
    levels: maps that the head reads, finest first; one but for pyramids.
    channels: of FCN, UPerNet and a detector's pyramid.
    unet_channels: of the U-Net's blocks, coarsest first.
    dropout: of channels before the scores of FCN and UPerNet.
    upsample: of BIT's difference, before it is classified.
    class_weights: of cross-entropy; () for none.
    smoothing: of labels, see `losses.cross_entropy`.
    over: what dense losses are averaged over, see `losses.cross_entropy`.
    detector: of boxes; a mapping of its fields becomes one.
  """

  kind: Kind
  head: str
  outputs: int
  loss: str = 'cross_entropy'
  levels: Sequence[str] = ('final',)
  channels: int = 512
  unet_channels: Sequence[int] = (256, 128, 64, 32)
  dropout: float = 0.1
  upsample: int = 4
  class_weights: Sequence[float] = ()
  smoothing: float = 0.0
  over: str = 'labelled'
  detector: detector_spec.DetectorSpec = detector_spec.DetectorSpec()

  def __post_init__(self):
    for name in ('levels', 'unet_channels', 'class_weights'):
      object.__setattr__(self, name, tuple(getattr(self, name)))
    if isinstance(self.detector, Mapping):
      made = detector_spec.DetectorSpec(**self.detector)
      object.__setattr__(self, 'detector', made)
    choices.check(self.kind, KINDS, key='task.kind')
    choices.check(self.head, HEADS[self.kind], key='task.head')
    choices.check(self.over, ('labelled', 'all'), key='task.over')
    allowed = {
      'labels': ('soft_margin',),
      'change': ('cross_entropy', 'soft_margin'),
      'scalar': ('mse', 'mae'),
      'map': ('mse', 'mae'),
    }.get(self.kind, ('cross_entropy',))
    choices.check(self.loss, allowed, key=f'task.loss of task.kind={self.kind}')
    pyramid = self.head in PYRAMIDS
    if not self.levels or (len(self.levels) > 1) != pyramid:
      raise ValueError(
        f'task.levels={self.levels}: the head {self.head} reads '
        f'{"several maps, finest first" if pyramid else "one map"}.'
      )
    several = self.loss == 'cross_entropy' and self.kind not in BOXES
    least = 2 if several else 1
    if self.outputs < least:
      raise ValueError(
        f'task.outputs={self.outputs} must be at least {least} with '
        f'task.loss={self.loss}.'
      )
    single = self.kind == 'change' and self.loss == 'soft_margin'
    if single and self.outputs != 1:
      raise ValueError(
        f'task.outputs={self.outputs}: a change by soft_margin is one score.'
      )
    if self.kind in ('scalar', 'map') and self.outputs != 1:
      raise ValueError(
        f'task.outputs={self.outputs}: task.kind={self.kind} is one number.'
      )
    if self.class_weights and len(self.class_weights) != self.outputs:
      raise ValueError(
        f'task.class_weights={self.class_weights} needs one entry for each of '
        f'the {self.outputs} classes.'
      )
