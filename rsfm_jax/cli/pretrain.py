"""Pre-trains a model from a config file; run again to resume."""

import argparse
import dataclasses
import json
import pathlib
from typing import Any

from rsfm_jax.cli import compose
from rsfm_jax.cli import config as configs
from rsfm_jax.cli import models
from rsfm_jax.cli import training
from rsfm_jax.core import durations
from rsfm_jax.core import log
from rsfm_jax.core import rng
from rsfm_jax.core import trees
from rsfm_jax.data import prefetch
from rsfm_jax.data import shares
from rsfm_jax.sharding import mesh as meshes
from rsfm_jax.train import checkpoint
from rsfm_jax.train import hooks
from rsfm_jax.train import hosts
from rsfm_jax.train import loop
from rsfm_jax.train import run as runs
from rsfm_jax.train import warm_start
from rsfm_jax.train import writers

HELP = 'pre-train from a config file (run again to resume)'
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('--config', required=True, help='a file of configs/')
  parser.add_argument('--workdir', required=True, help='where the run lives')
  parser.epilog = 'Override keys by --config.section.key=value.'


def run(args: argparse.Namespace) -> int:
  config = configs.load(args.config, args.overrides)
  train(config, pathlib.Path(args.workdir))
  return 0


def train(config, workdir: pathlib.Path) -> None:
  """Runs or resumes a pre-training in `workdir`.

  Raises:
    loop.Preempted: SIGTERM arrived and the state is saved.
    ValueError: the config, the stores or the checkpoints do not fit.
  """
  with runs.opened(workdir, json.loads(config.to_json_best_effort())):
    with hosts.together():
      found = compose.data(config)
      total = compose.total_steps(config, found)
      planned = training.plan(config, total_steps=total, found=found)
      resumes = checkpoint.steps(workdir / 'checkpoints')
      # Before anything is compiled; a resumed run does not ask for it.
      origin = None if resumes else _origin(config, planned)
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
      origin = origin or _origin(config, planned)  # No checkpoint was whole.
      start, (state, begun) = 0, _begin(planned, origin)
    else:
      start, state = restored.step, restored.state
      begun = restored.metadata.get('init_from')
      log.info('resuming %s after step %d', workdir, start)
    sharding = meshes.batch_sharding(planned.mesh)
    batches = compose.batches(
      config, found, step=start, share=shares.of_process(sharding)
    )
    with prefetch.to_device(batches, sharding) as ready:
      loop.fit(
        state=state,
        step_fn=step_fn,
        batches=ready,
        key=rng.named(rng.key_for(config.seed), 'train'),
        total_steps=total,
        hooks=_hooks(
          config, workdir, found, planned, saved, start, total, begun
        ),
      )


def _origin(config, planned: training.Training) -> models.Opened | None:
  """The model that a new run starts from, if any; it fits the run's.

  Raises:
    ValueError: it does not.
  """
  if not (path := config.train.init_from):
    return None
  opened = models.open_model(path)
  spec, wanted = opened.model.spec.to_json(), planned.built.spec.to_json()
  for key in ('model', 'sensors'):
    if spec[key] != wanted[key]:
      raise ValueError(
        f'config.train.init_from={path} is of {key} {spec[key]}, the run of '
        f'{wanted[key]}.'
      )
  warm_start.check(
    planned.state, opened.params, origin=path, heads=training.HEADS
  )
  if changed := runs.differences(spec, wanted):
    log.info('starting with another spec: %s', '; '.join(changed))
  return opened


def _begin(
  planned: training.Training, origin: models.Opened | None
) -> tuple[trees.Tree, dict[str, Any] | None]:
  """The state before step 0, and what it was started from."""
  state = planned.plan.create()
  if origin is None:
    return state, None
  state, left = warm_start.begin(
    state, origin.params, origin=origin.path, heads=training.HEADS
  )
  log.info('starting from %s; at init: %s', origin.path, ', '.join(left) or '-')
  return state, {
    'path': origin.path,
    'content_hash': origin.content_hash,
    'step': origin.step,
    'at_init': list(left),
  }


def _hooks(
  config, workdir, found, planned, saved, start, total, begun
) -> list[loop.Hook]:
  every = durations.steps(
    config.train,
    'checkpoint',
    batch_size=planned.images,
    total_steps=total,
    default=total,
  )
  metadata = {
    'spec': planned.built.spec.to_json(),
    'contract': compose.contract_json(found),
    'objective': dataclasses.asdict(planned.objective.spec),
    'init_from': begun,
  }
  return [
    hooks.Metrics(
      writers.of_run(workdir, after=start), every=config.train.log_steps
    ),
    hooks.StopOnNonfinite(config.train.nonfinite_limit),
    hooks.Warn(planned.objective.warnings, every=config.train.log_steps),
    hooks.Progress(start=start, total_steps=total),
    hooks.Save(saved, schedule=hooks.Every(every), metadata=metadata),
  ]
