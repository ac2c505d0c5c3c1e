"""Rows of unequal numbers to other devices and back, by a slow loop."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from rsfm_jax.moe import ragged_exchange
from rsfm_jax.sharding import mesh as meshes

DEVICES, EXPERTS, ROWS, DIM = 4, 3, 20, 2


def drawn(seed):
  """(counts [from, to, expert], rows [from, ROWS, DIM]); each number once."""
  rng = np.random.default_rng(seed)
  counts = np.zeros((DEVICES, DEVICES, EXPERTS), 'int32')
  for sender in counts:
    index = rng.integers(0, sender.size, ROWS)
    # Somebody gets nothing, somebody very much.
    index = np.where(rng.random(ROWS) < 0.4, 4, index)
    np.add.at(sender.reshape(-1), index, 1)
  rows = np.arange(1.0, 1 + DEVICES * ROWS * DIM, dtype='float32')
  return counts, rows.reshape(DEVICES, ROWS, DIM)


def slow(counts, rows, capacity):
  """[to, expert] -> list of rows, senders in turn; who found no place."""
  out = [[[] for _ in range(EXPERTS)] for _ in range(DEVICES)]
  lost = []
  held = [0] * DEVICES
  for sender in range(DEVICES):
    row = 0
    for to in range(DEVICES):
      for expert in range(EXPERTS):
        for _ in range(counts[sender, to, expert]):
          if held[to] < capacity:
            out[to][expert].append(rows[sender, row])
            held[to] += 1
          else:
            lost.append((sender, row))
          row += 1
  return out, lost


@functools.cache
def trip(capacity):
  mesh = meshes.make_mesh(
    data=1, expert=DEVICES, devices=jax.devices()[:DEVICES]
  )

  def run(counts, rows, cotangent):
    counts, rows, cotangent = counts[0], rows[0], cotangent[0]
    plan = ragged_exchange.plan(counts, axis='expert', capacity=capacity)
    there = lambda r: ragged_exchange.there(r, plan, 'expert')
    arrived, pull = jax.vjp(there, rows)
    again = ragged_exchange.back(arrived, plan, 'expert', count=ROWS)
    left = ragged_exchange.left_behind(
      plan, jax.lax.axis_index('expert'), jnp.arange(ROWS, dtype=jnp.int32)
    )
    out = (plan.counts, arrived, again, left, pull(cotangent)[0])
    return jax.tree.map(lambda v: v[None], out)

  cut = P('expert')
  return jax.jit(
    jax.shard_map(run, mesh=mesh, in_specs=cut, out_specs=cut, check_vma=False)
  )


@pytest.mark.parametrize('capacity', [DEVICES * ROWS, 24, 7])
@pytest.mark.parametrize('seed', [0, 1])
def test_rows_arrive_sorted_by_expert_and_find_back(seed, capacity):
  counts, rows = drawn(seed)
  expected, lost = slow(counts, rows, capacity)
  assert (len(lost) > 0) == (capacity < DEVICES * ROWS)
  weight = np.random.default_rng(9).normal(size=(DEVICES, capacity, DIM))
  held, arrived, again, left, gradient = trip(capacity)(
    counts, rows, weight.astype('float32')
  )
  came_from = {}
  for device, groups in enumerate(expected):
    np.testing.assert_array_equal(held[device], [len(g) for g in groups])
    flat = np.array([row for g in groups for row in g])
    np.testing.assert_array_equal(arrived[device][: len(flat)], flat)
    np.testing.assert_array_equal(arrived[device][len(flat) :], 0)
    came_from |= {r[0]: (device, q) for q, r in enumerate(flat)}
  stayed = np.zeros((DEVICES, ROWS), bool)
  for where in lost:
    stayed[where] = True
  np.testing.assert_array_equal(left, stayed)
  np.testing.assert_array_equal(again, np.where(stayed[..., None], 0, rows))
  for sender in range(DEVICES):
    for row in range(ROWS):
      where = came_from.get(rows[sender, row, 0])
      value = 0 if where is None else weight[where]
      np.testing.assert_allclose(gradient[sender, row], value, rtol=1e-6)
