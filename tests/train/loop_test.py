import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from rsfm_jax.sharding import mesh as mesh_lib
from rsfm_jax.train import checkpoint
from rsfm_jax.train import hooks
from rsfm_jax.train import loop
from rsfm_jax.train import writers

TIMES = ('seconds/step', 'seconds/wait', 'examples_per_second', 'wait_share')


class Spy(loop.Hook):
  """Records the order of everything; `due_at` and `then` steer a test."""

  def __init__(self, due_at=(), then=None):
    self.events, self._due_at, self._then = [], due_at, then

  def due(self, step):
    return step in self._due_at

  def run(self, step, state):
    self.events.append(('run', step, int(state['step'])))
    if self._then:
      self._then(step)

  def metrics(self, step, values):
    self.events.append(('metrics', step))
    self.last = values

  def finish(self, step, state):
    self.events.append(('finish', step))

  def close(self):
    self.events.append(('close',))


def rows(workdir):
  """All rows without the times, which no two runs share."""
  found = writers.read(workdir / 'metrics.jsonl')
  return [{k: v for k, v in r.items() if k not in TIMES} for r in found]


@pytest.fixture(scope='module')
def whole(toy, tmp_path_factory):
  """An uninterrupted run: its state on the host and its rows."""
  workdir = tmp_path_factory.mktemp('whole')
  return jax.device_get(toy.train(workdir)), rows(workdir)


def test_the_order_of_a_step_is_kept(toy):
  spy = Spy(due_at=(3,))
  events = spy.events

  def step_fn(state, batch, key):
    events.append(('dispatch', int(state['step']) + 1))
    return toy.jitted()(state, batch, key)

  def batches():
    for batch in toy.batches():
      events.append(('fetch',))
      yield batch

  loop.fit(
    state=toy.init_state(),
    step_fn=step_fn,
    batches=batches(),
    key=jax.random.key(0),
    total_steps=4,
    hooks=[spy],
  )
  assert events == [
    ('fetch',),
    ('dispatch', 1),
    ('fetch',),
    ('dispatch', 2),
    ('metrics', 1),
    ('fetch',),
    ('dispatch', 3),
    ('metrics', 2),
    ('metrics', 3),  # A hook is due, so the step is read before it.
    ('run', 3, 3),
    ('fetch',),
    ('dispatch', 4),
    ('metrics', 4),
    ('finish', 4),
    ('close',),
  ]
  assert spy.last['examples'] == 24
  assert isinstance(float(spy.last['error/opt']), float)


def test_hooks_close_after_an_error_and_batches_may_not_end(toy):
  spy = Spy()
  with pytest.raises(ValueError, match='ended before step 2 of train.total_st'):
    loop.fit(
      state=toy.init_state(),
      step_fn=toy.jitted(),
      batches=iter([next(toy.batches())]),
      key=jax.random.key(0),
      total_steps=4,
      hooks=[spy],
    )
  assert spy.events == [('close',)]


def test_six_steps_equal_three_and_restore_and_three(toy, tmp_path, equal):
  six = jax.device_get(toy.train(tmp_path / 'six', total_steps=6))
  toy.train(tmp_path / 'parts', total_steps=3)
  parts = toy.train(tmp_path / 'parts', total_steps=6)
  equal(six, parts)
  assert rows(tmp_path / 'six') == rows(tmp_path / 'parts')
  assert [r['step'] for r in rows(tmp_path / 'parts')] == list(range(1, 7))


def test_kill_9_at_a_random_step_then_resume(toy, tmp_path, whole, equal):
  stop_at = random.randint(1, toy.STEPS - 4)
  path = tmp_path / 'metrics.jsonl'
  environment = os.environ | {
    'PYTHONPATH': str(pathlib.Path(loop.__file__).parents[2]),
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir,
  }
  process = subprocess.Popen(
    [sys.executable, pathlib.Path(__file__).with_name('toy.py')]
    + [str(tmp_path), '0.05'],
    env=environment,
    stderr=subprocess.PIPE,
    text=True,
  )
  deadline = time.monotonic() + 100
  while time.monotonic() < deadline and process.poll() is None:
    if path.exists() and len(path.read_bytes().splitlines()) >= stop_at:
      break
    time.sleep(0.005)
  process.kill()
  _, errors = process.communicate()
  assert process.returncode == -signal.SIGKILL, errors
  reached = len(rows(tmp_path))
  assert stop_at <= reached < toy.STEPS, 'it was killed in the middle'

  state, all_rows = whole
  equal(toy.train(tmp_path), state)
  assert rows(tmp_path) == all_rows, f'killed after step {reached}'
  starts = json.loads((tmp_path / 'environment.json').read_text())['starts']
  assert len(starts) == 2


def test_sigterm_saves_and_raises_and_resumes(toy, tmp_path, whole, equal):
  before = signal.getsignal(signal.SIGTERM)
  kill = Spy(due_at=(5,), then=lambda _: os.kill(os.getpid(), signal.SIGTERM))
  with pytest.raises(loop.Preempted, match='after step 5') as stopped:
    toy.train(tmp_path, more=[kill])
  assert stopped.value.exit_code == 4
  assert not isinstance(stopped.value, RuntimeError | ValueError | OSError)
  assert signal.getsignal(signal.SIGTERM) == before
  assert checkpoint.steps(tmp_path / 'checkpoints') == [3, 5]
  equal(toy.train(tmp_path), whole[0])
  assert rows(tmp_path) == whole[1]


def test_several_processes_stop_after_the_step_they_agree_on(toy, monkeypatch):
  """`jax.distributed` hears SIGTERM, at whichever process it comes."""
  asked = []

  def agreed(step):
    asked.append(step)
    return step == 3

  before = signal.getsignal(signal.SIGTERM)
  during = []
  spy = Spy(
    due_at=(2,), then=lambda _: during.append(signal.getsignal(signal.SIGTERM))
  )
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(
    loop.multihost_utils, 'reached_preemption_sync_point', agreed
  )
  monkeypatch.setattr(loop.hosts, 'together', contextlib.nullcontext)
  with pytest.raises(loop.Preempted, match='after step 3'):
    loop.fit(
      state=toy.init_state(),
      step_fn=toy.jitted(),
      batches=toy.batches(),
      key=jax.random.key(0),
      total_steps=6,
      hooks=[spy],
    )
  assert asked == [1, 2, 3]
  assert ('finish', 3) in spy.events
  assert during == [before], 'a handler of ours would take the signal away'


def test_several_processes_compile_before_any_runs(toy, monkeypatch):
  events = []

  class Step:
    def lower(self, *args):
      events.append('lower')
      return self

    def compile(self):
      events.append('compile')

    def __call__(self, *args):
      events.append('run')
      return toy.jitted()(*args)

  @contextlib.contextmanager
  def together():
    yield
    events.append('all here')

  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(
    loop.multihost_utils, 'reached_preemption_sync_point', lambda _: False
  )
  monkeypatch.setattr(loop.hosts, 'together', together)
  loop.fit(
    state=toy.init_state(),
    step_fn=Step(),
    batches=toy.batches(),
    key=jax.random.key(0),
    total_steps=2,
  )
  assert events == ['lower', 'compile', 'all here', 'run', 'run']


def test_only_process_0_shows_a_bar(monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  monkeypatch.setattr(hooks.progress, 'bar', pytest.fail)
  shown = hooks.Progress(start=0, total_steps=2, every=1)
  shown.metrics(
    1, {'loss': 1.0, 'examples': 1, 'seconds/step': 1.0, 'seconds/wait': 0.0}
  )
  shown.close()


def test_bad_steps_are_skipped_and_counted(toy, tmp_path):
  state = toy.train(tmp_path, poison=(4, 6))
  assert int(state['nonfinite']['total']) == 2
  found = {r['step']: r for r in rows(tmp_path)}
  assert found[5]['loss'] is None
  assert [found[s]['nonfinite/total'] for s in (4, 5, 6, 7, 8)] == [
    0,
    1,
    1,
    2,
    2,
  ]


def test_bad_steps_in_a_row_stop_and_keep_the_last_good(toy, tmp_path):
  with pytest.raises(RuntimeError, match='3 steps in a row, up to step 7'):
    toy.train(tmp_path, poison=range(4, 99))
  # Step 6 was due, but bad.
  assert checkpoint.steps(tmp_path / 'checkpoints') == [3]
  loaded = checkpoint.load_params(tmp_path / 'checkpoints')
  leaves = jax.tree.leaves(loaded.params)
  assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_a_finished_run_has_nothing_left_to_do(toy, tmp_path, equal):
  first = jax.device_get(toy.train(tmp_path, total_steps=3))
  again = toy.train(tmp_path, total_steps=3)
  equal(first, again)


def test_a_damaged_newest_step_costs_only_its_own_steps(
  toy, tmp_path, whole, equal
):
  toy.train(tmp_path, total_steps=6)
  (tmp_path / 'checkpoints' / '6' / 'params' / '_METADATA').write_bytes(b'')
  equal(toy.train(tmp_path), whole[0])
  assert rows(tmp_path) == whole[1]


def test_another_device_count_continues_with_the_same_losses(
  toy, tmp_path, whole
):
  """From one device to a mesh of four, in the middle of a run."""
  toy.train(tmp_path, total_steps=6)
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:4])
  checkpoints = checkpoint.Checkpoints(tmp_path / 'checkpoints')
  abstract = toy.abstract(toy.init_state(), mesh_lib.replicated(mesh))
  restored = checkpoints.restore(abstract)
  checkpoints.close()
  put = mesh_lib.batch_sharding(mesh)
  spy = Spy()
  losses = []
  spy.metrics = lambda step, values: losses.append(float(values['loss']))
  loop.fit(
    state=restored.state,
    step_fn=toy.jitted(),
    batches=(jax.device_put(b, put) for b in toy.batches(6)),
    key=jax.random.key(5),
    total_steps=9,
    hooks=[spy],
  )
  # Sums in another order, three steps on.
  np.testing.assert_allclose(
    losses, [r['loss'] for r in whole[1][6:9]], rtol=1e-5
  )


def test_evaluators_run_by_their_schedules(toy, tmp_path):
  class Norm:
    name, schedule = 'probe', hooks.Every(4)

    def run(self, params, step):
      return {
        'norm': float(np.linalg.norm(params['head']['kernel'])),
        'n': step,
      }

  out = writers.of_run(tmp_path)
  loop.fit(
    state=toy.init_state(),
    step_fn=toy.jitted(),
    batches=toy.batches(),
    key=jax.random.key(5),
    total_steps=8,
    hooks=[
      hooks.Metrics(out, every=100),
      hooks.Evaluate([Norm()], out, params_of=lambda s: s['ema']),
    ],
  )
  found = [r for r in rows(tmp_path) if 'probe/n' in r]
  assert [r['probe/n'] for r in found] == [4, 8]
  assert found[0]['probe/norm'] > 0


def test_a_profile_covers_its_steps(toy, tmp_path):
  profile = hooks.Profile(tmp_path, first=2, steps=2)
  assert [s for s in range(8) if profile.due(s)] == [2, 4]
  loop.fit(
    state=toy.init_state(),
    step_fn=toy.jitted(),
    batches=toy.batches(),
    key=jax.random.key(5),
    total_steps=3,  # Ends while tracing: `close` stops the trace.
    hooks=[profile],
  )
  assert list(tmp_path.rglob('*.xplane.pb'))
