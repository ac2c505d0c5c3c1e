"""The best state: kept by value, known after a resume, without optimiser."""

import jax.numpy as jnp
import pytest

from rsfm_jax.train import best
from rsfm_jax.train import checkpoint
from rsfm_jax.train import hooks


class Rows:
  def __init__(self):
    self.rows = []

  def write(self, step, values):
    self.rows.append((step, values))

  def close(self):
    pass


def state(step):
  return {
    'step': jnp.asarray(step),
    'params': {'w': jnp.full(3, float(step))},
    'extra': {'s': jnp.full(2, float(-step))},
    'opt': {'mu': jnp.ones(3)},
  }


def run(folder, values, direction='highest'):
  """Steps of a run of ten, by {step: value}."""
  rows = Rows()
  hook = best.KeepBest(
    lambda s: {'score': values[int(s['step'])]},
    [rows],
    folder,
    schedule=hooks.Every(4),
    total_steps=10,
    metric='score',
    best=direction,
    metadata={'spec': {}},
  )
  for step in values:
    assert hook.due(step)
    hook.run(step, state(step))
    hook.finish(step, state(step))
  hook.close()
  return rows.rows


def test_the_best_step_stays_with_its_value(tmp_path):
  rows = run(tmp_path, {4: 0.2, 8: 0.7, 10: 0.5})
  assert rows[1] == (8, {'val/score': 0.7})
  assert checkpoint.steps(tmp_path) == [8]
  found = best.restore(tmp_path, state(0))
  assert set(found.state) == {'params', 'extra', 'step'}
  assert found.state['params']['w'][0] == 8
  assert found.metadata['best'] == {'score': 0.7}


def test_a_resumed_run_knows_what_was_best(tmp_path):
  run(tmp_path, {4: 0.6})
  run(tmp_path, {8: 0.5, 10: 0.6})
  assert checkpoint.steps(tmp_path) == [4]


def test_of_errors_the_lowest_is_best(tmp_path):
  run(tmp_path, {4: 3.0, 8: 1.0, 10: 2.0}, direction='lowest')
  assert checkpoint.steps(tmp_path) == [8]


def test_the_last_step_is_due_and_others_off_the_schedule_are_not(tmp_path):
  hook = best.KeepBest(
    lambda s: {},
    [],
    tmp_path,
    schedule=hooks.Every(4),
    total_steps=10,
    metric='score',
    best='highest',
    metadata={},
  )
  assert [hook.due(step) for step in (4, 5, 10)] == [True, False, True]
  with pytest.raises(ValueError, match='evaluation.metric'):
    hook.run(4, state(4))
  hook.close()


def test_nothing_kept_is_an_error(tmp_path):
  with pytest.raises(ValueError, match='no checkpoint'):
    best.restore(tmp_path, state(0))
