import json

import numpy as np
import pytest

from rsfm_jax.train import hooks
from rsfm_jax.train import writers


def test_rows_hold_numbers_and_small_arrays(tmp_path):
  out = writers.JsonLines(tmp_path / 'm.jsonl')
  out.write(1, {'loss': np.float32(0.5), 'load': np.array([1, 2]), 'n': 3})
  # Already on disk, though still open.
  (row,) = writers.read(tmp_path / 'm.jsonl')
  assert row == {'step': 1, 'loss': 0.5, 'load': [1, 2], 'n': 3}
  out.close()


def test_what_is_not_finite_stays_valid_json(tmp_path):
  out = writers.JsonLines(tmp_path / 'm.jsonl')
  out.write(1, {'loss': np.float32('nan'), 'load': np.array([1.0, np.inf])})
  out.close()
  text = (tmp_path / 'm.jsonl').read_text()
  assert json.loads(text, parse_constant=pytest.fail) == {
    'step': 1,
    'loss': None,
    'load': [1.0, None],
  }


def test_a_resumed_run_drops_later_and_half_written_rows(tmp_path):
  path = tmp_path / 'm.jsonl'
  out = writers.JsonLines(path)
  for step in range(1, 6):
    out.write(step, {'loss': step})
  out.close()
  with open(path, 'a') as file:
    file.write('{"step": 6, "lo')
  again = writers.JsonLines(path, after=3)
  again.write(4, {'loss': 40})
  again.close()
  assert [r['loss'] for r in writers.read(path)] == [1, 2, 3, 40]


def test_damage_in_the_middle_is_named(tmp_path):
  path = tmp_path / 'm.jsonl'
  path.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
  with pytest.raises(ValueError, match='m.jsonl, row 2'):
    writers.read(path)


def test_tensorboard_gets_scalars(tmp_path):
  out = writers.of_run(tmp_path)
  for writer in out:
    writer.write(1, {'loss': np.float32(0.25), 'load': np.ones(3)})
    writer.close()
  (events,) = (tmp_path / 'tensorboard').iterdir()
  data = events.read_bytes()
  assert b'loss' in data and b'load' not in data


def test_schedules():
  assert [s for s in range(1, 10) if hooks.Every(3).due(s)] == [3, 6, 9]
  assert not hooks.Every(0).due(5)
  assert [s for s in range(1, 10) if hooks.At((2, 7)).due(s)] == [2, 7]


def test_meter_counts_since_the_last_read():
  meter = hooks.Meter()
  for _ in range(2):
    meter.add({'examples': 10, 'seconds/step': 0.5, 'seconds/wait': 0.1})
  rates = meter.read()
  assert rates.examples_per_second == pytest.approx(20)
  assert rates.wait_share == pytest.approx(0.2)
  meter.add({'examples': 1, 'seconds/step': 1.0, 'seconds/wait': 0.0})
  assert meter.read() == (1.0, 0.0)


def test_metrics_hook_writes_by_schedule_and_every_bad_step():
  class Memory:
    def __init__(self):
      self.steps = []

    def write(self, step, values):
      self.steps.append(step)

    def close(self):
      self.closed = True

  memory = Memory()
  hook = hooks.Metrics([memory], every=4)
  timing = {'examples': 1, 'seconds/step': 0.1, 'seconds/wait': 0.0}
  for step in range(1, 10):
    bad = {'nonfinite/in_a_row': int(step == 6)}
    hook.metrics(step, timing | bad)
  hook.close()
  assert memory.steps == [1, 4, 6, 8] and memory.closed
