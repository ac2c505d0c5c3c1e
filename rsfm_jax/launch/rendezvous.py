"""The roll call before a run: all processes meet, or are named as missing.

Process 0 listens on the coordinator's port, before `jax.distributed` takes it
over, so that the call also shows that this port is open. Each other process
says its number and what must be the same everywhere; process 0 answers with
who is missing and, at the end, with `go` or with what is wrong. Without this,
a missing host shows after minutes as an abort without a name.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import errno
import json
import os
import selectors
import socket
import sys
import time
from typing import Any

_RETRY_SECONDS = 0.5
_NEWS_SECONDS = 5.0  # How often those who wait are told who is missing.
_FAREWELL_SECONDS = 5.0
_LINE_BYTES = 1 << 16
Say = Callable[[str], None]


def meet(
  *,
  coordinator: str,
  bind: str | None,
  processes: int,
  process: int,
  seconds: float,
  facts: Mapping[str, str],
  say: Say | None = None,
) -> None:
  """Returns when all processes are here, on each of them.

  Args:
    coordinator: `host:port` of process 0.
    bind: `host:port` that process 0 binds, a `reserved_port`; None for the
      port of the coordinator on all interfaces.
    processes: how many must come.
    process: the number of this one.
    seconds: how long to wait for the last one.
    facts: must be the same on all; the message names what differs.
    say: receives a line now and then while somebody is missing; standard
      error unless given.

  Raises:
    TimeoutError: names the processes that did not arrive, or says why process
      0 could not be reached.
    ValueError: a process differs in its facts, or two have one number.
    OSError: process 0 cannot listen on the port.
  """
  say = _to_stderr if say is None else say
  hello = {
    'process': process,
    'processes': processes,
    'who': f'{socket.gethostname()}, pid {os.getpid()}',
    'facts': dict(facts),
  }
  if process == 0:
    with _listener(coordinator, bind) as listener:
      with _Host(listener, hello, seconds, say) as one:
        one.gather()
  else:
    _Guest(coordinator, hello, seconds, say).knock()


def named(numbers: Iterable[int]) -> str:
  """`[1, 2, 3, 7]` -> `'processes 1-3, 7'`."""
  runs: list[list[int]] = []
  for number in sorted(numbers):
    if runs and number == runs[-1][-1] + 1:
      runs[-1].append(number)
    else:
      runs.append([number])
  spans = [
    str(run[0]) if len(run) == 1 else f'{run[0]}-{run[-1]}' for run in runs
  ]
  one = len(spans) == 1 and '-' not in spans[0]
  return f'process{"" if one else "es"} {", ".join(spans)}'


class _Host:
  """Process 0: gathers the others and tells them what came of it."""

  def __init__(self, listener, hello, seconds, say):
    self._listener, self._hello, self._say = listener, hello, say
    self._seconds = seconds
    self._buffers: dict[socket.socket, bytes] = {}
    self._here: dict[int, tuple[dict[str, Any], socket.socket | None]] = {
      0: (hello, None)
    }
    self._selector = selectors.DefaultSelector()
    self._selector.register(listener, selectors.EVENT_READ)

  def __enter__(self):
    return self

  def __exit__(self, *error):
    for guest in list(self._buffers):
      self._drop(guest)
    self._selector.close()

  def gather(self) -> None:
    deadline = time.monotonic() + self._seconds
    news = time.monotonic() + _NEWS_SECONDS
    while self._missing():
      now = time.monotonic()
      if now > deadline:
        self._refuse(TimeoutError(self._absence()))
      if now > news:
        news = now + _NEWS_SECONDS
        self._tell({'missing': self._missing()})
        self._say(f'waiting for {named(self._missing())}')
      for key, _ in self._selector.select(min(0.5, deadline - now)):
        if key.fileobj is self._listener:
          self._welcome()
        else:
          self._hear(key.fileobj)
    self._tell({'go': True})
    self._farewell()

  def _missing(self) -> list[int]:
    return [n for n in range(self._hello['processes']) if n not in self._here]

  def _absence(self) -> str:
    here = ', '.join(
      f'{n} ({hello["who"]})' for n, (hello, _) in sorted(self._here.items())
    )
    return (
      f'{named(self._missing())} of {self._hello["processes"]} did '
      f'not arrive within {self._seconds:g} s; here are {here}. Look at the '
      'logs of the missing hosts.'
    )

  def _welcome(self) -> None:
    with contextlib.suppress(OSError):  # It hung up again.
      guest, _ = self._listener.accept()
      guest.setblocking(False)
      self._buffers[guest] = b''
      self._selector.register(guest, selectors.EVENT_READ)

  def _hear(self, guest: socket.socket) -> None:
    try:
      data = guest.recv(_LINE_BYTES)
    except OSError:
      data = b''
    if not data:  # Gone; when it was one of us it may come back.
      self._drop(guest)
      return
    self._buffers[guest] += data
    line, end, _ = self._buffers[guest].partition(b'\n')
    hello = _read(line) if end else None
    if hello and isinstance(hello.get('process'), int):
      self._admit(hello, guest)
    elif end or len(line) > _LINE_BYTES:
      self._drop(guest)  # A stranger.

  def _admit(self, hello: dict[str, Any], guest: socket.socket) -> None:
    number, mine = hello['process'], self._hello
    who = f'process {number} ({hello["who"]})'
    problem = None
    if hello['processes'] != mine['processes'] or number >= mine['processes']:
      problem = f'{who} counts {hello["processes"]} processes'
      problem += f', process 0 {mine["processes"]}'
    elif number in self._here:
      other = self._here[number][0]['who']
      problem = f'two processes have number {number}: {other} and {who}'
    elif differs := sorted(
      name
      for name in mine['facts'] | hello['facts']
      if mine['facts'].get(name) != hello['facts'].get(name)
    ):
      problem = f'{who} differs from process 0 ({mine["who"]}) in ' + '; '.join(
        f'{name}: {hello["facts"].get(name)!r} there, '
        f'{mine["facts"].get(name)!r} at process 0'
        for name in differs
      )
    self._here.setdefault(number, (hello, guest))
    if problem:
      self._refuse(ValueError(f'{problem}.'))

  def _refuse(self, error: Exception) -> None:
    kind = 'missing' if isinstance(error, TimeoutError) else 'unfit'
    self._tell({'refused': str(error), 'kind': kind})
    self._farewell()
    raise error

  def _tell(self, message: dict[str, Any]) -> None:
    for guest in list(self._buffers):
      with contextlib.suppress(OSError):
        guest.sendall(json.dumps(message).encode() + b'\n')

  def _farewell(self) -> None:
    """Lets the others hang up first.

    The side that closes first keeps the address for a while, and
    `jax.distributed` needs this port at once.
    """
    deadline = time.monotonic() + _FAREWELL_SECONDS
    while self._buffers and (left := deadline - time.monotonic()) > 0:
      for key, _ in self._selector.select(left):
        if key.fileobj is not self._listener:
          self._hear(key.fileobj)

  def _drop(self, guest: socket.socket) -> None:
    del self._buffers[guest]
    self._selector.unregister(guest)
    guest.close()
    self._here = {
      n: (hello, s) for n, (hello, s) in self._here.items() if s is not guest
    }


class _Guest:
  """Any other process: knocks until process 0 opens."""

  def __init__(self, coordinator, hello, seconds, say):
    self._coordinator, self._hello = coordinator, hello
    self._seconds, self._say = seconds, say
    self._missing: list[int] = []
    self._reason = ''

  def knock(self) -> None:
    start = said = time.monotonic()
    while (left := self._seconds - (time.monotonic() - start)) > 0:
      answer = self._ask(left)
      if answer.get('go'):
        return
      if answer.get('kind') == 'unfit':
        raise ValueError(answer['refused'])
      if 'refused' in answer:
        raise TimeoutError(answer['refused'])
      if time.monotonic() - said > 2 * _NEWS_SECONDS:
        said = time.monotonic()
        self._say(f'no answer yet from {self._coordinator}: {self._reason}')
      time.sleep(min(_RETRY_SECONDS, max(left, 0)))
    waited = f' It was waiting for {named(self._missing)}.'
    raise TimeoutError(
      f'process {self._hello["process"]} ({self._hello["who"]}) could not meet '
      f'process 0 at {self._coordinator} within {self._seconds:g} s: '
      f'{self._reason}.{waited if self._missing else ""}'
    )

  def _ask(self, left: float) -> dict[str, Any]:
    """The last word of process 0; empty when there was none."""
    host, _, port = self._coordinator.rpartition(':')
    address = host.strip('[]'), int(port)
    try:
      with socket.create_connection(address, timeout=min(5.0, left)) as line:
        line.sendall(json.dumps(self._hello).encode() + b'\n')
        # Process 0 knows more than we do: let its time run out first.
        line.settimeout(left + 2 * _NEWS_SECONDS)
        with line.makefile('rb') as lines:
          for text in lines:
            message = _read(text)
            if message is None or 'missing' not in message:
              self._reason = 'another program listens there'
              return message or {}
            self._missing = message['missing']
            self._say(f'waiting for {named(self._missing)}')
      self._reason = 'it hung up'
    except OSError as error:
      self._reason = _reason(error)
    return {}


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
  """A free port of loopback that no other program gets meanwhile.

  The socket that holds it never listens, and lets others of this user bind
  the same port if they ask for sharing: `meet` with `bind` does, and
  `jax.distributed` always.
  """
  with socket.socket() as holder:
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind(('127.0.0.1', 0))
    yield holder.getsockname()[1]


def _listener(coordinator: str, bind: str | None) -> socket.socket:
  """A listening socket; only a reserved port (`bind`) may be shared."""
  host, _, port = (bind or coordinator).rpartition(':')
  host = host.strip('[]') if bind else ''
  everywhere = not host and socket.has_dualstack_ipv6()
  try:
    return socket.create_server(
      (host, int(port)),
      family=socket.AF_INET6 if everywhere else socket.AF_INET,
      backlog=1024,
      reuse_port=bind is not None,
      dualstack_ipv6=everywhere,
    )
  except OSError as error:
    reason = str(error)
    if error.errno == errno.EADDRINUSE:
      reason = (
        'another program has it; end the run that is still there, or choose '
        'another port'
      )
    raise OSError(
      error.errno, f'process 0 cannot listen on port {port}: {reason}'
    ) from error


def _read(line: bytes) -> dict[str, Any] | None:
  """A message, or None for what is not one of ours."""
  try:
    message = json.loads(line)
  except ValueError:
    return None
  return message if isinstance(message, dict) else None


def _reason(error: OSError) -> str:
  if isinstance(error, socket.gaierror):
    return 'its name is not known here'
  if isinstance(error, ConnectionRefusedError):
    return 'nothing listens there (process 0 has not started, or has ended)'
  if isinstance(error, TimeoutError):
    return 'no answer (a firewall, or the wrong address)'
  return str(error)


def _to_stderr(text: str) -> None:
  print(f'rsfm launch: {text}', file=sys.stderr, flush=True)
