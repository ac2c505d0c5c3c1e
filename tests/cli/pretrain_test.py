"""`rsfm pretrain`: what a run leaves, how it resumes, what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time

import jax

from rsfm_jax.cli import models
from rsfm_jax.core import files
from rsfm_jax.train import writers


def test_a_run_leaves_all_that_explains_it(trained):
  rows = writers.read(trained / 'metrics.jsonl')
  assert [row['step'] for row in rows] == [1, 2, 3, 4]
  last = rows[-1]
  for sensor in ('opt', 'sar_l1', 'sar_l2', 'ms'):
    assert last[f'losses/{sensor}'] > 0
  layers, sensors, experts = 2, 4, 2
  load = last['routing/specialised_load']
  assert (len(load), len(load[0]), len(load[0][0])) == (
    layers,
    sensors,
    experts,
  )
  assert len(last['routing/mutual_information']) == layers
  assert json.loads((trained / 'config.json').read_text())['seed'] == 0
  start = files.read_json(trained / 'environment.json')['starts'][0]
  assert start['packages']['jax']
  assert list((trained / 'tensorboard').iterdir())


def test_a_checkpoint_carries_its_spec_and_sensor_contract(trained):
  opened = models.open_model(trained)
  assert opened.step == 4
  assert opened.model.spec.embed_dim == 8
  assert opened.sensors['opt'].band_names == ('red', 'green', 'blue')
  assert len(opened.statistics['ms'].mean) == 4
  assert 'sar_l1' not in opened.statistics


def test_running_again_changes_nothing(trained, pretrain):
  before = models.open_model(trained).content_hash
  assert pretrain(trained) == 0
  assert models.open_model(trained).content_hash == before


def test_another_config_is_refused_naming_the_key(trained, pretrain, capsys):
  assert pretrain(trained, '--config.optim.learning_rate=0.5') == 2
  assert 'optim.learning_rate' in capsys.readouterr().err


def test_a_second_process_on_the_same_workdir_is_refused(
  trained, pretrain, capsys
):
  with files.exclusive(trained):
    assert pretrain(trained) == 2
  assert 'in use' in capsys.readouterr().err


def test_a_killed_run_resumes_to_the_same_bits(
  trained, config, stores, tmp_path, pretrain
):
  """kill -9 somewhere after the first checkpoint, then run again."""
  workdir = tmp_path / 'killed'
  environment = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '1',
    # The same program as in this process, and from its cache.
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir,
  }
  process = subprocess.Popen(
    [
      sys.executable,
      '-m',
      'rsfm_jax',
      'pretrain',
      '--config',
      config,
      '--workdir',
      str(workdir),
      f'--config.data.root={stores}',
    ],
    env=environment,
  )
  seal = workdir / 'checkpoints' / '2' / 'sha256.json'
  deadline = time.monotonic() + 600
  while not seal.exists() and process.poll() is None:
    assert time.monotonic() < deadline
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert pretrain(workdir) == 0
  again, straight = models.open_model(workdir), models.open_model(trained)
  assert again.content_hash == straight.content_hash
