"""From router logits to who computes what: experts, gates, positions.

Letters: N tokens of the batch, G groups of consecutive tokens, E experts of a
set, K choices, C capacity. Capacity and balance are defined inside a group;
groups may differ in size and in the set of experts they use, all of it known
statically. Router maths is float32.
"""

from collections.abc import Callable
import functools
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Gate = Literal['prob', 'normalised']
Priority = Literal['first_come', 'batch', 'random']

# Tokens counted at once by `positions`: a triangular product per block.
_BLOCK = 64


class TokenGroups(NamedTuple):
  """How a flat batch of tokens [N] is cut into consecutive groups.

  Attributes:
    sizes: tokens per group.
    sets: which set of experts each group uses (RMoE: one set per sensor).
  """

  sizes: tuple[int, ...]
  sets: tuple[int, ...]

  @classmethod
  def cut(
    cls, parts: list[tuple[int, int]], *, slices: int = 1
  ) -> 'TokenGroups':
    """Each part (set, tokens) in `slices` equal groups.

    Raises:
      ValueError: a part that cannot be cut equally.
    """
    for _, tokens in parts:
      if tokens % slices:
        raise ValueError(
          f'model.routing_groups={slices} does not divide {tokens} tokens.'
        )
    sizes = [tokens // slices for _, tokens in parts for _ in range(slices)]
    sets = [index for index, _ in parts for _ in range(slices)]
    return cls(tuple(sizes), tuple(sets))

  @property
  def tokens(self) -> int:
    return sum(self.sizes)

  @property
  def equal(self) -> bool:
    return len(set(self.sizes)) == 1

  @property
  def slices(self) -> list[slice]:
    stops = np.cumsum(self.sizes).tolist()
    return [slice(b - a, b) for a, b in zip(self.sizes, stops, strict=True)]

  def mean(self, values: Array) -> Array:
    """[N, ...] -> [G, ...]."""
    if self.equal:
      return values.reshape(len(self.sizes), -1, *values.shape[1:]).mean(1)
    return jnp.stack([values[s].mean(0) for s in self.slices])

  def mean_by_set(self, values: Array) -> Array:
    """[G, E] -> [sets in use, E], the mean over the groups of each set."""
    member = np.array(sorted(set(self.sets)))[:, None] == np.array(self.sets)
    share = (member / member.sum(1, keepdims=True)).astype(np.float32)
    return jnp.matmul(share, values, precision=jax.lax.Precision.HIGHEST)

  def spread(self, values: Array | np.ndarray) -> Array:
    """[G, ...] -> [N, ...], the group's value at each of its tokens."""
    values = jnp.asarray(values)
    shape = values.shape[1:]
    if self.equal:  # `jnp.repeat` takes no symbolic size.
      wide = (values.shape[0], self.sizes[0], *shape)
      values = jnp.broadcast_to(values[:, None], wide)
      return values.reshape(self.tokens, *shape)
    return jnp.concatenate(
      [
        jnp.broadcast_to(v[None], (n, *shape))
        for v, n in zip(values, self.sizes, strict=True)
      ]
    )


class Routing(NamedTuple):
  """The decision for every token.

  Attributes:
    expert: chosen expert of the token's set, i32[N, K].
    gate: weight of the choice, f32[N, K].
    position: rank among the group's tokens with the same expert, all first
      choices before all second ones, i32[N, K]; see `Priority`.
    counts: choices of each group per expert, before anything is dropped,
      i32[G, E].
    probs: f32[N, E].
  """

  expert: Array
  gate: Array
  position: Array
  counts: Array
  probs: Array


def capacity(tokens: int, experts: int, *, choices: int, factor: float) -> int:
  """Slots per expert and group: ceil(K T factor / E) (RingMoE, as coded)."""
  exact = choices * tokens * factor / experts
  return max(1, math.ceil(exact - 1e-9))


def route(
  logits: Array,
  groups: TokenGroups,
  *,
  choices: int = 1,
  gate: Gate = 'prob',
  priority: Priority = 'first_come',
  valid: Array | None = None,
) -> Routing:
  """Softmax over the experts, then the `choices` most probable ones.

  Args:
    logits: f32[N, E].
    groups: where positions start to count.
    choices: K, experts per token.
    gate: 'prob' weighs a choice by its probability, so that the router learns
      from the task loss; 'normalised' divides by the sum over the choices,
      which for K = 1 is the constant 1 without a gradient (what RingMoE's code
      does; quirk Q1 of its fact sheet).
    priority: who comes first where an expert's slots run out. 'first_come'
      is the order of the batch; 'batch' is the order of the largest
      probability (V-MoE's batch priority routing); 'random' is an order by
      the bits of the logits, another one at every step.
    valid: bool[N], tokens that count; the others come after all of their
      group, so that they take no slot that one of these could have.

  Returns:
    The routing; positions are counted before anything is dropped.
  """
  # Tokens run fastest: a reduction over a few neighbouring experts would
  # leave a vector unit idle.
  turned = _softmax(logits.astype(jnp.float32).T)
  probs = turned.T
  if choices == 1:
    expert = _first_largest(turned)
    weight = _chosen(turned, expert)[:, None]
    expert = expert[:, None]
  else:
    weight, expert = jax.lax.top_k(probs, choices)
  if gate == 'normalised' and choices == 1:
    # The quotient would leave a gradient of rounding errors, which Adam
    # scales up to whole steps.
    weight = jnp.ones_like(weight)
  elif gate == 'normalised':
    weight = weight / (weight.sum(-1, keepdims=True) + 1e-9)
  order = None
  if priority != 'first_come' or valid is not None:
    order = _order(probs, groups, priority, valid)
  experts = logits.shape[-1]
  position, counts = positions(expert, groups, experts=experts, order=order)
  return Routing(expert, weight, position, counts, probs)


@jax.custom_vjp
def _softmax(logits: Array) -> Array:
  """Over the leading axis: [E, N] -> [E, N].

  Folds over the experts are element-wise sums of rows. XLA for CPU reduces
  over a leading axis 7 times as slowly.
  """
  shifted = jnp.exp(logits - _fold(jnp.maximum, logits)[None])
  return shifted / _fold(jnp.add, shifted)[None]


def _softmax_forward(logits):
  probs = _softmax(logits)
  return probs, probs


def _softmax_backward(probs, dy):
  return (probs * (dy - _fold(jnp.add, probs * dy)[None]),)


_softmax.defvjp(_softmax_forward, _softmax_backward)


def _fold(combine: Callable[[Array, Array], Array], rows: Array) -> Array:
  return functools.reduce(combine, [rows[e] for e in range(len(rows))])


def _first_largest(rows: Array) -> Array:
  """Index of the largest of each column, [E, N] -> i32[N]."""
  best, index = rows[0], jnp.zeros(rows.shape[1], jnp.int32)
  for e in range(1, len(rows)):
    better = rows[e] > best
    best = jnp.where(better, rows[e], best)
    index = jnp.where(better, e, index)
  return index


@jax.custom_vjp
def _chosen(rows: Array, index: Array) -> Array:
  """rows[index[n], n]: [E, N] -> [N]; the gradient is no scatter."""
  return jnp.take_along_axis(rows, index[None], 0)[0]


def _chosen_forward(rows, index):
  return _chosen(rows, index), (index, rows[:, :0])


def _chosen_backward(saved, dy):
  index, like = saved
  hit = index[None] == jnp.arange(len(like), dtype=index.dtype)[:, None]
  return jnp.where(hit, dy[None], 0), None


_chosen.defvjp(_chosen_forward, _chosen_backward)


def _order(
  probs: Array,
  groups: TokenGroups,
  priority: Priority,
  valid: Array | None = None,
) -> Array:
  """Tokens of each group by falling priority: i32[N], a permutation."""
  tokens = jnp.arange(groups.tokens, dtype=jnp.int32)
  if priority == 'first_come':
    rank = tokens
  elif priority == 'batch':
    rank = -probs.max(-1)
  else:
    bits = jax.lax.bitcast_convert_type(probs.max(-1), jnp.uint32)
    rank = bits * jnp.uint32(2654435769)  # Fibonacci hashing.
  index = groups.spread(np.arange(len(groups.sizes), dtype=np.int32))
  rank = jax.lax.stop_gradient(rank)
  keys = (index, rank, tokens)
  if valid is not None:
    keys = (keys[0], (~valid).astype(jnp.int32), *keys[1:])
  return jax.lax.sort(keys, num_keys=len(keys) - 1)[-1]


def positions(
  expert: Array,
  groups: TokenGroups,
  *,
  experts: int,
  order: Array | None = None,
) -> tuple[Array, Array]:
  """How many choices of the same group and expert come before, and in all.

  Args:
    expert: i32[N, K].
    groups: each counts for itself.
    experts: E.
    order: i32[N], tokens by falling priority inside each group; None counts
      in the order of the batch.

  Returns:
    i32[N, K] and i32[G, E].
  """
  if order is not None:
    ranks, counts = positions(expert[order], groups, experts=experts)
    inverse = (
      jnp.zeros_like(order)
      .at[order]
      .set(jnp.arange(order.shape[0], dtype=order.dtype), unique_indices=True)
    )
    return ranks[inverse], counts
  starts = np.cumsum((0, *groups.sizes))[:-1]
  several = len(starts) > 1
  base = jnp.zeros((experts, len(starts)), jnp.float32)
  out = []
  for k in range(expert.shape[1]):
    chosen = jax.nn.one_hot(expert[:, k], experts, axis=0)
    before = _count_before(chosen)
    at_start = before[:, starts] if several else jnp.zeros((experts, 1))
    shift = base - at_start
    if several or k:
      before = before + groups.spread(shift.T).T
    out.append(jnp.take_along_axis(before, expert[None, :, k], 0)[0])
    totals = chosen.sum(1, keepdims=True)
    base = shift + jnp.concatenate([at_start[:, 1:], totals], 1)
  position = jnp.stack(out, -1).astype(jnp.int32)
  return position, base.T.astype(jnp.int32)


def _count_before(chosen: Array) -> Array:
  """Exclusive running sums over the tokens: f32[E, N], exact below 2^24.

  A triangular product inside blocks and running sums over the blocks: zeros
  and ones are exact in any precision of a product, and matrix units as well
  as CPUs do this faster than a running sum over all tokens.
  """
  experts, n = chosen.shape
  blocks = -(-n // _BLOCK)
  padded = jnp.pad(chosen, ((0, 0), (0, blocks * _BLOCK - n)))
  cut = padded.reshape(experts * blocks, _BLOCK)
  upper = jnp.asarray(np.tri(_BLOCK, k=-1, dtype=np.float32).T)
  inside = (cut @ upper).reshape(experts, blocks, _BLOCK)
  totals = cut.sum(1).reshape(experts, blocks)
  carried = jnp.cumsum(totals, 1) - totals
  return (inside + carried[..., None]).reshape(experts, -1)[:, :n]
