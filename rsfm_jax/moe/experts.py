"""A router and its experts: the routed FFN every MoE layer is made of."""

from collections.abc import Callable
import math
from typing import Literal, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rsfm_jax.moe import balance
from rsfm_jax.moe import dispatch
from rsfm_jax.moe import expert_parallel
from rsfm_jax.moe import ragged_exchange
from rsfm_jax.moe import routing as routing_lib
from rsfm_jax.nn import linear
from rsfm_jax.nn import mlp
from rsfm_jax.nn import remat

Array = jax.Array
P = PartitionSpec
Engine = Literal['capacity', 'dropless', 'oracle']

# MindSpore's Dense default, which RingMoE's routers keep.
ROUTER_STD = 0.01
# Of a column of a TPU's tile: 8 rows of float32, 16 of bfloat16.
_TILE_BYTES = 32


class Options(NamedTuple):
  """How tokens are routed.

  Attributes:
    engine: 'capacity' drops beyond `capacity_factor`; 'dropless' computes all;
      'oracle' computes every expert on every token.
    choices: K.
    gate: see `routing.route`.
    capacity_factor: slots per expert relative to perfect balance.
    priority: who gets the slots; see `routing.route`.
    balance_scale: see `balance.balance_loss`; None takes the number of experts.
    chunks: capacity buffers that cross devices do so in this many pieces, one
      travelling while another is computed. By the compiler's estimate that
      hides half of the travel and costs as much in smaller products (16 v5p
      chips, d 1408), so 1 is the default.
    buffer_factor: dropless rows that a device can receive, relative to what
      it sends; beyond that they are dropped. None has room for all devices'.
    gate_noise: the layer adds normal noise of this over E to the logits in
      training; see `layer.MoE`.
    activation: of the experts, one of `mlp.ACTIVATIONS`.
  """

  engine: Engine = 'capacity'
  choices: int = 1
  gate: routing_lib.Gate = 'prob'
  capacity_factor: float = 1.2
  priority: routing_lib.Priority = 'first_come'
  balance_scale: float | None = None
  chunks: int = 1
  buffer_factor: float | None = None
  gate_noise: float = 0.0
  activation: mlp.Activation = 'gelu_tanh'


class Weights(NamedTuple):
  """Of a router and its experts; S sets, E experts of which E' are here.

  Attributes:
    router: [S, D, E].
    w_in: [S, E', D, F].
    b_in: [S, E', F].
    w_out: [S, E', F, D].
    b_out: [S, E', D].
  """

  router: Array
  w_in: Array
  b_in: Array
  w_out: Array
  b_out: Array

  @classmethod
  def specs(cls, sets: str | None, of: str | None, rows: 'Rows') -> 'Weights':
    """How they come to a device: sets and experts over these mesh axes."""
    return cls(
      P(sets),
      P(sets, of, rows[0], 'tensor'),
      P(sets, of, 'tensor'),
      P(sets, of, ('tensor', *rows[1])),
      P(sets, of),
    )

  def whole(self, rows: 'Rows') -> 'Weights':
    """Gathers the rows that were cut."""
    return self._replace(
      w_in=gather(self.w_in, 2, rows[0]), w_out=gather(self.w_out, 2, rows[1])
    )


# Mesh axes over which the rows of (w_in, w_out) are cut, () where they are not.
Rows = tuple[tuple[str, ...], tuple[str, ...]]


def gather(w: Array, dim: int, over: tuple[str, ...]) -> Array:
  """Inside `shard_map`: all of a dimension that is cut over mesh axes."""
  if not over:
    return w
  return jax.lax.all_gather(w, over, axis=dim, tiled=True)


class Routed(NamedTuple):
  """Tokens that know their experts and may be on their way.

  Attributes:
    balance: balance loss of these tokens, a scalar.
    z: router z-loss, a scalar.
    routing: the decision for every token.
    dropped: bool[N, K].
    plan: where they sit in the experts' buffer; None for the oracle.
    rows: what this device's experts have to compute, a [P, rows, D] for each
      chunk.
    trip: how sorted rows travelled; None where they did not.
    logits: f32[N, E] without noise.
  """

  balance: Array
  z: Array
  routing: routing_lib.Routing
  dropped: Array
  plan: dispatch.Plan | None
  rows: tuple[Array, ...]
  trip: ragged_exchange.Trip | None = None
  logits: Array | None = None


class RoutedExperts(nnx.Module):
  """S sets of E experts, each set with its router.

  Parameters: router [S, D, E], w_in [S, E, D, F], b_in [S, E, F],
  w_out [S, E, F, D], b_out [S, E, D]; without S when `sets` is None. With
  `routers` the router is [R, D, E] after S; see `moe.routers`.
  """

  def __init__(
    self,
    dim: int,
    hidden: int,
    experts: int,
    *,
    key: Array,
    sets: int | None = None,
    routers: int | None = None,
    std: float | None = linear.DEFAULT_STD,
  ):
    lead = () if sets is None else (sets,)
    rows = (dim,) if routers is None else (routers, dim)
    k_router, k_in, k_out = jax.random.split(key, 3)
    normal = linear.truncated_normal
    self.router = nnx.Param(
      ROUTER_STD * jax.random.normal(k_router, (*lead, *rows, experts))
    )
    self.w_in = nnx.Param(normal(k_in, (*lead, experts, dim, hidden), std))
    self.b_in = nnx.Param(jnp.zeros((*lead, experts, hidden)))
    self.w_out = nnx.Param(normal(k_out, (*lead, experts, hidden, dim), std))
    self.b_out = nnx.Param(jnp.zeros((*lead, experts, dim)))
    self.sets = sets

  @property
  def weights(self) -> Weights:
    """With the axis of sets, whatever `sets` is."""
    found = (self.router, self.w_in, self.b_in, self.w_out, self.b_out)
    return Weights(
      *(w[...][None] if self.sets is None else w[...] for w in found)
    )

  def __call__(
    self,
    x: Array,
    groups: routing_lib.TokenGroups,
    options: Options,
  ) -> tuple[Array, Routed]:
    """x: [N, D] -> ([N, D] in the dtype of x, what was done)."""
    sent = send(x, self.weights, groups, options)
    y = compute(x, sent, self.weights, groups, activation=options.activation)
    return y, sent


def send(
  x: Array,
  weights: Weights,
  groups: routing_lib.TokenGroups,
  options: Options,
  axes: expert_parallel.Axes = expert_parallel.LOCAL,
  pool: Callable[[Array], Array] | None = None,
  *,
  logits: Array | None = None,
  noise: Array | None = None,
  valid: Array | None = None,
) -> Routed:
  """Routes tokens and sends them to the devices of their experts.

  x: [N, D]. What follows in the program runs while they travel. `pool`: see
  `balance.balance_loss`; `logits`: f32[N, E] in place of the routers' own (see
  `moe.routers`); `noise`: f32[N, E], added to the logits before they
  decide; `valid`: see `routing.route`.
  """
  clean = logits
  if clean is None:
    clean = router_logits(x, weights.router, groups)
  logits = clean if noise is None else clean + noise
  experts, here = weights.router.shape[-1], weights.w_in.shape[1]
  choices = min(options.choices, experts)
  routing = routing_lib.route(
    logits,
    groups,
    choices=choices,
    gate=options.gate,
    priority=options.priority,
    valid=valid,
  )
  scale = options.balance_scale or experts
  losses = (
    balance.balance_loss(routing, groups, scale=scale, pool=pool),
    balance.z_loss(logits),
  )
  dropped = jnp.zeros(routing.expert.shape, bool)
  routed = Routed(*losses, routing, dropped, None, (), logits=clean)
  if options.engine == 'oracle':
    return routed
  if options.engine == 'dropless':
    plan = dispatch.dropless(
      routing,
      groups,
      experts=experts,
      sets=weights.router.shape[0],
      columns=experts // here,
    )
    sent = routed._replace(plan=plan, rows=(plan.dispatch(x),))
    return sent if plan.columns == 1 else _send_sorted(sent, options, axes)
  capacities = [
    routing_lib.capacity(
      size, experts, choices=choices, factor=options.capacity_factor
    )
    for size in groups.sizes
  ]
  limit = groups.spread(jnp.array(capacities, jnp.int32)[:, None])
  plan = dispatch.by_capacity(
    routing,
    groups,
    experts=experts,
    capacities=capacities,
    columns=experts // here,
    align=_TILE_BYTES // x.dtype.itemsize,
    chunks=options.chunks if experts > here else 1,
  )
  parts = jnp.split(plan.dispatch(x), plan.chunks, axis=1)
  rows = tuple(remat.kept(axes.send(part)) for part in parts)
  return routed._replace(
    dropped=routing.position >= limit, plan=plan, rows=rows
  )


def _send_sorted(
  sent: Routed, options: Options, axes: expert_parallel.Axes
) -> Routed:
  """Sorted rows to the devices of their experts."""
  (rows,) = sent.rows
  rows = rows[0]
  factor = options.buffer_factor or sent.plan.columns
  trip = ragged_exchange.plan(
    sent.plan.counts,
    axis=axes.expert,
    capacity=math.ceil(len(rows) * min(factor, sent.plan.columns)),
  )
  rows = remat.kept(ragged_exchange.there(rows, trip, axes.expert))
  me = jax.lax.axis_index(axes.expert)
  left = ragged_exchange.left_behind(trip, me, sent.plan.slot)
  return sent._replace(rows=(rows[None],), trip=trip, dropped=left)


def compute(
  x: Array,
  sent: Routed,
  weights: Weights,
  groups: routing_lib.TokenGroups,
  axes: expert_parallel.Axes = expert_parallel.LOCAL,
  *,
  activation: mlp.Activation = 'gelu_tanh',
) -> Array:
  """The experts' outputs, back at their tokens: [N, D].

  Under a tensor axis the result is this device's part of a sum. The oracle
  gathers all experts.
  """
  products = weights[1:]
  if axes.tensor:
    b_out = weights.b_out / jax.lax.axis_size(axes.tensor)
    products = (*products[:3], b_out)
  if sent.plan is None:
    products = tuple(axes.gather(w) for w in products)
    return dispatch.oracle(
      x, sent.routing, groups, products, activation=activation
    )
  if sent.trip is not None:
    plan = sent.plan._replace(counts=sent.trip.counts[None])
    rows = plan.ffn(sent.rows[0], products, activation=activation)[0]
    count = sent.routing.expert.size
    rows = ragged_exchange.back(rows, sent.trip, axes.expert, count=count)
    return sent.plan.combine(remat.kept(rows))
  done = [
    sent.plan.ffn(rows, products, activation=activation) for rows in sent.rows
  ]
  if sent.plan.columns > 1:
    done = [axes.send(rows) for rows in done]
  rows = jnp.concatenate([remat.kept(rows) for rows in done], 1)
  return sent.plan.combine(rows)


def router_logits(
  x: Array, router: Array, groups: routing_lib.TokenGroups
) -> Array:
  """x: [N, D], router: [S, D, E] -> f32[N, E], each group by its set's."""
  x = x.astype(jnp.float32)
  # A written gradient needs both to vary over the same mesh axes.
  varying = lambda v: jax.typeof(v).manual_axis_type.varying
  missing = varying(x) - varying(router)
  router = jax.lax.pcast(router, tuple(missing), to='varying')

  if len(set(groups.sets)) == 1:
    return _logits(x, router[groups.sets[0]]).T
  if groups.equal:
    picked = router
    if groups.sets != tuple(range(router.shape[0])):
      picked = router[jnp.array(groups.sets)]
    x = x.reshape(len(groups.sizes), -1, x.shape[-1])
    logits = _logits(x, picked).swapaxes(1, 2)
    return logits.reshape(-1, router.shape[-1])
  return jnp.concatenate(
    [
      _logits(x[part], router[index])
      for part, index in zip(groups.slices, groups.sets, strict=True)
    ],
    axis=1,
  ).T


@jax.custom_vjp
def _logits(x: Array, router: Array) -> Array:
  """f32[..., T, D], f32[..., D, E] -> [..., E, T]: tokens run fastest.

  The barriers keep XLA for CPU from folding the transposes of the few experts
  into the products: 2 to 6 times as fast at RingMoE tiny's sizes.
  """
  turned = jax.lax.optimization_barrier(router.swapaxes(-1, -2))
  return _exact(turned, x.swapaxes(-1, -2))


def _logits_forward(x, router):
  return _logits(x, router), (x, router)


def _logits_backward(saved, dy):
  x, router = saved
  dx = _exact(dy.swapaxes(-1, -2), router.swapaxes(-1, -2))
  return dx, jax.lax.optimization_barrier(_exact(dy, x)).swapaxes(-1, -2)


_logits.defvjp(_logits_forward, _logits_backward)


def _exact(a: Array, b: Array) -> Array:
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
