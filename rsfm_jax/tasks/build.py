"""From a spec and abstract features to a task and its head."""

from flax import nnx
import jax

from rsfm_jax.core import choices
from rsfm_jax.core import rng
from rsfm_jax.tasks import boxes
from rsfm_jax.tasks import change
from rsfm_jax.tasks import contract
from rsfm_jax.tasks import regression
from rsfm_jax.tasks import scenes
from rsfm_jax.tasks import segmentation
from rsfm_jax.tasks import semantic_change
from rsfm_jax.tasks import spec as spec_lib
from rsfm_jax.tasks.heads import bit
from rsfm_jax.tasks.heads import fcn
from rsfm_jax.tasks.heads import linear
from rsfm_jax.tasks.heads import rcnn
from rsfm_jax.tasks.heads import unet
from rsfm_jax.tasks.heads import upernet

Array = jax.Array
TASKS = {
  'classes': scenes.SceneClasses,
  'labels': scenes.SceneLabels,
  'segmentation': segmentation.Segmentation,
  'change': change.ChangeDetection,
  'semantic_change': semantic_change.SemanticChange,
  'scalar': regression.SceneRegression,
  'map': regression.MapRegression,
  'boxes': boxes.Detection,
  'oriented_boxes': boxes.Detection,
}


def task(spec: spec_lib.TaskSpec) -> contract.Task:
  return TASKS[spec.kind](spec)


def head(
  spec: spec_lib.TaskSpec, features: contract.Features, *, key: Array
) -> nnx.Module:
  """The head of a spec for maps of these (abstract) widths.

  Raises:
    ValueError: a map that the encoder does not have, a pyramid that is not
      ordered from fine to coarse, or patches of another size than squares.
  """
  maps = features.maps
  for level in spec.levels:
    choices.check(level, maps, key='task.levels')
  dims = [maps[level].shape[-1] for level in spec.levels]
  rows = [maps[level].shape[-3] for level in spec.levels]
  if rows != sorted(rows, reverse=True):
    raise ValueError(
      f'task.levels={spec.levels} have {rows} rows of tokens: finest first.'
    )
  key, (level, *_) = rng.named(key, 'head'), spec.levels
  if spec.head == 'upernet':
    return upernet.UperNet(
      dims,
      spec.outputs,
      levels=spec.levels,
      channels=spec.channels,
      dropout=spec.dropout,
      key=key,
    )
  if spec.head == 'unet':
    return unet.Unet(
      dims,
      spec.outputs,
      levels=spec.levels,
      channels=spec.unet_channels,
      key=key,
    )
  if spec.kind in spec_lib.BOXES:
    return rcnn.Rcnn(
      dims,
      spec.outputs,
      levels=spec.levels,
      channels=spec.channels,
      spec=spec.detector,
      oriented=spec.head == 'oriented_rcnn',
      key=key,
    )
  if spec.head == 'fcn':
    return fcn.Fcn(
      dims[0],
      spec.outputs,
      level=level,
      channels=spec.channels,
      dropout=spec.dropout,
      key=key,
    )
  if spec.head == 'bit':
    return bit.Bit(
      dims[0], spec.outputs, level=level, upsample=spec.upsample, key=key
    )
  if spec.kind not in spec_lib.DENSE:
    return linear.PooledLinear(dims[0], spec.outputs, level=level, key=key)
  patch = features.size[0] // rows[0]
  if (patch * rows[0], patch * maps[level].shape[-2]) != features.size:
    raise ValueError(
      f'task.head=linear: {features.size} pixels are no whole patches of the '
      f'{maps[level].shape[-3:-1]} tokens of {level}.'
    )
  return linear.TokenLinear(
    dims[0], spec.outputs, level=level, patch=patch, key=key
  )
