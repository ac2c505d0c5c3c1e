"""Processes of this machine: as many as asked, gone at the end."""

import os
import signal
import threading

import pytest

from rsfm_jax.data import workers


def test_one_worker_is_this_process():
  with workers.local(1) as pool:
    assert pool.submit(os.getpid).result() == os.getpid()


def test_more_are_others_and_leave_interrupts_to_the_parent():
  with workers.local(2) as pool:
    assert pool.submit(os.getpid).result() != os.getpid()
    handler = pool.submit(signal.getsignal, signal.SIGINT).result()
  assert handler == signal.SIG_IGN
  with pytest.raises(RuntimeError, match='after shutdown'):
    pool.submit(os.getpid)


def test_by_default_there_is_one_per_core():
  with workers.local() as pool:
    assert pool._max_workers == workers.available() >= 1


def test_what_is_left_at_an_error_is_not_begun():
  started = threading.Event()
  stop = threading.Event()

  def wait():
    started.set()
    stop.wait(10)

  with pytest.raises(KeyError), workers.local(1) as pool:
    first, second = pool.submit(wait), pool.submit(wait)
    started.wait(10)
    threading.Timer(0.1, stop.set).start()
    raise KeyError
  assert first.done() and second.cancelled()


@pytest.mark.parametrize('count', [0, -2])
def test_a_count_below_one_is_an_error(count):
  with pytest.raises(ValueError, match=f'workers={count} must be'):
    workers.local(count).__enter__()
