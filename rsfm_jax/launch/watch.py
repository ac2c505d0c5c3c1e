"""Watches the processes of a run on this host and says how they ended.

When a peer is lost, JAX's runtime aborts the process with a C++ stack after
the heartbeat timeout. Here that becomes one sentence and an exit code; the
full text stays in a log beside the run.

Exit codes: 0 done; 2 bad usage or bad input; 3 does not fit (`rsfm compile`);
4 stopped by SIGTERM, state saved; 5 a peer was lost or did not arrive; 128 + n
killed by signal n. Starting again makes sense after 4 and 5, and resumes.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import ctypes
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from typing import BinaryIO, NamedTuple

import jax

from rsfm_jax.launch import rendezvous

EXIT_PREEMPTED = 4
EXIT_PEER_LOST = 5
_TAIL_BYTES = 1 << 16
_POLL_SECONDS = 0.05
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PARENT = 'RSFM_LAUNCHER_PID'

# What JAX 0.10's coordination service says before it aborts the process, and
# how Gloo ends it when a collective finds half a message of a peer that died.
_ABORTED = re.compile(
  rb'Terminating process because the JAX distributed service detected'
  rb'|terminate called after throwing[^\n]*gloo::'
  rb'|distributed collective mismatch'
)
_SILENT = re.compile(
  rb'unhealthy \(stopped sending heartbeats\):\s*((?:\d+[\s,]*)+)'
)
_SILENT_ONE = re.compile(rb'Task (\d+) heartbeat timeout')
_NO_COORDINATOR = re.compile(rb'Failed to send RPC to coordination service')
# A collective that finds the other end closed; it does not know whose it was.
_CLOSED = re.compile(
  'Connection (?:closed|reset) by peer|Socket closed|[Hh]eartbeat timeout'
  '|coordination service|[Bb]arrier|NCCL'
)
# Lines of the terminal: chatter, and what belongs to an abort.
_CHATTER = re.compile(
  rb'connected peer ranks is|preemption_notifier|^WARNING: All log messages'
)
_TROUBLE = re.compile(
  rb'^[WEF]\d{4} .*(?:coordination_service|preemption_sync_manager|client\.h:)'
)


class Command(NamedTuple):
  """A process to start.

  Attributes:
    argv: program and arguments.
    process: its number in the run.
    log: file that gets all it says; None for none.
    heard: whether the terminal gets it too.
    environ: variables on top of ours.
  """

  argv: Sequence[str]
  process: int = 0
  log: pathlib.Path | None = None
  heard: bool = True
  environ: Mapping[str, str] = {}


class Verdict(NamedTuple):
  """Exit code, and a sentence where the process could not speak itself."""

  code: int
  sentence: str | None = None


def judge(returncode: int, tail: bytes, *, stopping: bool = False) -> Verdict:
  """What the end of a process means.

  Args:
    returncode: as `subprocess` gives it, -n for signal n.
    tail: the last of what it said.
    stopping: whether it had been asked to stop by SIGTERM.
  """
  if returncode >= 0:
    return Verdict(returncode)
  number = -returncode
  if number == signal.SIGABRT and _ABORTED.search(tail):
    return Verdict(
      EXIT_PEER_LOST,
      f'{_lost(tail)}; no other can go on without it. The last '
      'checkpoint is kept: start again to resume, on any number of hosts.',
    )
  if stopping and number == signal.SIGTERM:
    return Verdict(
      EXIT_PREEMPTED, 'stopped by SIGTERM before there was anything to save.'
    )
  name = signal.Signals(number).name
  hint = ''
  if number == signal.SIGKILL:
    hint = ' (out of memory, or killed by hand)'
  return Verdict(128 + number, f'was ended by {name}{hint}.')


def exit_code(error: BaseException, *, default: int) -> int:
  """`EXIT_PEER_LOST` for an error of JAX's runtime that tells of a lost peer.

  A collective often notices before the heartbeat does, without knowing whose
  end is closed.
  """
  lost = isinstance(error, jax.errors.JaxRuntimeError) and _CLOSED.search(
    str(error)
  )
  return EXIT_PEER_LOST if lost else default


def run(
  commands: Sequence[Command],
  *,
  grace_seconds: float = 300.0,
  settle_seconds: float = 5.0,
) -> int:
  """Runs processes side by side until all have ended.

  SIGTERM and SIGINT are passed on. When one process fails, the others get a
  moment to end by themselves. Nothing that they started stays behind.

  Args:
    commands: at least one.
    grace_seconds: between SIGTERM and SIGKILL, time to save.
    settle_seconds: between the first failure and SIGKILL of the others.

  Returns:
    The exit code of the first that failed, 0 when none did.
  """
  with contextlib.ExitStack() as stack:
    received = stack.enter_context(_signals())
    children = [stack.enter_context(_Child(command)) for command in commands]
    first: _Child | None = None
    deadline = None
    while any(child.running() for child in children):
      if received:
        number = received.pop()
        for child in children:
          child.send(number)
        deadline = deadline or time.monotonic() + grace_seconds
      if first is None:
        first = next((c for c in children if c.failed()), None)
        if first is not None and deadline is None:
          preempted = first.verdict().code == EXIT_PREEMPTED
          wait = grace_seconds if preempted else settle_seconds
          deadline = time.monotonic() + wait
      if deadline is not None and time.monotonic() > deadline:
        for child in children:
          child.send(signal.SIGKILL)
      time.sleep(_POLL_SECONDS)
    first = first or next((c for c in children if c.failed()), None)
    if first is None:
      return 0
    first.explain(alone=len(children) == 1)
    return first.verdict().code


def die_with_parent() -> None:
  """Ends this process when its parent ends, however that may happen (Linux).

  Called by a child at its start; a parent that was killed cannot clean up.
  """
  if sys.platform.startswith('linux'):
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.environ.get(_PARENT, str(os.getppid())) != str(os.getppid()):
    sys.exit(1)  # It had ended before.


class Sieve:
  """Lets a process's words through to the terminal, without the noise.

  Once the coordination service reports trouble, only lines that start with
  `rsfm` pass: the rest is a stack, and `judge` says it in a sentence.
  """

  def __init__(self):
    self._rest, self._trouble, self._in_bar = b'', False, False

  def feed(self, data: bytes) -> bytes:
    """What of `data` may be shown now; a line that is not whole waits."""
    *lines, self._rest = re.split(rb'(?<=[\n\r])', self._rest + data)
    out = b''.join(filter(self._passes, lines))
    if lines:
      self._in_bar = lines[-1].endswith(b'\r')
    # A progress bar returns to the start of its line, and ends it much later.
    if self._in_bar and not self._trouble:
      out, self._rest = out + self._rest, b''
    return out

  def end(self) -> bytes:
    rest, self._rest = self._rest, b''
    return rest if rest and self._passes(rest) else b''

  def _passes(self, line: bytes) -> bool:
    if _TROUBLE.search(line):
      self._trouble = True
    if self._trouble:
      return line.startswith(b'rsfm')
    return not _CHATTER.search(line)


class _Child:
  """A running command, its words and its end."""

  def __init__(self, command: Command):
    self._command = command
    self._stopping = False
    self._tail = b''
    self._lock = threading.Lock()
    self._log = None
    if command.log is not None:
      command.log.parent.mkdir(parents=True, exist_ok=True)
      self._log = open(command.log, 'ab')
    environ = {'PYTHONUNBUFFERED': '1', _PARENT: str(os.getpid())}
    self._process = subprocess.Popen(
      command.argv,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      env=os.environ | environ | dict(command.environ),
      process_group=0,  # Signals come through us, to all that it starts.
    )
    if self._log is not None:
      now = time.strftime('%Y-%m-%d %H:%M:%S')
      pid = self._process.pid
      start = f'--- {now} process {command.process}, pid {pid}\n'
      self._log.write(start.encode())
      self._log.flush()
    self._pumps = [
      threading.Thread(target=self._pump, args=pair, daemon=True)
      for pair in (
        (self._process.stdout, sys.stdout.buffer),
        (self._process.stderr, sys.stderr.buffer),
      )
    ]
    for pump in self._pumps:
      pump.start()

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self._sweep()
    self._process.wait()
    for pump in self._pumps:
      pump.join(timeout=5)
    if self._log is not None:
      self._log.close()

  def running(self) -> bool:
    return self._process.poll() is None

  def failed(self) -> bool:
    return self._process.poll() not in (None, 0)

  def send(self, number: int) -> None:
    """A signal: to the process, or (SIGKILL) to all that it started."""
    self._stopping |= number == signal.SIGTERM
    if not self.running():
      return
    with contextlib.suppress(ProcessLookupError):
      if number == signal.SIGKILL:
        self._sweep()
      else:
        self._process.send_signal(number)

  def verdict(self) -> Verdict:
    self._sweep()
    for pump in self._pumps:
      pump.join(timeout=5)  # Its last words may still be on their way.
    return judge(self._process.returncode, self._tail, stopping=self._stopping)

  def explain(self, *, alone: bool) -> None:
    """The sentence for the terminal, with last words that it has not seen."""
    code, sentence = self.verdict()
    who = f'process {self._command.process}'
    lines = []
    if sentence is not None:
      lines.append(f'{who}: {sentence}')
    elif not alone:
      lines.append(f'{who} ended with exit code {code}.')
    if not self._command.heard:
      words = re.split(rb'[\n\r]+', self._tail.strip())
      ours = [word for word in words if word.startswith(b'rsfm')]
      shown = ours[-1:] if ours else [] if sentence else words[-5:]
      lines += [f'{who} said: {w.decode(errors="replace")}' for w in shown]
    if lines and self._log is not None and code != EXIT_PREEMPTED:
      lines.append(f'all it said: {self._command.log}')
    for line in lines:
      print(f'rsfm launch: {line}', file=sys.stderr, flush=True)

  def _sweep(self) -> None:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, signal.SIGKILL)

  def _pump(self, source: BinaryIO, terminal: BinaryIO) -> None:
    sieve, part = Sieve(), b''
    while data := source.read1(_TAIL_BYTES):
      # The log gets whole lines, since two streams come together there.
      whole, end, part = (part + data).rpartition(b'\n')
      self._hear(whole + end)
      if self._command.heard:
        self._show(terminal, sieve.feed(data))
    self._hear(part)
    if self._command.heard:
      self._show(terminal, sieve.end())

  def _hear(self, data: bytes) -> None:
    with self._lock:
      self._tail = (self._tail + data)[-_TAIL_BYTES:]
      if self._log is not None:
        self._log.write(data)
        self._log.flush()

  def _show(self, terminal: BinaryIO, data: bytes) -> None:
    if data:
      with contextlib.suppress(BrokenPipeError):
        terminal.write(data)
        terminal.flush()


def _lost(tail: bytes) -> str:
  """Who was lost, in the words of the coordination service."""
  if found := _SILENT.findall(tail):
    numbers = {int(n) for n in re.findall(rb'\d+', found[-1])}
    return f'lost {rendezvous.named(numbers)} (no heartbeat)'
  if found := _SILENT_ONE.findall(tail):
    return f'lost process {int(found[-1])} (no heartbeat)'
  if _NO_COORDINATOR.search(tail):
    return 'lost process 0, which coordinates the run (ended, or cut off)'
  return 'lost another process'


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
  """A list that collects SIGTERM and SIGINT; only a main thread can listen."""
  received: list[int] = []
  if threading.current_thread() is not threading.main_thread():
    yield received
    return
  take = lambda number, _: received.append(number)
  before = {n: signal.signal(n, take) for n in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield received
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
