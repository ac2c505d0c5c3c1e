"""Hooks of the loop: write, show, save, evaluate, watch, profile.

Usual order: Metrics, StopOnNonfinite, Progress, Evaluate, Save. With Save last
a saved step has all its rows, so a resume repeats nothing and misses nothing.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple, Protocol

import jax

from rsfm_jax.core import files
from rsfm_jax.core import log
from rsfm_jax.core import progress
from rsfm_jax.core import trees
from rsfm_jax.train import checkpoint
from rsfm_jax.train import loop
from rsfm_jax.train import writers as writers_lib


@dataclasses.dataclass(frozen=True)
class Every:
  """Due every `steps` steps, or never if that is 0."""

  steps: int

  def due(self, step: int) -> bool:
    return self.steps > 0 and step % self.steps == 0


@dataclasses.dataclass(frozen=True)
class At:
  """Due at the named steps."""

  steps: tuple[int, ...]

  def due(self, step: int) -> bool:
    return step in self.steps


class Evaluator(Protocol):
  """Something to measure about parameters while they are trained."""

  name: str
  schedule: Every | At

  def run(self, params: trees.Tree, step: int) -> dict[str, float]: ...


class Rates(NamedTuple):
  """Samples of all sensors a second; share of time waited for data, 0-1."""

  examples_per_second: float
  wait_share: float


class Meter:
  """Throughput since the last `read`."""

  def __init__(self):
    self._examples, self._seconds, self._waited = 0, 0.0, 0.0

  def add(self, values: Mapping[str, Any]) -> None:
    self._examples += values['examples']
    self._seconds += values['seconds/step']
    self._waited += values['seconds/wait']

  def read(self) -> Rates:
    seconds = max(self._seconds, 1e-9)
    rates = Rates(self._examples / seconds, self._waited / seconds)
    self.__init__()
    return rates


class Metrics(loop.Hook):
  """Writes the step's metrics, with rates since the last row."""

  def __init__(self, writers: Sequence[writers_lib.Writer], *, every: int = 1):
    self._writers, self._schedule = writers, Every(every)
    self._meter = Meter()

  def metrics(self, step, values):
    self._meter.add(values)
    # A skipped step is always worth a row.
    bad = values.get('nonfinite/in_a_row', 0) > 0
    if self._schedule.due(step) or step == 1 or bad:
      row = values | self._meter.read()._asdict()
      for writer in self._writers:
        writer.write(step, row)

  def close(self):
    for writer in self._writers:
      writer.close()


class StopOnNonfinite(loop.Hook):
  """Ends a run whose last `limit` steps all had a non-finite gradient."""

  def __init__(self, limit: int):
    if limit < 1:
      raise ValueError(f'train.nonfinite_limit={limit} must be at least 1.')
    self._limit = limit

  def metrics(self, step, values):
    in_a_row = int(values['nonfinite/in_a_row'])
    if in_a_row >= self._limit:
      raise RuntimeError(
        f'loss or gradient was not finite in {in_a_row} steps in a row, up to '
        f'step {step} (train.nonfinite_limit={self._limit}). The last good '
        'checkpoint is kept. Look at the data of these steps, or lower '
        'optim.learning_rate.'
      )
    if in_a_row:
      log.warning('step %d was not finite and was skipped.', step)


class Warn(loop.Hook):
  """Logs what a check finds in the metrics, once until it has gone."""

  def __init__(
    self,
    check: Callable[[Mapping[str, Any]], Mapping[str, str]],
    *,
    every: int = 1,
  ):
    """`check` maps a row of metrics to {what is wrong: a sentence}."""
    self._check, self._schedule = check, Every(every)
    self._known: set[str] = set()

  def metrics(self, step, values):
    if not self._schedule.due(step):
      return
    found = self._check(values)
    for name in found.keys() - self._known:
      log.warning('step %d, %s: %s', step, name, found[name])
    self._known = set(found)


class Progress(loop.Hook):
  """A live bar: loss, samples a second, ETA, share of time waited for data.

  Process 0 shows it; the others stay silent.
  """

  def __init__(self, *, start: int, total_steps: int, every: int = 10):
    self._bar = None
    if jax.process_index() == 0:
      self._bar = progress.bar(
        total=total_steps, initial=start, what='train', unit='step'
      )
    self._schedule, self._meter = Every(every), Meter()

  def metrics(self, step, values):
    if self._bar is None:
      return
    self._meter.add(values)
    if self._schedule.due(step):
      rates = self._meter.read()
      self._bar.set_postfix_str(
        f'loss {float(values["loss"]):.4g}, '
        f'{rates.examples_per_second:.3g} images/s, '
        f'data wait {rates.wait_share:.1%}',
        refresh=False,
      )
    self._bar.update()

  def close(self):
    if self._bar is not None:
      self._bar.close()


class Save(loop.Hook):
  """Saves by schedule and at the end of the run, finished or preempted."""

  def __init__(
    self,
    checkpoints: checkpoint.Checkpoints,
    *,
    schedule: Every | At,
    metadata: Mapping[str, Any],
  ):
    self._checkpoints, self._schedule = checkpoints, schedule
    self._metadata = metadata

  def due(self, step):
    return self._schedule.due(step)

  def run(self, step, state):
    # A series of bad steps must not push the last good ones out.
    if jax.device_get(state['nonfinite']['in_a_row']) > 0:
      log.warning('step %d was not finite: no checkpoint here.', step)
      return
    self._checkpoints.save(step, state, self._metadata)

  def finish(self, step, state):
    self._checkpoints.save(step, state, self._metadata)
    self._checkpoints.wait()

  def close(self):
    self._checkpoints.close()


class Evaluate(loop.Hook):
  """Runs evaluators by their schedules and writes `name/metric` rows."""

  def __init__(
    self,
    evaluators: Sequence[Evaluator],
    writers: Sequence[writers_lib.Writer],
    *,
    params_of: Callable[[trees.Tree], trees.Tree] = lambda s: s['params'],
  ):
    """`params_of` picks what is measured, for instance `state['ema']`."""
    self._evaluators, self._writers = evaluators, writers
    self._params_of = params_of

  def due(self, step):
    return any(one.schedule.due(step) for one in self._evaluators)

  def run(self, step, state):
    params = self._params_of(state)
    for one in self._evaluators:
      if one.schedule.due(step):
        found = one.run(params, step)
        row = {f'{one.name}/{name}': value for name, value in found.items()}
        for writer in self._writers:
          writer.write(step, row)


class Profile(loop.Hook):
  """Traces steps `first` + 1 to `first` + `steps` for TensorBoard or xprof."""

  def __init__(self, folder: files.Path, *, first: int, steps: int = 3):
    self._folder, self._first, self._last = str(folder), first, first + steps
    self._tracing = False

  def due(self, step):
    return step in (self._first, self._last)

  def run(self, step, state):
    jax.block_until_ready(state)  # So that earlier steps stay out of it.
    if step == self._first:
      jax.profiler.start_trace(self._folder)
      self._tracing = True
    else:
      self.close()

  def close(self):
    if self._tracing:
      jax.profiler.stop_trace()
      self._tracing = False
