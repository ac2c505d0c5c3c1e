"""The training loop: fetch, dispatch, read previous metrics, hooks."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import signal
import threading
import time
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from rsfm_jax.core import trees
from rsfm_jax.train import hosts


class Preempted(Exception):
  """SIGTERM came; the hooks have saved. Not an error: cli exits with 4."""

  exit_code = 4

  def __init__(self, step: int):
    super().__init__(f'stopped by SIGTERM after step {step}; state is saved.')
    self.step = step


class Hook:
  """What happens around steps; every method may stay as it is here.

  Steps count finished steps: 1 is the state after the first.
  """

  def due(self, step: int) -> bool:
    """Whether `run` wants the state after this step."""
    del step
    return False

  def run(self, step: int, state: trees.Tree) -> None:
    """Reads the state; the next step will donate its buffers."""

  def metrics(self, step: int, values: dict[str, Any]) -> None:
    """Receives `{name: number or small array}` on the host, every step."""

  def finish(self, step: int, state: trees.Tree) -> None:
    """The run is complete or preempted; not called after an error."""

  def close(self) -> None:
    """Releases what the hook holds; always called."""


def fit(
  *,
  state: trees.Tree,
  step_fn: Callable[..., tuple[trees.Tree, dict[str, Any]]],
  batches: Iterator[Any],
  key: jax.Array,
  total_steps: int,
  hooks: Sequence[Hook] = (),
) -> trees.Tree:
  """Trains from `state['step']` to `total_steps`.

  The order is part of the contract: fetch a batch, dispatch the step, read
  the metrics of the step before (which overlaps with the step now running),
  then the hooks. When a hook is due, this step's metrics are delivered first,
  so whatever a saved step implies is on disk before it.

  Each step's metrics gain `seconds/step` (wall time since the step before
  was read, hooks included), `seconds/wait` (host time spent waiting for the
  batch: an upper bound of what the device waited) and `examples` (samples in
  the batch, all sensors).

  Args:
    state: nested dict of arrays; its buffers are donated.
    step_fn: `(state, batch, key) -> (state, metrics)`, compiled.
    batches: positioned at `state['step']`.
    key: the same for the whole run; the step derives its own.
    total_steps: where to stop, counted from step 0 of the run.
    hooks: called in this order.

  Raises:
    Preempted: SIGTERM arrived, at any of the processes; raised on all of them
      after the same step and after the hooks' `finish`.
    ValueError: the batches ended early.
  """
  start = int(jax.device_get(state['step']))
  reports = _Reports(hooks)
  done, stop = start, False
  try:
    with _sigterm() as asked_to_stop:
      for step in range(start + 1, total_steps + 1):
        began = time.perf_counter()
        batch = _fetch(batches, step, total_steps)
        waited = time.perf_counter() - began
        if step == start + 1:
          _ready_together(step_fn, state, batch, key)
        state, metrics = step_fn(state, batch, key)
        reports.next(step, metrics, _examples(batch), waited)
        done = step
        due = [hook for hook in hooks if hook.due(step)]
        if due:
          reports.flush()
        for hook in due:
          hook.run(step, state)
        stop = asked_to_stop(step)
        if stop:
          break
      reports.flush()
      for hook in hooks:
        hook.finish(done, state)
      if stop and done < total_steps:
        raise Preempted(done)
    return state
  finally:
    for hook in hooks:
      hook.close()


def _ready_together(step_fn, state, batch, key) -> None:
  """With several processes none runs the step before all have compiled it.

  Compiling takes minutes, more on one host than on another (whose cache knows
  the step). Waiting inside the step fails: on CPU a first collective gives up
  on its peers after 30 s.
  """
  if jax.process_count() == 1:
    return
  with hosts.together():
    if hasattr(step_fn, 'lower'):  # Otherwise it is compiled already.
      step_fn.lower(state, batch, key).compile()


class _Reports:
  """Delivers the metrics of a step once the next one is on its way."""

  def __init__(self, hooks: Sequence[Hook]):
    self._hooks = hooks
    self._pending = None
    self._last = time.perf_counter()

  def next(self, step, metrics, examples, waited) -> None:
    self.flush()
    self._pending = (step, metrics, examples, waited)

  def flush(self) -> None:
    if self._pending is None:
      return
    step, metrics, examples, waited = self._pending
    self._pending = None
    values = trees.flatten(jax.device_get(metrics))
    values['examples'] = examples
    now = time.perf_counter()
    values['seconds/step'] = now - self._last
    self._last = now
    values['seconds/wait'] = waited
    for hook in self._hooks:
      hook.metrics(step, values)


def _fetch(batches: Iterator[Any], step: int, total_steps: int) -> Any:
  try:
    return next(batches)
  except StopIteration:
    raise ValueError(
      f'batches ended before step {step} of train.total_steps={total_steps}.'
    ) from None


def _examples(batch: Any) -> int:
  """Samples of all sensors; each top-level entry has its own batch size."""
  groups = (jax.tree.leaves(group) for group in batch.values())
  return sum(np.shape(leaves[0])[0] for leaves in groups if leaves)


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[int], bool]]:
  """Whether to stop after a step, because SIGTERM came.

  With several processes it may have come to one only, and later here than
  there. `jax.distributed` listens for it, tells the others and settles on a
  step that none of them has passed; asking costs under a microsecond
  (0.1-0.6 measured on CPU) until there is something to settle. A handler of
  ours would take the signal away from it.
  """
  if jax.process_count() > 1:
    yield multihost_utils.reached_preemption_sync_point
    return
  stopped = threading.Event()
  asked = lambda step: stopped.is_set()
  if threading.current_thread() is not threading.main_thread():
    yield asked  # Only a main thread can listen.
    return
  before = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
  try:
    yield asked
  finally:
    signal.signal(signal.SIGTERM, before)
