"""A run of any config in a workdir: planned, created or resumed, trained."""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
from typing import Any, NamedTuple

from ml_collections import config_dict

from rsfm_jax.cli import compose
from rsfm_jax.cli import training
from rsfm_jax.cli.systems import found as found_lib
from rsfm_jax.core import durations
from rsfm_jax.core import log
from rsfm_jax.core import rng
from rsfm_jax.core import trees
from rsfm_jax.data import prefetch
from rsfm_jax.data import shares
from rsfm_jax.sharding import mesh as meshes
from rsfm_jax.train import checkpoint
from rsfm_jax.train import hooks as hooks_lib
from rsfm_jax.train import hosts
from rsfm_jax.train import loop
from rsfm_jax.train import writers


class Started(NamedTuple):
  """A run that is ready to train.

  Attributes:
    config: of the run.
    workdir: locked by the caller.
    found: its data.
    planned: its step and state, abstract.
    step_fn: compiled.
    saved: its checkpoints.
    start: finished steps.
    total: where it ends.
    state: of its start.
    begun: what the parameters of step 0 came from, or None for nothing.
  """

  config: config_dict.ConfigDict
  workdir: pathlib.Path
  found: found_lib.Data
  planned: training.Training
  step_fn: Callable[..., Any]
  saved: checkpoint.Checkpoints
  start: int
  total: int
  state: trees.Tree
  begun: dict[str, Any] | None

  @property
  def metadata(self) -> dict[str, Any]:
    """What a checkpoint carries."""
    return {
      'spec': self.planned.built.spec.to_json(),
      'contract': compose.contract_json(self.found),
      'objective': dataclasses.asdict(self.planned.objective.spec),
      'init_from': self.begun,
    }


# Makes the state before step 0, and the record of where it came from.
Create = Callable[[], tuple[trees.Tree, dict[str, Any] | None]]


def anew(planned: training.Training) -> Create:
  """A state as the plan has it."""
  return lambda: (planned.plan.create(), None)


def start(
  config: config_dict.ConfigDict,
  workdir: pathlib.Path,
  *,
  begin: Callable[[training.Training], Create] = anew,
) -> Started:
  """Plans and compiles a run, and restores or creates its state.

  Args:
    config: of the run.
    workdir: locked by the caller.
    begin: of a new run: checks, before anything is compiled, what its first
      state is made of, and returns what makes it.

  Raises:
    ValueError: the config, the stores or the checkpoints do not fit.
  """
  with hosts.together():
    found = compose.data(config)
    total = compose.total_steps(config, found)
    planned = training.plan(config, total_steps=total, found=found)
    resumes = checkpoint.steps(workdir / 'checkpoints')
    create = None if resumes else begin(planned)
  log.info(
    '%s parameters, %d images per step, %d steps',
    f'{trees.count(planned.built.abstract):,}',
    planned.images,
    total,
  )
  with hosts.together():
    step_fn = planned.compiled()
  saved = checkpoint.Checkpoints(
    workdir / 'checkpoints', keep=config.train.keep
  )
  restored = saved.restore(planned.state)
  if restored is None:
    create = create or begin(planned)  # No checkpoint was whole.
    done, (state, begun) = 0, create()
  else:
    done, state = restored.step, restored.state
    begun = restored.metadata.get('init_from')
    log.info('resuming %s after step %d', workdir, done)
  return Started(
    config, workdir, found, planned, step_fn, saved, done, total, state, begun
  )


def fit(run: Started, hooks: Sequence[loop.Hook]) -> trees.Tree:
  """Trains a started run to its end.

  Raises:
    loop.Preempted: SIGTERM arrived and the state is saved.
  """
  sharding = meshes.batch_sharding(run.planned.mesh)
  batches = compose.batches(
    run.config, run.found, step=run.start, share=shares.of_process(sharding)
  )
  with prefetch.to_device(batches, sharding) as ready:
    return loop.fit(
      state=run.state,
      step_fn=run.step_fn,
      batches=ready,
      key=rng.named(rng.key_for(run.config.seed), 'train'),
      total_steps=run.total,
      hooks=hooks,
    )


def every(run: Started, name: str) -> int:
  """Steps between two events, by `config.train.<name>_*`; default: the end."""
  return durations.steps(
    run.config.train,
    name,
    batch_size=run.planned.images,
    dataset_size=run.found.dataset_size,
    total_steps=run.total,
    default=run.total,
  )


def writers_of(run: Started) -> list[writers.Writer]:
  return writers.of_run(run.workdir, after=run.start)


def hooks(
  run: Started,
  written: Sequence[writers.Writer],
  *,
  before_saving: Sequence[loop.Hook] = (),
) -> list[loop.Hook]:
  """Those of every run; see `train.hooks` for their order."""
  log_steps = run.config.train.log_steps
  return [
    hooks_lib.Metrics(written, every=log_steps),
    hooks_lib.StopOnNonfinite(run.config.train.nonfinite_limit),
    hooks_lib.Warn(run.planned.objective.warnings, every=log_steps),
    hooks_lib.Progress(start=run.start, total_steps=run.total),
    *before_saving,
    hooks_lib.Save(
      run.saved,
      schedule=hooks_lib.Every(every(run, 'checkpoint')),
      metadata=run.metadata,
    ),
  ]
