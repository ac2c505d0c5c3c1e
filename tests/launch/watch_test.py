"""Watching processes: exit codes, sentences, signals, and nothing left over."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import jax
import pytest

from rsfm_jax.launch import watch

ROOT = pathlib.Path(watch.__file__).parents[2]
# Recorded from JAX 0.10.2, addresses of the stack left out.
HEARTBEAT = b"""\
E1121 18:00:58.163325    3347 coordination_service_agent.cc:289] Polled an \
error from coordination service (this can be an error from this or another \
task).
F1121 18:00:58.163428    3347 client.h:80] Terminating process because the JAX \
distributed service detected fatal errors. This most likely indicates that \
another task died; see the other task logs for more details. absl::Status: \
UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):
1
3
The tasks have crashed. Check the task logs for an earlier error.

RPC: /xla.coordination.CoordinationService/PollForError
*** Check failure stack trace: ***
    @     0x7fe982820634  absl::lts_20260107::log_internal::LogMessage::Flush()
"""
BARRIER = b"""\
F1121 18:00:40.061025    3054 client.h:80] Terminating process because the JAX \
distributed service detected fatal errors. absl::Status: INTERNAL: Shutdown \
barrier has failed.
Barrier result: 'INTERNAL: Barrier failed because: task is set to ERROR: \
UNAVAILABLE: Task 2 heartbeat timeout. This indicates that the remote task has \
failed
"""
COORDINATOR = b"""\
F1121 18:01:05.302831    3605 client.h:80] Terminating process because the JAX \
distributed service detected fatal errors. absl::Status: UNAVAILABLE: Failed \
to send RPC to coordination service. Either the leader task was preempted
"""
GLOO = (
  'UNKNOWN: Gloo AllGather failed: [external/gloo/gloo/transport/tcp/'
  'pair.cc:547] Connection closed by peer [127.0.0.1]:23275'
)


def python(code, **kwargs):
  return watch.Command([sys.executable, '-c', code], **kwargs)


def gone(pid):
  """Whether a process is no more (a zombie that nobody awaits is gone)."""
  try:
    status = pathlib.Path(f'/proc/{pid}/status').read_text()
  except OSError:
    return True
  return 'State:\tZ' in status


def eventually(what, seconds=60):
  deadline = time.monotonic() + seconds
  while not what():
    assert time.monotonic() < deadline
    time.sleep(0.02)


@pytest.mark.parametrize(
  'text, words',
  [
    (HEARTBEAT, 'lost processes 1, 3 (no heartbeat)'),
    (BARRIER, 'lost process 2 (no heartbeat)'),
    (COORDINATOR, 'lost process 0, which coordinates'),
  ],
)
def test_an_abort_after_a_lost_peer_becomes_a_sentence(text, words):
  code, sentence = watch.judge(-signal.SIGABRT, text)
  assert code == watch.EXIT_PEER_LOST == 5
  assert words in sentence and 'start again to resume' in sentence


def test_other_ends_keep_their_meaning():
  assert watch.judge(0, b'') == (0, None)
  assert watch.judge(2, HEARTBEAT) == (2, None)
  assert watch.judge(4, b'') == (4, None)
  assert watch.judge(-signal.SIGABRT, b'double free').code == 134
  code, sentence = watch.judge(-signal.SIGKILL, b'')
  assert code == 137 and 'SIGKILL (out of memory' in sentence
  assert watch.judge(-signal.SIGTERM, b'').code == 143
  code, sentence = watch.judge(-signal.SIGTERM, b'', stopping=True)
  assert code == 4 and 'before there was anything to save' in sentence


def test_errors_of_collectives_tell_of_a_lost_peer():
  lost = jax.errors.JaxRuntimeError(GLOO)
  assert watch.exit_code(lost, default=2) == 5
  full = jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
  assert watch.exit_code(full, default=2) == 2
  assert watch.exit_code(ValueError(GLOO), default=2) == 2


def test_the_terminal_is_spared_the_stack_and_the_chatter():
  sieve = watch.Sieve()
  chatter = b'[Gloo] Rank 0 is connected to 1 peer ranks. Expected number of '
  shown = sieve.feed(b'I step\n' + chatter)
  shown += sieve.feed(b'connected peer ranks is : 1\n\rtrain: 5')
  assert shown == b'I step\n\rtrain: 5', 'a bar shows before its line ends'
  shown = sieve.feed(b'0%\n' + HEARTBEAT + b'rsfm: a word of ours\nmore\n')
  assert shown + sieve.end() == b'0%\nrsfm: a word of ours\n'


def test_words_pass_and_stay_in_the_log(tmp_path, capfdbinary):
  log = tmp_path / 'hosts' / 'process-0.log'
  code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(2)"
  assert watch.run([python(code, log=log)]) == 2
  out, err = capfdbinary.readouterr()
  assert (out, err) == (b'out\n', b'err\n'), 'it has spoken for itself'
  text = log.read_text()
  assert 'process 0, pid ' in text and 'out\n' in text and 'err\n' in text


def test_an_abort_is_told_in_one_sentence(tmp_path, capfd):
  code = (
    f'import os, sys; sys.stderr.write({HEARTBEAT.decode()!r}); '
    'sys.stderr.flush(); os.abort()'
  )
  log = tmp_path / 'process-2.log'
  assert watch.run([python(code, process=2, log=log)]) == 5
  first, second = capfd.readouterr().err.splitlines()
  assert first.startswith('rsfm launch: process 2: lost processes 1, 3')
  assert str(log) in second
  assert '*** Check failure stack trace' in log.read_text()


def test_the_first_failure_stops_the_others_and_names_itself(tmp_path, capfd):
  pid = tmp_path / 'pid'
  sleeper = (
    'import subprocess, sys, time; '
    "child = subprocess.Popen([sys.executable, '-c', "
    "'import time; time.sleep(600)']); "
    f"open({str(pid)!r}, 'w').write(str(child.pid)); time.sleep(600)"
  )
  waits = (
    'import os, sys, time\n'
    f'while not os.path.exists({str(pid)!r}): time.sleep(0.02)\n'
    "print('rsfm: no such store')\n"
    'sys.exit(2)'
  )
  log = tmp_path / 'process-1.log'
  start = time.monotonic()
  code = watch.run(
    [python(sleeper), python(waits, process=1, log=log, heard=False)],
    settle_seconds=0.2,
  )
  assert code == 2
  assert time.monotonic() - start < 60
  err = capfd.readouterr().err
  assert 'process 1 ended with exit code 2' in err
  assert 'process 1 said: rsfm: no such store' in err
  eventually(lambda: pid.read_text() and gone(int(pid.read_text())))


SAVES = """
import signal, sys, time
def save(*_):
  print('saved')
  sys.exit(4)
signal.signal(signal.SIGTERM, save)
print('ready')
time.sleep(600)
"""


@contextlib.contextmanager
def launcher(tmp_path, count, **kwargs):
  """`watch.run` in a process of its own, once all its children are ready."""
  commands = [
    f'watch.Command([sys.executable, "-c", {SAVES!r}], process={i}, '
    f'log=pathlib.Path({str(tmp_path)!r}) / "{i}.log")'
    for i in range(count)
  ]
  code = (
    'import pathlib, sys\nfrom rsfm_jax.launch import watch\n'
    f'sys.exit(watch.run([{", ".join(commands)}], **{kwargs!r}))'
  )
  process = subprocess.Popen(
    [sys.executable, '-c', code], cwd=ROOT, stdout=subprocess.DEVNULL
  )
  logs = [tmp_path / f'{i}.log' for i in range(count)]
  try:
    eventually(
      lambda: all(p.exists() and 'ready' in p.read_text() for p in logs)
    )
    pids = [int(p.read_text().split('pid ')[1].split()[0]) for p in logs]
    yield process, pids
  finally:
    process.terminate()  # It ends its own.
    process.wait()


def test_sigterm_is_passed_on_and_means_exit_4(tmp_path):
  with launcher(tmp_path, 2) as (process, pids):
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == watch.EXIT_PREEMPTED == 4
  assert all('saved' in p.read_text() for p in tmp_path.glob('*.log'))
  assert all(map(gone, pids))


def test_who_does_not_stop_in_time_is_killed(tmp_path):
  stubborn = 'import signal, time; signal.signal(15, signal.SIG_IGN); '
  stubborn += "print('ready'); time.sleep(60)"
  log = tmp_path / 'log'

  def stop():
    eventually(lambda: log.exists() and 'ready' in log.read_text())
    os.kill(os.getpid(), signal.SIGTERM)

  before = signal.getsignal(signal.SIGTERM)
  thread = threading.Thread(target=stop)
  thread.start()
  assert watch.run([python(stubborn, log=log)], grace_seconds=0.3) == 137
  thread.join()
  assert signal.getsignal(signal.SIGTERM) == before


def test_a_killed_launcher_takes_its_processes_along(tmp_path):
  code = (
    'import sys, time; from rsfm_jax.launch import watch; '
    "watch.die_with_parent(); print('ready'); time.sleep(600)"
  )
  run = (
    'import pathlib, sys\nfrom rsfm_jax.launch import watch\n'
    f'watch.run([watch.Command([sys.executable, "-c", {code!r}], '
    f'log=pathlib.Path({str(tmp_path / "log")!r}))])'
  )
  process = subprocess.Popen([sys.executable, '-c', run], cwd=ROOT)
  log = tmp_path / 'log'
  try:
    eventually(lambda: log.exists() and 'ready' in log.read_text())
    pid = int(log.read_text().split('pid ')[1].split()[0])
    assert not gone(pid)
  finally:
    process.kill()
    process.wait()
  eventually(lambda: gone(pid))
