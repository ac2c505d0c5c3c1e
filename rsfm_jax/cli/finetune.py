"""Fine-tunes a model on a labelled store; run again to resume.

Trains, measures the validation split on a schedule, keeps the best state by
it, and writes what that state reaches on the test split as rows.
"""

import argparse
import functools
import json
import operator
import pathlib
import time
from typing import Any

import jax
import numpy as np

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import report
from rsfm_jax.cli import running
from rsfm_jax.cli import task_report
from rsfm_jax.cli.systems import finetune as system
from rsfm_jax.cli.systems import finetune_encoder as encoder
from rsfm_jax.cli.systems import finetune_tiles as tiles
from rsfm_jax.core import trees
from rsfm_jax.evaluate import bootstrap
from rsfm_jax.evaluate import finetuned
from rsfm_jax.evaluate import outcomes
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.sharding import mesh as meshes
from rsfm_jax.train import best as best_lib
from rsfm_jax.train import checkpoint
from rsfm_jax.train import hooks
from rsfm_jax.train import run as runs

HELP = 'fine-tune on a labelled store from a config file (again to resume)'
TAKES_OVERRIDES = True
# A class for every pixel, of one map of a scene and of two.
PICTURED = ('segmentation', 'change')
CODES = (*PICTURED, 'semantic_change')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--config', required=True, help='of configs/finetune; of presets FILE:TASK'
  )
  parser.add_argument('--workdir', required=True, help='where the run lives')
  parser.epilog = 'Override keys by --config.section.key=value.'


def run(args: argparse.Namespace) -> int:
  config = configs.load(args.config, args.overrides)
  rows = train(config, pathlib.Path(args.workdir))
  print(rows_lib.markdown(rows))
  return 0


def train(config, workdir: pathlib.Path) -> list[rows_lib.Row]:
  """Runs or resumes a fine-tuning in `workdir`; returns its test rows.

  Raises:
    loop.Preempted: SIGTERM arrived and the state is saved.
    ValueError: the config, the store or the checkpoints do not fit.
  """
  if config.system != 'finetune':
    raise ValueError(
      f'config.system={config.system!r} is no fine-tuning; see '
      'configs/finetune, or use rsfm pretrain.'
    )
  with runs.opened(workdir, json.loads(config.to_json_best_effort())):
    began = time.monotonic()

    def begin(planned):
      new = planned.plan.create
      return lambda: (encoder.initial(config, planned.built, new()), None)

    started = running.start(config, workdir, begin=begin)
    measure = _measure(started)
    written = running.writers_of(started)
    metric = config.evaluation.metric
    lowest = metric in outcomes.LOWER_IS_BETTER
    keep = best_lib.KeepBest(
      lambda state: measure.outcome(state, config.data.val_split).measure(),
      written,
      workdir / best_lib.BEST,
      schedule=hooks.Every(running.every(started, 'evaluation')),
      total_steps=started.total,
      metric=metric,
      best='lowest' if lowest else 'highest',
      metadata=started.metadata,
    )
    running.fit(started, running.hooks(started, written, before_saving=[keep]))
    rows = workdir / report.ROWS
    if not rows.exists():
      found = _test(started, measure, seconds=time.monotonic() - began)
      rows_lib.append(rows, found)
    return rows_lib.read(rows)


def _measure(started: running.Started) -> finetuned.Finetuned:
  planned = started.planned
  task = planned.objective.spec.task
  return finetuned.Finetuned(
    # Whole on every device, so that each process can read them.
    predict=jax.jit(
      planned.objective.predict,
      out_shardings=meshes.replicated(planned.mesh),
    ),
    batches=functools.partial(
      system.evaluation_batches, started.config, started.found
    ),
    kind=task.kind,
    outputs=task.outputs,
  )


def _test(
  started: running.Started, measure: finetuned.Finetuned, *, seconds: float
) -> list[rows_lib.Row]:
  """A row per metric of the best state on the test split."""
  config = started.config
  best = best_lib.restore(
    started.workdir / best_lib.BEST, started.planned.state
  )
  outcome = measure.outcome(best.state, config.data.test_split)
  _keep(started, measure, outcome, best.state)
  chosen = {'step': best.step, 'val': best.metadata[best_lib.BEST]}
  chosen |= {'fraction': config.data.label_fraction, 'seed': config.seed}
  if changed := _changed(config):
    chosen['changed'] = changed
  out = []
  intervals = bootstrap.of_outcome(
    outcome, resamples=config.evaluation.resamples, seed=config.seed
  )
  for metric, interval in intervals.items():
    out.append(
      rows_lib.Row(
        name=config.name,
        dataset=tiles.dataset(config),
        protocol=config.protocol.name,
        protocol_version=config.protocol.version,
        normalisation=config.data.normalisation,
        metric=metric,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        checkpoint=checkpoint.content_hash(best.state['params']),
        missing_bands=config.data.missing_bands,
        n_train=started.found.dataset_size,
        n_test=len(outcome),
        seconds=round(seconds, 3),
        chosen=chosen,
      )
    )
  return out


def _changed(config) -> dict[str, Any]:
  """Rules of the preset that do not hold: {key: what is there instead}."""
  out = {}
  for rule in config.protocol.rules:
    key, _, value = rule.partition('=')
    now = functools.reduce(operator.getitem, key.split('.'), config)
    if json.dumps(now) != value:
      out[key] = now
  return out


def _keep(
  started: running.Started,
  measure: finetuned.Finetuned,
  outcome: outcomes.Outcome,
  state: trees.Tree,
) -> None:
  """Leaves what the page of the run shows of its predictions."""
  config, workdir = started.config, started.workdir
  if (table := outcome.table()) is None:
    return
  codes = measure.kind in CODES
  task_report.save_table(
    workdir,
    table,
    classes=None if codes else started.found.streams[0].data.store.classes,
    title=f'{config.name}, {config.data.store}',
  )
  if measure.kind in PICTURED and not tiles.used(config):
    split, sensor = config.data.test_split, config.data.sensor
    found = measure.examples(state, split, count=task_report.COUNT)
    if measure.outputs == 1:  # One score of change: change or none.
      known = found.targets != outcomes.UNLABELLED
      merged = np.where(known, np.minimum(found.targets, 1), found.targets)
      found = found._replace(targets=merged)
    task_report.save_examples(workdir, found, sensor=sensor, classes=len(table))
