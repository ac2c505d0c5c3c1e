"""`rsfm finetune`: what a run leaves, how it resumes, what it refuses."""

import json
import shutil

import numpy as np
import pytest

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import main
from rsfm_jax.cli import models
from rsfm_jax.core import trees
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.train import checkpoint
from rsfm_jax.train import writers

CONFIG = """
from configs import finetune_base


def get_config():
  c = finetune_base.get_config()
  c.data.store = 'scenes'
  c.data.batch_size = 16
  c.data.window.update(size=16, form='area', symmetry='flip')
  c.optim.learning_rate = 1e-3
  c.optim.layer_decay = 0.5
  c.mixing.update(erasing=0.5, mixup=0.8)
  c.train.total_steps = 4
  c.train.checkpoint_percent = 50.0
  c.train.evaluation_percent = 50.0
  c.train.log_steps = 1
  c.evaluation.resamples = 20
  return c
"""


@pytest.fixture(scope='module')
def finetune(stores, trained, tmp_path_factory):
  """`finetune(workdir, *overrides)` -> exit code; from the trained run."""
  path = tmp_path_factory.mktemp('config') / 'nano.py'
  path.write_text(CONFIG)

  def run(workdir, *overrides):
    return main.main(
      [
        'finetune',
        '--config',
        str(path),
        '--workdir',
        str(workdir),
        f'--config.data.root={stores}',
        f'--config.model.checkpoint={trained}',
        *overrides,
      ]
    )

  return run


@pytest.fixture(scope='module')
def tuned(finetune, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('tuned')
  assert finetune(workdir) == 0
  return workdir


def test_a_run_leaves_curves_the_best_state_and_test_rows(tuned):
  rows = writers.read(tuned / 'metrics.jsonl')
  measured = {r['step']: r['val/accuracy'] for r in rows if 'val/accuracy' in r}
  assert sorted(measured) == [2, 4]
  best = checkpoint.metadata(tuned / 'best')
  assert best['best']['accuracy'] == max(measured.values())
  (step,) = checkpoint.steps(tuned / 'best')
  assert measured[step] == max(measured.values())
  found = {row.metric: row for row in rows_lib.read(tuned / 'rows.jsonl')}
  assert set(found) == {'accuracy', 'macro_f1', 'balanced_accuracy'}
  row = found['accuracy']
  assert row.low <= row.value <= row.high
  assert (row.protocol, row.dataset) == ('finetune', 'scenes')
  assert row.chosen['step'] == step
