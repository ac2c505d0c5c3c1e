"""Pre-trains a model from a config file; run again to resume."""

import argparse
import dataclasses
import json
import pathlib

import jax

from rsfm_jax.cli import compose
from rsfm_jax.cli import config as configs
from rsfm_jax.core import durations
from rsfm_jax.core import log
from rsfm_jax.core import rng
from rsfm_jax.core import trees
from rsfm_jax.data import prefetch
from rsfm_jax.sharding import mesh as meshes
from rsfm_jax.sharding import state as states
from rsfm_jax.train import checkpoint
from rsfm_jax.train import hooks
from rsfm_jax.train import loop
from rsfm_jax.train import optim
from rsfm_jax.train import run as runs
from rsfm_jax.train import step as steps
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
    built = compose.model(config)
    found = compose.data(config)
    total = compose.total_steps(config, found)
    log.info(
      '%s parameters, %d images per step, %d steps',
      f'{trees.count(built.abstract):,}',
      found.batch_size,
      total,
    )
    tx = optim.make(
      compose.optimizer(config, total_steps=total, batch_size=found.batch_size),
      built.abstract,
      global_batch=found.batch_size,
    )
    step_fn = steps.make_train_step(
      compose.objective(config, built).loss,
      tx,
      accumulate=config.train.accumulate,
      ema_decay=config.train.ema_decay,
    )
    mesh = meshes.make_mesh(**config.mesh)
    key = rng.key_for(config.seed)
    with_ema = config.train.ema_decay is not None
    plan = states.plan(
      lambda k: steps.init_state(built.init(k), {}, tx, ema=with_ema),
      rng.named(key, 'init'),
      mesh=mesh,
      rules=[('.*', jax.sharding.PartitionSpec())],
    )
    saved = checkpoint.Checkpoints(
      workdir / 'checkpoints', keep=config.train.keep
    )
    restored = saved.restore(plan.abstract)
    state = plan.create() if restored is None else restored.state
    start = 0 if restored is None else restored.step
    if start:
      log.info('resuming %s after step %d', workdir, start)
    _fit(
      config,
      workdir,
      found,
      built,
      saved,
      state,
      start,
      total,
      steps.jit_step(step_fn, state_shardings=plan.shardings),
      key,
      mesh,
    )


def _fit(
  config, workdir, found, built, saved, state, start, total, step_fn, key, mesh
) -> None:
  every = durations.steps(
    config.train,
    'checkpoint',
    batch_size=found.batch_size,
    total_steps=total,
    default=total,
  )
  metadata = {
    'spec': built.spec.to_json(),
    'contract': compose.contract_json(found),
    'objective': dataclasses.asdict(compose.objective(config, built).spec),
  }
  batches = compose.batches(
    config,
    found,
    step=start,
    host=jax.process_index(),
    hosts=jax.process_count(),
  )
  with prefetch.to_device(batches, meshes.batch_sharding(mesh)) as ready:
    loop.fit(
      state=state,
      step_fn=step_fn,
      batches=ready,
      key=rng.named(key, 'train'),
      total_steps=total,
      hooks=[
        hooks.Metrics(
          writers.of_run(workdir, after=start),
          every=config.train.log_steps,
        ),
        hooks.StopOnNonfinite(config.train.nonfinite_limit),
        hooks.Progress(start=start, total_steps=total),
        hooks.Save(saved, schedule=hooks.Every(every), metadata=metadata),
      ],
    )
