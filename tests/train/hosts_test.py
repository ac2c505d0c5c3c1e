"""What processes agree on; real ones do so in tests/cli/launch_test.py."""

import jax
import numpy as np
import pytest

from rsfm_jax.train import hosts


@pytest.fixture
def two(monkeypatch):
  """`two(process, heard)`: this is process 0 or 1 of 2.

  `heard` is what the other one says, at each exchange in turn.
  """

  def be(process, *heard):
    heard = list(heard)
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(jax, 'process_index', lambda: process)

    def gather(mine):
      rows = [mine, np.zeros_like(mine)]
      text = heard.pop(0).encode()
      rows[1][: len(text)] = np.frombuffer(text, np.uint8)
      return np.stack(rows if process == 0 else rows[::-1])

    def broadcast(mine):
      return mine if process == 0 else heard.pop(0)

    monkeypatch.setattr(hosts.multihost_utils, 'process_allgather', gather)
    monkeypatch.setattr(
      hosts.multihost_utils, 'broadcast_one_to_all', broadcast
    )

  return be


def test_alone_nothing_is_exchanged(monkeypatch):
  for name in ('process_allgather', 'broadcast_one_to_all'):
    monkeypatch.setattr(hosts.multihost_utils, name, pytest.fail)
  value = {'steps': [1, 2]}
  assert hosts.told(value) is value
  assert hosts.gathered('a') == ['a']
  with hosts.together():
    pass
  with pytest.raises(KeyError), hosts.together():
    raise KeyError('mine')


def test_texts_come_in_the_order_of_the_processes(two):
  two(0, 'zwei')
  assert hosts.gathered('eins') == ['eins', 'zwei']
  two(1, 'eins')
  assert hosts.gathered('zw\u00f6lf') == ['eins', 'zw\u00f6lf']
  two(0, '')
  (long, _) = hosts.gathered('x' * 9999)
  assert set(long) == {'x'} and len(long) >= 2000


def test_the_value_of_process_0_counts(two):
  two(0)
  assert hosts.told({'steps': list(range(999))})['steps'][-1] == 998
  data = b'[3, 4]'
  sent = np.zeros(2048, np.uint8)
  sent[: len(data)] = np.frombuffer(data, np.uint8)
  two(1, np.int32(len(data)), sent)
  assert hosts.told([9]) == [3, 4]


def test_a_failure_elsewhere_is_a_failure_here(two):
  two(0, '(host-b): no room')
  with (
    pytest.raises(RuntimeError, match=r'process 1 \(host-b\): no room'),
    hosts.together(),
  ):
    pass


def test_our_own_failure_is_told_and_keeps_its_kind(two):
  two(1, '')
  with pytest.raises(FileNotFoundError, match='gone'), hosts.together():
    raise FileNotFoundError('gone')
