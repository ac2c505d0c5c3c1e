"""Prefetch keeps order, reports errors and measures what the step waits."""

import threading
import time

import jax
import numpy as np
import pytest

from rsfm_jax.data import prefetch


def _batches(n, seconds=0.0):
  for i in range(n):
    time.sleep(seconds)
    yield {'opt': {'image': np.full((8, 2), i, np.float32)}}


def test_order_and_values_are_kept():
  out = list(prefetch.to_device(_batches(5)))
  assert [int(b['opt']['image'][0, 0]) for b in out] == list(range(5))
  assert isinstance(out[0]['opt']['image'], jax.Array)


def test_batches_land_with_their_sharding():
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ('data',))
  sharding = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec('data')
  )
  batch = next(prefetch.to_device(_batches(1), sharding))
  assert batch['opt']['image'].sharding == sharding
  assert batch['opt']['image'].shape == (8, 2)


def test_errors_come_out_where_they_can_be_handled():
  def broken():
    yield from _batches(1)
    raise ValueError('record 7 is damaged')

  ready = prefetch.to_device(broken())
  next(ready)
  with pytest.raises(ValueError, match='record 7'):
    next(ready)
  with pytest.raises(StopIteration):
    next(ready)


def test_waiting_is_measured():
  slow = prefetch.to_device(_batches(5, seconds=0.05))
  list(slow)
  assert 0.12 < slow.waited_seconds < 1
  fast = prefetch.to_device(_batches(5))
  for _ in range(5):
    time.sleep(0.05)
    next(fast)
  assert fast.waited_seconds < 0.05


def test_closing_stops_the_thread_of_an_endless_stream():
  def endless():
    while True:
      yield from _batches(1)

  before = threading.active_count()
  with prefetch.to_device(endless()) as ready:
    next(ready)
    assert threading.active_count() == before + 1
  assert threading.active_count() == before
  with pytest.raises(StopIteration):
    next(ready)


def test_it_never_runs_far_ahead():
  made = []

  def counted():
    for i in range(50):
      made.append(i)
      yield np.zeros(1)

  ready = prefetch.to_device(counted(), size=2)
  next(ready)
  time.sleep(0.3)
  assert len(made) <= 5
  ready.close()


def test_size_must_be_positive():
  with pytest.raises(ValueError, match='size=0'):
    prefetch.to_device(_batches(1), size=0)
