"""`rsfm data bench` prints a line per sensor and refuses what is no store."""

import argparse

import numpy as np
import pytest

from rsfm_jax.cli import data_bench
from rsfm_jax.data import store
from rsfm_jax.sensors import catalogue


def _run(*argv):
  parser = argparse.ArgumentParser()
  data_bench.add_arguments(parser)
  return data_bench.run(parser.parse_args([str(a) for a in argv]))


def test_one_line_per_sensor(tmp_path, capsys):
  sensors = {name: catalogue.get(name) for name in ('opt', 'sar_l1')}
  sample = {
    'opt/image': np.zeros((16, 16, 3), np.uint8),
    'sar_l1/image': np.ones((16, 16, 8), np.float32),
    'sar_l1/scene_scale': np.float32(1),
  }
  with store.StoreWriter(tmp_path / 'pair', sensors=sensors) as writer:
    for i in range(4):
      writer.add(sample, id=str(i))
  flags = ('--crop', 8, '--batch_size', 4, '--seconds', 0.1, '--step_ms', 5)
  assert _run(tmp_path / 'pair', *flags) == 0
  header, *lines = capsys.readouterr().out.splitlines()
  assert header.split()[-4:] == ['wait', 'at', '5', 'ms']
  assert [line.split()[:2] for line in lines] == [
    ['pair', 'opt'],
    ['pair', 'sar_l1'],
  ]
  for line in lines:
    rate, megabytes, wait = line.split()[2:]
    assert float(rate) > 0 and float(megabytes) >= 0
    assert 0 <= float(wait.rstrip('%')) <= 100


def test_a_folder_that_is_no_store_is_named(tmp_path):
  with pytest.raises(ValueError, match='not a store'):
    _run(tmp_path)
  with pytest.raises(ValueError, match='--seconds'):
    _run(tmp_path, '--seconds', 0)
