"""A router and its experts: the routed FFN every MoE layer is made of."""

from typing import Literal, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from rsfm_jax.moe import balance
from rsfm_jax.moe import dispatch
from rsfm_jax.moe import routing as routing_lib
from rsfm_jax.nn import linear

Array = jax.Array
Engine = Literal['capacity', 'dropless', 'oracle']

# MindSpore's Dense default, which RingMoE's routers keep.
ROUTER_STD = 0.01


class Options(NamedTuple):
  """How tokens are routed.

  Attributes:
    engine: 'capacity' drops beyond `capacity_factor`; 'dropless' computes all;
      'oracle' computes every expert on every token.
    choices: K.
    gate: see `routing.route`.
    capacity_factor: slots per expert relative to perfect balance.
    balance_scale: see `balance.balance_loss`; None takes the number of experts.
  """

  engine: Engine = 'capacity'
  choices: int = 1
  gate: routing_lib.Gate = 'prob'
  capacity_factor: float = 1.2
  balance_scale: float | None = None


class Routed(NamedTuple):
  """What a routed FFN did.

  Attributes:
    balance: balance loss, a scalar.
    z: router z-loss, a scalar.
    routing: the decision for every token.
    dropped: bool[N, K].
  """

  balance: Array
  z: Array
  routing: routing_lib.Routing
  dropped: Array


class RoutedExperts(nnx.Module):
  """S sets of E experts, each set with its router.

  Parameters: router [S, D, E], w_in [S, E, D, F], b_in [S, E, F],
  w_out [S, E, F, D], b_out [S, E, D]; without S when `sets` is None.
  """

  def __init__(
    self,
    dim: int,
    hidden: int,
    experts: int,
    *,
    key: Array,
    sets: int | None = None,
    std: float | None = linear.DEFAULT_STD,
  ):
    lead = () if sets is None else (sets,)
    k_router, k_in, k_out = jax.random.split(key, 3)
    normal = linear.truncated_normal
    self.router = nnx.Param(
      ROUTER_STD * jax.random.normal(k_router, (*lead, dim, experts))
    )
    self.w_in = nnx.Param(normal(k_in, (*lead, experts, dim, hidden), std))
    self.b_in = nnx.Param(jnp.zeros((*lead, experts, hidden)))
    self.w_out = nnx.Param(normal(k_out, (*lead, experts, hidden, dim), std))
    self.b_out = nnx.Param(jnp.zeros((*lead, experts, dim)))
    self.sets = sets

  def __call__(
    self,
    x: Array,
    groups: routing_lib.TokenGroups,
    options: Options,
  ) -> tuple[Array, Routed]:
    """x: [N, D] -> ([N, D] in the dtype of x, what was done)."""
    router, *weights = (
      w[...][None] if self.sets is None else w[...]
      for w in (self.router, self.w_in, self.b_in, self.w_out, self.b_out)
    )
    logits = router_logits(x, router, groups)
    experts = router.shape[-1]
    choices = min(options.choices, experts)
    routing = routing_lib.route(
      logits, groups, choices=choices, gate=options.gate
    )
    capacities = None
    dropped = jnp.zeros(routing.expert.shape, bool)
    if options.engine == 'capacity':
      capacities = [
        routing_lib.capacity(
          size, experts, choices=choices, factor=options.capacity_factor
        )
        for size in groups.sizes
      ]
      limit = groups.spread(jnp.array(capacities, jnp.int32)[:, None])
      dropped = routing.position >= limit
    if options.engine == 'oracle':
      y = dispatch.oracle(x, routing, groups, tuple(weights))
    elif capacities is None:
      plan = dispatch.dropless(routing, groups, experts=experts)
      y = plan.compute(x, tuple(weights))
    else:
      plan = dispatch.by_capacity(
        routing, groups, experts=experts, capacities=capacities
      )
      y = plan.compute(x, tuple(weights))
    scale = options.balance_scale or experts
    loss = balance.balance_loss(routing, groups, scale=scale)
    return y, Routed(loss, balance.z_loss(logits), routing, dropped)


def router_logits(
  x: Array, router: Array, groups: routing_lib.TokenGroups
) -> Array:
  """x: [N, D], router: [S, D, E] -> f32[N, E], each group by its set's."""
  x = x.astype(jnp.float32)
  precision = jax.lax.Precision.HIGHEST
  if len(set(groups.sets)) == 1:
    return jnp.matmul(x, router[groups.sets[0]], precision=precision)
  if groups.equal:
    picked = router
    if groups.sets != tuple(range(router.shape[0])):
      picked = router[jnp.array(groups.sets)]
    x = x.reshape(len(groups.sizes), -1, x.shape[-1])
    logits = jnp.einsum('gtd,gde->gte', x, picked, precision=precision)
    return logits.reshape(-1, router.shape[-1])
  return jnp.concatenate(
    [
      jnp.matmul(x[part], router[index], precision=precision)
      for part, index in zip(groups.slices, groups.sets, strict=True)
    ]
  )
