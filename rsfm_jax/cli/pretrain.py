"""Pre-trains a model from a config file; run again to resume."""

import argparse
import functools
import json
import pathlib
from typing import Any

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import models
from rsfm_jax.cli import probing
from rsfm_jax.cli import running
from rsfm_jax.cli import training
from rsfm_jax.core import log
from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.train import run as runs
from rsfm_jax.train import warm_start

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
    probed = probing.found(config)
    begin = functools.partial(_begin, config)
    started = running.start(config, workdir, begin=begin)
    written = running.writers_of(started)
    probes = [probing.hook(started, probed, written)] if probed else []
    running.fit(started, running.hooks(started, written, before_saving=probes))


def _begin(config, planned: training.Training) -> running.Create:
  """A new run, from `config.train.init_from` if that is set.

  Raises:
    ValueError: the model there does not fit the run's.
  """
  if not (path := config.train.init_from):
    return running.anew(planned)
  opened = models.open_model(path)
  spec, wanted = opened.model.spec.to_json(), planned.built.spec.to_json()
  for key in ('model', 'sensors'):
    if spec[key] != wanted[key]:
      raise ValueError(
        f'config.train.init_from={path} is of {key} {spec[key]}, the run of '
        f'{wanted[key]}.'
      )
  warm_start.check(planned.state, opened.params, origin=path, heads=build.HEADS)
  if changed := runs.differences(spec, wanted):
    log.info('starting with another spec: %s', '; '.join(changed))
  return functools.partial(_from, opened, planned)


def _from(
  origin: models.Opened, planned: training.Training
) -> tuple[trees.Tree, dict[str, Any]]:
  """The state before step 0, and what it was started from."""
  state, left = warm_start.begin(
    planned.plan.create(),
    origin.params,
    origin=origin.path,
    heads=build.HEADS,
  )
  log.info('starting from %s; at init: %s', origin.path, ', '.join(left) or '-')
  return state, {
    'path': origin.path,
    'content_hash': origin.content_hash,
    'step': origin.step,
    'at_init': list(left),
  }
