"""Which boxes stand for which objects, and which of them are learnt from."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rsfm_jax.core import rng

Array = jax.Array
# `([N, 5], [1, 5]) -> f32[N]`, as `boxes.iou`.
Overlap = Callable[[Array, Array], Array]


class Match(NamedTuple):
  """What boxes stand for.

  Attributes:
    label: i32[N], 1 an object, 0 background, -1 neither.
    object: i32[N], which one; 0 where there is none.
  """

  label: Array
  object: Array


def assign(
  boxes: Array,
  objects: Array,
  valid: Array,
  *,
  overlap: Overlap,
  background: float,
  foreground: float,
  least: float | None = None,
) -> Match:
  """mmdetection's MaxIoUAssigner, one object at a time.

  A box stands for the object that it overlaps most, if by `foreground`; it is
  background below `background`. With `least`, the boxes that overlap an object
  most of all, by at least that, stand for it whatever else they overlap.

  Args:
    boxes: [N, 5].
    objects: [M, 5].
    valid: bool[M]; what is not valid is padding.
    overlap: of boxes and one object.
  """

  def step(number, carry):
    best, which, forced = carry
    here = valid[number]
    found = jnp.where(here, overlap(boxes, objects[number][None]), 0)
    better = found > best
    best, which = jnp.maximum(best, found), jnp.where(better, number, which)
    if least is not None:
      top = found.max()
      chosen = (found == top) & (top >= least) & here
      forced = jnp.where(chosen, number, forced)
    return best, which, forced

  count = len(boxes)
  start = (
    jnp.zeros(count, jnp.float32),
    jnp.zeros(count, jnp.int32),
    jnp.full(count, -1, jnp.int32),
  )
  # Padding comes last, and costs nothing.
  some = jnp.where(valid, jnp.arange(1, len(valid) + 1), 0).max()
  best, which, forced = jax.lax.fori_loop(0, some, step, start)
  label = jnp.where(best < background, 0, -1)
  label = jnp.where(best >= foreground, 1, label)
  found = forced >= 0
  return Match(jnp.where(found, 1, label), jnp.where(found, forced, which))


class Drawn(NamedTuple):
  """A sample of boxes.

  Attributes:
    index: i32[S], of the boxes.
    valid: bool[S]; there may be fewer than S.
    positive: bool[S], objects.
  """

  index: Array
  valid: Array
  positive: Array


def draw(label: Array, *, count: int, fraction: float, key: Array) -> Drawn:
  """At random `count` labelled boxes, at most a `fraction` of them objects.

  Background fills up what objects leave (mmdetection's RandomSampler).
  """
  count = min(count, len(label))
  order = jax.random.uniform(rng.named(key, 'order'), label.shape)
  most = min(max(int(count * fraction), 1), len(label))
  scores, first = jax.lax.top_k(jnp.where(label == 1, order, -1), most)
  kept = jnp.zeros(label.shape, bool).at[first].max(scores >= 0)
  # Objects first, then background, then nothing.
  rank = jnp.where(kept, 2 + order, jnp.where(label == 0, order, -1))
  rank, index = jax.lax.top_k(rank, count)
  return Drawn(index, rank >= 0, rank >= 2)
