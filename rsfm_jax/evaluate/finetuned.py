"""What a fine-tuned model predicts for a split, and how good that is."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from rsfm_jax.core import progress
from rsfm_jax.evaluate import outcomes

Tree = Any
Batch = Mapping[str, Mapping[str, np.ndarray]]
PLACE = 'place'
TARGET = 'target'
# What a prediction may know of the place.
KNOWN = ('region',)


class Examples(NamedTuple):
  """The first samples of a split, for people to look at.

  Attributes:
    images: f32[N, (2,) H, W, C], normalised.
    targets: what should be predicted, [N, ...].
    found: what is, [N, ...].
  """

  images: np.ndarray
  targets: np.ndarray
  found: np.ndarray


@dataclasses.dataclass(frozen=True)
class Finetuned:
  """Predictions of a train state.

  Attributes:
    predict: `(params, extra, batch) -> predictions`, compiled; batches are
      without targets.
    batches: `split -> batches` of one shape, with `place/target` and
      `place/index`.
    kind: of the task; see `outcomes.of_task`.
    outputs: of the task.
  """

  predict: Callable[[Tree, Tree, Batch], jax.Array]
  batches: Callable[[str], Iterator[Batch]]
  kind: str
  outputs: int

  def outcome(self, state: Tree, split: str) -> outcomes.Outcome:
    """Predicts a split once.

    Args:
      state: with `params` and `extra`.
      split: its name.

    Raises:
      ValueError: an empty split, or predictions that are not finite.
    """
    found, targets, indices = [], [], []
    for batch in progress.bar(self.batches(split), what=split, unit='batch'):
      place = batch[PLACE]
      found.append(self._predicted(state, batch)[place['valid']])
      targets.append(place[TARGET][place['valid']])
      indices.append(place['index'][place['valid']])
    if not targets:
      raise ValueError(f'split {split!r} holds no sample.')
    values = np.concatenate(found)
    if values.dtype.kind == 'f' and not np.isfinite(values).all():
      raise ValueError(f'predictions of split {split!r} are not finite.')
    return outcomes.of_task(
      self.kind,
      values,
      np.concatenate(targets),
      outputs=self.outputs,
      images=np.concatenate(indices),
    )

  def examples(self, state: Tree, split: str, *, count: int) -> Examples:
    """The first `count` samples of a split, of its only sensor."""
    parts: list[Examples] = []
    for batch in self.batches(split):
      (image,) = (x['image'] for s, x in batch.items() if s != PLACE)
      place, made = batch[PLACE], self._predicted(state, batch)
      kept = place['valid']
      parts.append(Examples(image[kept], place[TARGET][kept], made[kept]))
      if sum(len(part.found) for part in parts) >= count:
        break
    return Examples(*(np.concatenate(some)[:count] for some in zip(*parts)))

  def _predicted(self, state: Tree, batch: Batch) -> np.ndarray:
    place = batch[PLACE]
    known = {name: place[name] for name in KNOWN if name in place}
    seen = {**batch, PLACE: known}
    made = self.predict(state['params'], state['extra'], seen)
    return np.asarray(jax.device_get(made))
