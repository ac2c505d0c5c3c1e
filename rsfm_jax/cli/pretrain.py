"""Pre-trains a model from a config file; run again to resume."""

import argparse
import json
import pathlib

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import running
from rsfm_jax.train import run as runs

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
    started = running.start(config, workdir)
    written = running.writers_of(started)
    running.fit(started, running.hooks(started, written))
