"""Tokens to experts and back: capacity buffers, dropless sorted rows.

Both engines only gather: a row index in one direction and its inverse in the
other, so that the backward pass gathers too. `oracle` computes every expert
on every token and is what the tests compare with.

Weights are stacked [S, E, ...] over S sets of E experts (RMoE's specialised
experts have one set per sensor). A buffer is cut into columns, one per device
of the expert axis, each of them into regions [X, R, D] with the weights of
their X row groups. Dropless rows are sorted by expert without any padding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.moe import grouped
from rsfm_jax.moe import routing as routing_lib
from rsfm_jax.nn import mlp

Array = jax.Array
Weights = tuple[Array, ...]


@jax.custom_vjp
def gather_rows(x: Array, index: Array, inverse: Array) -> Array:
  """y[i] = x[index[i]], or zeros where the index is out of range.

  Args:
    x: [N, D].
    index: i32[R].
    inverse: i32[N, K], the rows of `y` that are copies of row n of `x`; out
      of range means none. The cotangent of x gathers by it.

  Returns:
    [R, D].
  """
  del inverse
  return jnp.take(x, index, axis=0, mode='fill', fill_value=0)


def _gather_rows_forward(x, index, inverse):
  return gather_rows(x, index, inverse), inverse


def _gather_rows_backward(inverse, dy):
  copies = [
    jnp.take(dy, inverse[:, k], axis=0, mode='fill', fill_value=0)
    for k in range(inverse.shape[1])
  ]
  return sum(copies[1:], copies[0]), None, None


gather_rows.defvjp(_gather_rows_forward, _gather_rows_backward)


class Region(NamedTuple):
  """Rows of a column that are computed as one product.

  Attributes:
    groups: X, row groups; each has the weights of one expert.
    rows: R of each group.
    pick: index into the flattened sets x experts of the column's weights,
      static or traced, i32[X].
  """

  groups: int
  rows: int
  pick: Array | np.ndarray


class Plan(NamedTuple):
  """Where every (token, choice) sits in the experts' buffer.

  Attributes:
    slot: i32[N, K], row of the flat buffer; one past the end means dropped.
    owner: i32[rows], n * K + k of the row's token; N * K means empty.
    gate: f32[N, K].
    regions: of every column; all columns are alike. None where the rows are
      sorted.
    columns: P.
    chunks: pieces of a column that are computed one after another; `regions`
      are those of one piece.
    counts: rows of each expert where they are sorted: by column, set and the
      column's experts, i32[P, S E / P].
  """

  slot: Array
  owner: Array
  gate: Array
  regions: tuple[Region, ...] = ()
  columns: int = 1
  chunks: int = 1
  counts: Array | None = None

  def dispatch(self, x: Array) -> Array:
    """x: [N, D] -> [P, rows, D]; empty rows are zeros.

    Sorted rows are not cut by column: [1, N K, D].
    """
    rows = gather_rows(x, self.owner // self.slot.shape[1], self.slot)
    cut = 1 if self.counts is not None else self.columns
    return rows.reshape(cut, -1, x.shape[-1])

  def combine(self, y: Array) -> Array:
    """[P, rows, D] -> [N, D], weighted by the gates; dropped are zeros."""
    n, choices = self.slot.shape
    dim = y.shape[-1]
    flat = y.reshape(-1, dim)
    out = gather_rows(flat, self.slot.reshape(-1), self.owner[:, None])
    out = out.reshape(n, choices, dim)
    gate = self.gate.astype(y.dtype)
    # Not a reduction: for one choice it would cost as much as the product.
    return sum(out[:, k] * gate[:, k, None] for k in range(choices))

  def ffn(
    self,
    rows: Array,
    weights: Weights,
    *,
    activation: mlp.Activation = 'gelu_tanh',
  ) -> Array:
    """The experts' FFNs: [P, rows, D] -> [P, rows, D].

    Args:
      rows: of this column's experts, from P senders; one chunk.
      weights: of this column, stacked [S, E / P, ...].
      activation: one of `mlp.ACTIVATIONS`.
    """
    columns, _, dim = rows.shape
    flat = tuple(w.reshape(-1, *w.shape[2:]) for w in weights)
    if self.counts is not None:
      counts = self.counts[0]
      return grouped.ffn(rows[0], counts, *flat, activation=activation)[None]
    out, start = [], 0
    for groups, size, pick in self.regions:
      part = rows[:, start : start + groups * size]
      start += groups * size
      part = part.reshape(columns, groups, size, dim).swapaxes(0, 1)
      part = part.reshape(groups, columns * size, dim)
      picked = (_pick(w, pick) for w in flat)
      part = mlp.stacked_ffn(part, *picked, activation=activation)
      part = part.reshape(groups, columns, size, dim).swapaxes(0, 1)
      out.append(part.reshape(columns, groups * size, dim))
    return out[0] if len(out) == 1 else jnp.concatenate(out, 1)

  def compute(self, x: Array, weights: Weights) -> Array:
    """x: [N, D] -> [N, D]; weights stacked [S, E, ...], all of them here."""
    parts = jnp.split(self.dispatch(x), self.chunks, axis=1)
    done = [self.ffn(part, weights) for part in parts]
    return self.combine(jnp.concatenate(done, 1))


def _pick(weights: Array, pick: Array | np.ndarray) -> Array:
  """Rows of stacked weights; a static run of rows is a slice, not a gather."""
  if isinstance(pick, np.ndarray):
    start, count = int(pick[0]), len(pick)
    if np.array_equal(pick, np.arange(start, start + count)):
      return weights[start : start + count]
  return weights[pick]


def by_capacity(
  routing: routing_lib.Routing,
  groups: routing_lib.TokenGroups,
  *,
  experts: int,
  capacities: Sequence[int],
  columns: int = 1,
  align: int = 1,
  chunks: int = 1,
) -> Plan:
  """Per set and expert, as many rows as its groups' capacities together.

  Positions at or beyond the capacity of their group are dropped.

  Args:
    routing: of N tokens.
    groups: how they are cut.
    experts: E of each set.
    capacities: per group.
    columns: P; column p holds experts p E / P and following of every set.
    align: the rows of an expert are rounded up to a multiple of this; what is
      added stays empty. Tiles of a TPU that straddle two experts cost copies
      in programs of many megabytes.
    chunks: each has an equal share of the rows of every expert.
  """
  assert experts % columns == 0
  sets = sorted(set(groups.sets))
  local = experts // columns
  rows_of = {
    s: sum(c for c, t in zip(capacities, groups.sets, strict=True) if t == s)
    for s in sets
  }
  # Rows of an expert in one chunk.
  share = {s: -(-n // (align * chunks)) * align for s, n in rows_of.items()}
  piece = local * sum(share.values())
  # First row of each set in a chunk; of each group in its experts.
  ends = np.cumsum([0] + [local * share[s] for s in sets])
  offset = dict(zip(sets, ends))
  begin, filled = [], dict.fromkeys(sets, 0)
  for c, s in zip(capacities, groups.sets, strict=True):
    begin.append(filled[s])
    filled[s] += c
  static = np.array(
    [
      [int(offset[s]) for s in groups.sets],
      [share[s] for s in groups.sets],
      begin,
      capacities,
    ],
    np.int32,
  ).T
  first, stride, rank, limit = jnp.split(groups.spread(static), 4, axis=-1)
  rank = rank + routing.position
  column, expert = routing.expert // local, routing.expert % local
  slot = first + expert * stride + column * (piece * chunks)
  if chunks == 1:
    slot += rank
  else:
    slot += rank % stride + rank // stride * piece
  total = piece * chunks * columns
  slot = jnp.where(routing.position < limit, slot, total)
  regions = _regions([(s, share[s]) for s in sets], local)
  owner = _owners(slot, total)
  return Plan(slot, owner, routing.gate, regions, columns, chunks)


def _regions(
  rows: Sequence[tuple[int, int]], experts: int
) -> tuple[Region, ...]:
  """Neighbouring sets with equally many rows are one product."""
  out: list[Region] = []
  for index, size in rows:
    pick = np.arange(index * experts, (index + 1) * experts)
    if out and out[-1].rows == size:
      last = out.pop()
      pick = np.concatenate([last.pick, pick])
    out.append(Region(len(pick), size, pick))
  return tuple(out)


def dropless(
  routing: routing_lib.Routing,
  groups: routing_lib.TokenGroups,
  *,
  experts: int,
  sets: int,
  columns: int = 1,
) -> Plan:
  """Every token is computed: N K rows, sorted by column, set and expert.

  Args:
    routing: of N tokens.
    groups: how they are cut.
    experts: E of each set.
    sets: S; who is not in `groups` has no rows.
    columns: P; column p holds experts p E / P and following of every set.
  """
  counts = routing.counts
  same = np.array(groups.sets) == np.arange(sets)[:, None]
  by_column = (sets, columns, experts // columns)
  total = (same.astype(np.int32) @ counts).reshape(by_column).swapaxes(0, 1)
  begin = jnp.cumsum(total).reshape(total.shape) - total
  begin = begin.swapaxes(0, 1).reshape(sets, experts)
  # Groups of a set stand behind each other inside each of its experts.
  earlier = np.tril(same.T.astype(np.int32) @ same, -1)
  start = begin[np.array(groups.sets)] + earlier.astype(np.int32) @ counts
  first = np.arange(len(groups.sizes), dtype=np.int32)[:, None] * experts
  slot = start.reshape(-1)[groups.spread(first) + routing.expert]
  slot += routing.position
  return Plan(
    slot,
    _owners(slot, slot.size),
    routing.gate,
    columns=columns,
    counts=total.reshape(columns, -1),
  )


def _owners(slot: Array, rows: int) -> Array:
  """Inverse of `slot`: i32[rows]; slots equal to `rows` fall away."""
  assignments = jnp.arange(slot.size, dtype=jnp.int32)
  empty = jnp.full(rows, slot.size, jnp.int32)
  return empty.at[slot.reshape(-1)].set(
    assignments, mode='drop', unique_indices=True
  )


def oracle(
  x: Array,
  routing: routing_lib.Routing,
  groups: routing_lib.TokenGroups,
  weights: Weights,
  *,
  capacities: Sequence[int] | None = None,
  activation: mlp.Activation = 'gelu_tanh',
) -> Array:
  """Every expert of a token's set on every token, then a masked sum.

  x: [N, D] -> [N, D]; `capacities=None` drops nothing. Slow, plainly right.
  """
  experts = weights[0].shape[1]
  gate = routing.gate
  if capacities is not None:
    limit = groups.spread(np.array(capacities, np.int32)[:, None])
    gate = jnp.where(routing.position < limit, gate, 0)
  out = []
  for part, index in zip(groups.slices, groups.sets, strict=True):
    rows = jnp.repeat(x[part][None], experts, 0)
    own = (w[index] for w in weights)
    every = mlp.stacked_ffn(rows, *own, activation=activation)
    chosen = jax.nn.one_hot(routing.expert[part], experts)
    combine = (chosen * gate[part][..., None]).sum(1).astype(x.dtype)
    out.append(jnp.einsum('te,etd->td', combine, every))
  return jnp.concatenate(out)
