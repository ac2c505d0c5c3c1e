"""Keeps the best state of a run by what is measured on a schedule."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from rsfm_jax.core import choices
from rsfm_jax.core import files
from rsfm_jax.core import trees
from rsfm_jax.train import checkpoint
from rsfm_jax.train import hooks
from rsfm_jax.train import loop
from rsfm_jax.train import writers as writers_lib

BEST = 'best'
_KEPT = ('params', 'extra', 'step')


class KeepBest(loop.Hook):
  """Measures a state by schedule and after the last step; saves the best.

  The best is saved without the optimiser. A resumed run knows the value of
  the best by its metadata, so that it ends as one that was never stopped; of
  equal values the first wins.
  """

  def __init__(
    self,
    measure: Callable[[trees.Tree], Mapping[str, float]],
    writers: Sequence[writers_lib.Writer],
    folder: files.Path,
    *,
    schedule: hooks.Every,
    total_steps: int,
    metric: str,
    best: Literal['highest', 'lowest'],
    metadata: Mapping[str, Any],
    name: str = 'val',
  ):
    """
    Args:
      measure: of a state, {metric: value}.
      writers: take rows of `name/metric`.
      folder: of the checkpoint.
      schedule: when to measure.
      total_steps: the last step, which is measured too.
      metric: what decides.
      best: which end of it is better.
      metadata: saved with the state.
      name: of what is measured on.
    """
    self._measure, self._writers = measure, writers
    self._saved = checkpoint.Checkpoints(folder, keep=1)
    self._schedule, self._total = schedule, total_steps
    self._metric, self._metadata, self._name = metric, metadata, name
    self._sign = 1.0 if best == 'highest' else -1.0
    self._value: float | None = None
    if self._saved.steps():
      self._value = checkpoint.metadata(folder)[BEST][metric]

  def due(self, step):
    return self._schedule.due(step) or step == self._total

  def run(self, step, state):
    found = dict(self._measure(state))
    choices.check(self._metric, found, key='evaluation.metric')
    for writer in self._writers:
      writer.write(step, {f'{self._name}/{k}': v for k, v in found.items()})
    value = found[self._metric]
    known = self._value
    if known is None or self._sign * value > self._sign * known:
      self._value = value
      kept = {name: state[name] for name in _KEPT}
      self._saved.save(step, kept, dict(self._metadata) | {BEST: found})

  def finish(self, step, state):
    del step, state
    self._saved.wait()

  def close(self):
    self._saved.close()


def restore(folder: files.Path, abstract: trees.Tree) -> checkpoint.Restored:
  """The best state of a run: `params`, `extra` and `step`.

  Args:
    folder: of the checkpoint.
    abstract: of the whole train state, with shardings.

  Raises:
    ValueError: nothing good is saved there.
  """
  saved = checkpoint.Checkpoints(folder, keep=1)
  found = saved.restore({name: abstract[name] for name in _KEPT})
  saved.close()
  if found is None:
    raise ValueError(f'{folder} holds no checkpoint.')
  return found
