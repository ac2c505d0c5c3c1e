"""The roll call: who is missing, who does not fit, and why, by name."""

import concurrent.futures
import socket
import time

import pytest

from rsfm_jax.launch import rendezvous

FACTS = {'jax': '0.10.2', 'command': 'pretrain --config c'}


@pytest.fixture
def port():
  with rendezvous.reserved_port() as number:
    yield number


@pytest.fixture
def call(port):
  """`call(process, ...)` -> future of `meet`, each in a thread of its own."""
  with concurrent.futures.ThreadPoolExecutor(16) as pool:

    def start(process, *, processes=2, seconds=10.0, facts=FACTS, **kwargs):
      address = f'127.0.0.1:{port}'
      defaults = dict(coordinator=address, bind=address, say=lambda _: None)
      return pool.submit(
        rendezvous.meet,
        processes=processes,
        process=process,
        seconds=seconds,
        facts=facts,
        **(defaults | kwargs),
      )

    yield start


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
  monkeypatch.setattr(rendezvous, '_NEWS_SECONDS', 0.1)
  monkeypatch.setattr(rendezvous, '_RETRY_SECONDS', 0.05)


@pytest.mark.parametrize(
  'numbers, text',
  [
    ([1], 'process 1'),
    ([3, 1], 'processes 1, 3'),
    ([1, 2, 3, 7], 'processes 1-3, 7'),
    (range(2, 64), 'processes 2-63'),
  ],
)
def test_processes_are_named_briefly(numbers, text):
  assert rendezvous.named(numbers) == text


def test_all_meet_in_any_order_and_at_once_again(call):
  for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
    futures = []
    for process in order:
      futures.append(call(process, processes=4))
      time.sleep(0.05)
    for future in futures:
      assert future.result(timeout=10) is None
    # The port is free for `jax.distributed`, or for a new call.


def test_the_missing_are_named_everywhere(call):
  said = []
  futures = [call(n, processes=5, seconds=1.0, say=said.append) for n in (0, 2)]
  for future in futures:
    with pytest.raises(TimeoutError) as late:
      future.result(timeout=20)
    assert 'processes 1, 3-4 of 5 did not arrive within 1 s' in str(late.value)
    assert f'2 ({socket.gethostname()}' in str(late.value), 'and who is here'
  assert 'waiting for processes 1, 3-4' in said


def test_without_process_0_the_reason_is_told(call):
  with pytest.raises(TimeoutError) as late:
    call(1, seconds=0.5).result(timeout=20)
  assert 'process 1' in str(late.value)
  assert 'nothing listens there (process 0 has not started' in str(late.value)
  with pytest.raises(TimeoutError, match='its name is not known here'):
    call(1, seconds=0.3, coordinator='no.such.host.invalid:1').result(20)


def test_another_program_on_the_port_is_not_process_0(call, port):
  with socket.create_server(('127.0.0.1', port), reuse_port=True) as other:

    def answer():
      line, _ = other.accept()
      line.sendall(b'HTTP/1.1 400 Bad Request\r\n')
      line.close()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      pool.submit(answer)
      with pytest.raises(TimeoutError, match='another program listens there'):
        call(1, seconds=0.01).result(timeout=20)


def test_a_stranger_is_ignored(call, port):
  first = call(0)
  deadline = time.monotonic() + 10
  while time.monotonic() < deadline:
    try:
      line = socket.create_connection(('127.0.0.1', port), timeout=5)
      break
    except ConnectionRefusedError:
      time.sleep(0.02)
  with line:
    line.sendall(b'GET / HTTP/1.1\r\n\r\n')
    assert line.recv(100) == b'', 'it is shown the door'
  second = call(1)
  assert first.result(10) is None and second.result(10) is None


def test_a_process_that_came_back_is_welcome(call, port):
  first = call(0, processes=3)
  time.sleep(0.2)
  for _ in range(2):  # Dies while it waits, and starts again.
    with socket.create_connection(('127.0.0.1', port), timeout=5) as line:
      line.sendall(
        b'{"process": 1, "processes": 3, "who": "a", "facts": '
        b'{"jax": "0.10.2", "command": "pretrain --config c"}}\n'
      )
      time.sleep(0.1)
  others = [call(1, processes=3), call(2, processes=3)]
  for future in (first, *others):
    assert future.result(timeout=10) is None


@pytest.mark.parametrize(
  'other, words',
  [
    (
      {'facts': FACTS | {'jax': '0.9.0'}},
      "differs from process 0 .* in jax: '0.9.0' there, '0.10.2' at process 0",
    ),
    ({'processes': 3}, 'counts 3 processes, process 0 2'),
  ],
)
def test_who_does_not_fit_is_named_everywhere(call, other, words):
  futures = [call(0), call(1, **other)]
  for future in futures:
    with pytest.raises(ValueError, match=f'process 1 .*{words}'):
      future.result(timeout=10)


def test_two_with_one_number_are_named(call):
  futures = [call(n, processes=3) for n in (0, 1, 1)]
  for future in futures:
    with pytest.raises(ValueError, match='two processes have number 1'):
      future.result(timeout=10)


def test_a_port_that_is_taken_is_an_error_at_once(call):
  with socket.create_server(('127.0.0.1', 0)) as other:
    taken = f'127.0.0.1:{other.getsockname()[1]}'
    with pytest.raises(OSError, match='cannot listen on port .*another prog'):
      call(0, coordinator=taken, bind=taken).result(timeout=10)
    with pytest.raises(OSError, match='another program has it'):
      call(0, coordinator=taken, bind=None).result(timeout=10)


def test_a_reserved_port_stays_ours(port):
  with pytest.raises(OSError), socket.socket() as other:
    other.bind(('127.0.0.1', port))
