"""Tokens to experts and back: capacity buffers, dropless blocks.

Both engines only gather: a row index in one direction and its inverse in the
other, so that the backward pass gathers too. `oracle` computes every expert
on every token and is what the tests compare with.

Weights are stacked [S, E, ...] over S sets of E experts (RMoE's specialised
experts have one set per sensor); a buffer is a list of regions [X, R, D], each
with the weights of its X row groups.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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


class Plan(NamedTuple):
  """Where every (token, choice) sits in the experts' buffer.

  Attributes:
    slot: i32[N, K], row of the flat buffer; one past the end means dropped.
    owner: i32[rows], n * K + k of the row's token; N * K means empty.
    gate: f32[N, K].
    regions: (X, R) per region.
    picks: per region, the index into the flattened sets x experts of each of
      its X row groups, static or traced, i32[X].
  """

  slot: Array
  owner: Array
  gate: Array
  regions: tuple[tuple[int, int], ...]
  picks: tuple[Array | np.ndarray, ...]

  def dispatch(self, x: Array) -> list[Array]:
    """x: [N, D] -> a list of [X, R, D]; empty rows are zeros."""
    rows = gather_rows(x, self.owner // self.slot.shape[1], self.slot)
    sizes = [x * r for x, r in self.regions]
    stops = np.cumsum(sizes).tolist()
    return [
      rows[stop - size : stop].reshape(*shape, -1)
      for shape, size, stop in zip(self.regions, sizes, stops, strict=True)
    ]

  def combine(self, parts: Sequence[Array]) -> Array:
    """A list of [X, R, D] -> [N, D], weighted by the gates; dropped are 0."""
    n, choices = self.slot.shape
    dim = parts[0].shape[-1]
    flat = [part.reshape(-1, dim) for part in parts]
    y = flat[0] if len(flat) == 1 else jnp.concatenate(flat)
    out = gather_rows(y, self.slot.reshape(-1), self.owner[:, None])
    out = out.reshape(n, choices, dim) * self.gate[..., None].astype(y.dtype)
    return out.sum(1)

  def compute(self, x: Array, weights: Weights) -> Array:
    """x: [N, D] -> [N, D]; weights stacked [S, E, ...]."""
    flat = tuple(w.reshape(-1, *w.shape[2:]) for w in weights)
    out = []
    for rows, pick in zip(self.dispatch(x), self.picks, strict=True):
      out.append(mlp.stacked_ffn(rows, *(_pick(w, pick) for w in flat)))
    return self.combine(out)


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
) -> Plan:
  """One buffer per set: E x (sum of its groups' capacities) rows.

  Positions at or beyond the capacity of their group are dropped.
  """
  sets = sorted(set(groups.sets))
  rows_of = {
    s: sum(c for c, t in zip(capacities, groups.sets, strict=True) if t == s)
    for s in sets
  }
  # First row of each group inside its set's first expert.
  base, filled = [], dict.fromkeys(sets, 0)
  ends = np.cumsum([0] + [experts * rows_of[s] for s in sets])
  offset = dict(zip(sets, ends))
  for c, s in zip(capacities, groups.sets, strict=True):
    base.append(int(offset[s]) + filled[s])
    filled[s] += c
  static = np.array(
    [base, [rows_of[s] for s in groups.sets], capacities], np.int32
  ).T
  first, stride, limit = jnp.split(groups.spread(static), 3, axis=-1)
  total = experts * sum(rows_of.values())
  slot = first + routing.expert * stride + routing.position
  slot = jnp.where(routing.position < limit, slot, total)
  picks = [np.arange(s * experts, (s + 1) * experts) for s in sets]
  regions = [(experts, rows_of[s]) for s in sets]
  if len(set(regions)) == 1:  # Equal sets are computed as one product.
    regions = [(experts * len(sets), regions[0][1])]
    picks = [np.concatenate(picks)]
  return Plan(
    slot, _owners(slot, total), routing.gate, tuple(regions), tuple(picks)
  )


def dropless(
  routing: routing_lib.Routing,
  groups: routing_lib.TokenGroups,
  *,
  experts: int,
  block: int = 128,
) -> Plan:
  """Every token is computed: rows of an expert padded to whole blocks.

  The buffer has ceil(N K / block) + (sets x E) blocks whatever the routing,
  so shapes are static; each block picks the weights of its expert.
  """
  n, choices = routing.expert.shape
  sets = np.array(groups.sets, np.int32)[:, None]
  chosen = routing.expert + groups.spread(sets * experts)
  total = (max(groups.sets) + 1) * experts
  everything = routing_lib.TokenGroups((n,), (0,))
  position = routing_lib.positions(chosen, everything, experts=total)
  counts = jax.nn.one_hot(chosen, total, dtype=jnp.int32).sum((0, 1))
  blocks = -(-counts // block)
  last = jnp.cumsum(blocks)
  slot = (last - blocks)[chosen] * block + position
  used = len(set(groups.sets)) * experts
  size = -(-n * choices // block) + used
  owner_block = jnp.searchsorted(last, jnp.arange(size), side='right')
  pick = jnp.minimum(owner_block, total - 1)
  return Plan(
    slot, _owners(slot, size * block), routing.gate, ((size, block),), (pick,)
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
    every = mlp.stacked_ffn(rows, *(w[index] for w in weights))
    chosen = jax.nn.one_hot(routing.expert[part], experts)
    combine = (chosen * gate[part][..., None]).sum(1).astype(x.dtype)
    out.append(jnp.einsum('te,etd->td', combine, every))
  return jnp.concatenate(out)
