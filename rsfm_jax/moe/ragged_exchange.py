"""Dropless experts over devices: sorted rows travel in unequal pieces.

Each device sends every other one as many rows as were routed to its experts
(`jax.lax.ragged_all_to_all`; emulated on CPU, which lacks it). What arrives is
sorted by sender, then by expert; a gather puts the rows of an expert together.

Letters: P devices along the axis, R rows of a device, C rows of its receiving
buffer, X experts of a device (all sets), D embed.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from rsfm_jax.moe import dispatch

Array = jax.Array
Way = Literal['forth', 'back']


class Trip(NamedTuple):
  """What travels where; indices past the end mean nothing.

  Attributes:
    sizes: rows that device i sends to device j, i32[P, P].
    leave: where they begin on device i, i32[P, P].
    arrive: where they begin on device j, i32[P, P].
    counts: rows of each expert of this device, i32[X].
    order: the buffer's row that is row q of the sorted ones, i32[C].
    place: its inverse, i32[C].
  """

  sizes: Array
  leave: Array
  arrive: Array
  counts: Array
  order: Array
  place: Array


def plan(counts: Array, *, axis: str, capacity: int) -> Trip:
  """Agrees with the other devices on who sends what.

  Args:
    counts: rows of this device for each expert of each device, in the order
      in which they stand, i32[P, X].
    axis: mesh axis of the experts.
    capacity: C. Rows that find no place at the receiver stay behind, those of
      later senders and experts first; P times the rows of a device loses none.
  """
  me = jax.lax.axis_index(axis)
  wanted = jax.lax.all_gather(counts, axis)  # [from, to, X]
  total = wanted.sum(-1)
  leave = jnp.cumsum(total, 1) - total
  end = jnp.minimum(jnp.cumsum(total, 0), capacity)
  arrive = jnp.concatenate([jnp.zeros_like(end[:1]), end[:-1]])
  sizes = end - arrive
  # Of what comes here: rows of each sender and expert, in the buffer's order.
  mine = jax.lax.dynamic_index_in_dim(wanted, me, 1, keepdims=False)
  room = sizes[:, me][:, None] - (jnp.cumsum(mine, 1) - mine)
  mine = jnp.clip(mine, 0, jnp.maximum(room, 0))
  begin = (jnp.cumsum(mine) - mine.reshape(-1)).reshape(mine.shape)
  turned = mine.T
  goal = (jnp.cumsum(turned) - turned.reshape(-1)).reshape(turned.shape).T
  rows = jnp.arange(capacity, dtype=jnp.int32)
  return Trip(
    sizes,
    leave,
    arrive,
    mine.sum(0),
    order=_moved(rows, turned, begin.T, goal.T),
    place=_moved(rows, mine, goal, begin),
  )


def _moved(rows: Array, sizes: Array, to: Array, start: Array) -> Array:
  """Rows of consecutive blocks that begin at `start`, moved to `to`."""
  ends = jnp.cumsum(sizes.reshape(-1))
  block = jnp.searchsorted(ends, rows, side='right')
  inside = jnp.minimum(block, sizes.size - 1)
  moved = rows - start.reshape(-1)[inside] + to.reshape(-1)[inside]
  return jnp.where(block < sizes.size, moved, len(rows))


def left_behind(trip: Trip, me: Array, slot: Array) -> Array:
  """Which rows of this device found no place: bool, as `slot` is shaped.

  Args:
    trip: the plan.
    me: index of this device.
    slot: rows as they stood, i32[...].
  """
  begin = trip.leave[me]
  to = jnp.searchsorted(begin, slot.reshape(-1), side='right') - 1
  inside = slot.reshape(-1) - begin[to]
  return (inside >= trip.sizes[me][to]).reshape(slot.shape)


def there(rows: Array, trip: Trip, axis: str) -> Array:
  """[R, D] in the order of `plan`'s counts -> [C, D], sorted by expert."""
  arrived = _move(rows, trip, axis, trip.order.shape[0], 'forth')
  return dispatch.gather_rows(arrived, trip.order, trip.place[:, None])


def back(rows: Array, trip: Trip, axis: str, *, count: int) -> Array:
  """Inverse of `there`: [C, D] -> [count, D]; zeros for what stayed behind."""
  leaving = dispatch.gather_rows(rows, trip.place, trip.order[:, None])
  return _move(leaving, trip, axis, count, 'back')


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _move(rows, trip, axis, count, way):
  """A partial permutation over devices; its transpose is the way back."""
  return _exchange(rows, trip, axis, count, way)


def _move_forward(rows, trip, axis, count, way):
  return _move(rows, trip, axis, count, way), (trip, rows[:, :0])


def _move_backward(axis, count, way, saved, dy):
  del count
  trip, like = saved
  other = 'back' if way == 'forth' else 'forth'
  return _exchange(dy, trip, axis, like.shape[0], other), None


_move.defvjp(_move_forward, _move_backward)


def _exchange(
  rows: Array, trip: Trip, axis: str, count: int, way: Way
) -> Array:
  """[here, D] -> [count, D]."""
  sizes, begin, goal = trip.sizes, trip.leave, trip.arrive
  if way == 'back':
    sizes, begin, goal = sizes.T, goal.T, begin.T

  def native(rows, sizes, begin, goal):
    me = jax.lax.axis_index(axis)
    out = jnp.zeros((count, *rows.shape[1:]), rows.dtype)
    return jax.lax.ragged_all_to_all(
      rows, out, begin[me], sizes[me], goal[me], sizes[:, me], axis_name=axis
    )

  def emulated(rows, sizes, begin, goal):
    me = jax.lax.axis_index(axis)
    every = jax.lax.all_gather(rows, axis)
    at = jnp.arange(count, dtype=jnp.int32)
    out = jnp.zeros((count, *rows.shape[1:]), rows.dtype)
    for sender in range(every.shape[0]):
      inside = at - goal[sender, me]
      live = (inside >= 0) & (inside < sizes[sender, me])
      source = jnp.clip(begin[sender, me] + inside, 0, rows.shape[0] - 1)
      out = jnp.where(live[:, None], every[sender][source], out)
    return out

  return jax.lax.platform_dependent(
    rows, sizes, begin, goal, cpu=emulated, default=native
  )
