"""Non-maximum suppression with static shapes, exact."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
_ROWS = 64  # Of the table of overlaps that are computed at a time.


class Kept(NamedTuple):
  """The best boxes that are left, by falling score.

  Attributes:
    index: i32[K] of the boxes.
    score: f32[K]; -inf where nothing is left.
    valid: bool[K].
  """

  index: Array
  score: Array
  valid: Array


def greedy(over: Array, valid: Array) -> Array:
  """Which boxes survive, bool[N].

  A box survives if none of the survivors before it overlaps it. That is
  iterated from all boxes until nothing changes: after k rounds the first k are
  as the loop over boxes leaves them, and usually all are after a few.

  Args:
    over: bool[N, N], which boxes overlap too much, by falling score.
    valid: bool[N].
  """
  before = jnp.tril(over, -1)

  def step(state):
    keep, _ = state
    new = valid & ~(before & keep[None]).any(-1)
    return new, (new != keep).any()

  start = (valid, jnp.ones((), bool))
  return jax.lax.while_loop(lambda state: state[1], step, start)[0]


def suppress(
  boxes: Array,
  scores: Array,
  *,
  overlap: Callable[[Array, Array], Array],
  iou: float,
  count: int,
  classes: Array | None = None,
) -> Kept:
  """The `count` best boxes of which no two overlap by more than `iou`.

  Args:
    boxes: [N, 5].
    scores: f32[N]; -inf is no box.
    overlap: `([N, 5], [1, 5]) -> f32[N]`.
    iou: overlap from which on the weaker box goes.
    count: K, at most N are found.
    classes: i32[N]; only boxes of one class suppress each other.
  """
  scores, order = jax.lax.top_k(scores, len(scores))
  sorted_ = boxes[order]
  labels = jnp.zeros(len(order), jnp.int32)
  if classes is not None:
    labels = classes[order]

  def row(entry):
    box, label = entry
    return (overlap(sorted_, box[None]) > iou) & (labels == label)

  over = jax.lax.map(row, (sorted_, labels), batch_size=min(_ROWS, len(order)))
  keep = greedy(over, scores > -jnp.inf)
  count = min(count, len(order))
  best, place = jax.lax.top_k(jnp.where(keep, scores, -jnp.inf), count)
  return Kept(order[place], best, best > -jnp.inf)
