"""What a task is: a head, a loss and a prediction."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import jax

from rsfm_jax.tasks import spec as spec_lib

Array = jax.Array
Entry = Mapping[str, Array]  # Of one sensor: 'image', and what of it counts.


class Features(NamedTuple):
  """What an encoder knows of a batch; several sensors may have made it.

  Attributes:
    maps: {'embed', 'stage_0', ..., 'final'}: [B, h, w, D], or [B, 2, h, w, D]
      of a place before and after; of several sensors see `encoder.tiles`.
    size: (H, W) of what is predicted, in pixels.
  """

  maps: Mapping[str, Array]
  size: tuple[int, int]


def check_pair(features: Features, spec: spec_lib.TaskSpec) -> None:
  """Raises ValueError unless features are of two dates."""
  shape = features.maps[spec.levels[0]].shape
  if len(shape) != 5 or shape[1] != 2:
    raise ValueError(
      f'task.kind={spec.kind} needs the features of two dates, [B, 2, h, w, D],'
      f' not {shape}; set data.pair=after.'
    )


class Task(Protocol):
  """One per kind of target; `tasks.build` knows them all.

  `place/target` of a batch holds what is to be predicted. A loss is linear in
  one-hot targets, so that mixing two images mixes their losses; but not of
  boxes, whose head gets to see the targets and samples what is learnt from.
  """

  def seen(self, features: Features) -> Features:
    """What the head gets to see of the features.

    Raises:
      ValueError: features of another form than the task needs.
    """

  def loss(
    self, outputs: Array, target: Array
  ) -> tuple[Array, dict[str, Array]]:
    """(mean over samples f32[], named metrics f32[])."""

  def predict(self, outputs: Array, *, size: tuple[int, int]) -> Array:
    """What `evaluate` compares with targets; dense maps have `size`."""


class DenseTask(Task, Protocol):
  """A task of pixels, by which whole scenes can be mapped in windows."""

  def averaged(self, outputs: Array, *, size: tuple[int, int]) -> Array:
    """What overlapping windows are averaged by, f32[B, H, W, K].

    Of K classes the largest is the prediction, of numbers (K is 1) the value.
    """
