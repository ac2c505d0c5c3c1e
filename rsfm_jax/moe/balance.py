"""Balance losses and what there is to know about a routing."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rsfm_jax.moe import routing as routing_lib

Array = jax.Array


class Usage(NamedTuple):
  """What S segments of tokens ask of the experts; no gradients.

  Attributes:
    load: share of the choices per expert, before dropping, [S, E].
    mass: mean probability of each expert, [S, E].
    gate: mean weight that each expert's output gets, [S, E]; their sum is the
      mean gate of a token (dropped choices count as if computed).
    salience: mean of gate x length of the output, [S, E]; divided by the share
      of the tokens it is the criterion of REAP (arXiv 2510.13999). Zeros where
      lengths were not measured.
    dropped: share of the choices beyond the capacity, [S].
    entropy: mean entropy of a token's distribution over the experts in nats,
      [S].
  """

  load: Array
  mass: Array
  gate: Array
  salience: Array
  dropped: Array
  entropy: Array


def balance_loss(
  routing: routing_lib.Routing,
  groups: routing_lib.TokenGroups,
  *,
  scale: float,
  pool: Callable[[Array], Array] | None = None,
) -> Array:
  """scale^2 * mean over groups and experts of f_e P_e, by set of experts.

  f_e is the share of tokens whose first choice is e (before dropping), P_e
  the mean probability. With `scale` = E this is Switch's loss, 1 at balance.
  RingMoE's code has scale 8 for routers of 4 experts (quirk Q3). The mean over
  groups is also the mean over sets, as each set has as many groups. `pool`
  averages f and P, [G, E], over groups and devices before the product.
  """
  experts = routing.probs.shape[-1]
  first = jax.nn.one_hot(routing.expert[:, 0], experts, dtype=jnp.float32)
  share = jax.lax.stop_gradient(groups.mean(first))
  mass = groups.mean(routing.probs)
  if pool is not None:
    share, mass = pool(share), pool(mass)
  return scale**2 * (share * mass).mean()


def z_loss(logits: Array) -> Array:
  """Mean of logsumexp(logits)^2 (ST-MoE, Eq. 5). logits: [N, E]."""
  return jnp.square(jax.nn.logsumexp(logits, axis=-1)).mean()


class Demand(NamedTuple):
  """Sums over tokens, which add up over sensors, groups and devices.

  Attributes:
    importance: of the probabilities without noise, f32[E].
    load: of the probability that a token would choose the expert if the noise
      were drawn again; without noise, of the choices, f32[E].
  """

  importance: Array
  load: Array


def demand(
  logits: Array,
  noise: Array | None,
  *,
  choices: int,
  std: float,
  weight: Array | None = None,
) -> Demand:
  """What tokens ask of the experts (Shazeer et al. 2017; V-MoE, appendix A).

  Args:
    logits: f32[N, E], without noise.
    noise: f32[N, E], what was added before the choice, or None.
    choices: K.
    std: standard deviation of the noise.
    weight: f32[N], 0 for tokens that do not count.

  Returns:
    Sums with gradients, but for the load of a choice without noise.
  """
  probs = jax.nn.softmax(logits, axis=-1)
  noisy = logits if noise is None else logits + noise
  if noise is None or not std:
    load = preferred(noisy, choices)
  else:
    threshold = jax.lax.top_k(noisy, choices)[0][:, -1:]
    load = jax.scipy.special.ndtr((logits - threshold) / std)
  if weight is not None:
    probs, load = probs * weight[:, None], load * weight[:, None]
  return Demand(probs.sum(0), load.sum(0))


def preferred(logits: Array, choices: int) -> Array:
  """1 for a token's `choices` best experts, 0 for others: f32[N, E]."""
  logits = jax.lax.stop_gradient(logits)
  threshold = jax.lax.top_k(logits, choices)[0][:, -1:]
  return (logits >= threshold).astype(jnp.float32)


def variation(sums: Array) -> Array:
  """Squared coefficient of variation over the experts, f32[..., E] -> [...].

  (std / mean)^2 with the deviation of a population: 0 at balance, E - 1 when
  one expert has it all, and 0 where nothing was counted.
  """
  mean = sums.mean(-1, keepdims=True)
  safe = jnp.where(mean > 0, mean, 1)
  return jnp.square(jnp.where(mean > 0, sums / safe - 1, 0)).mean(-1)


def demand_loss(total: Demand) -> Array:
  """Half the importance loss and half the load loss, of any leading axes.

  V-MoE's auxiliary loss and, but for its unbiased variance, the one of
  Swin-MoE (`IS_GSHARD_LOSS: False`).
  """
  return (variation(total.importance) + variation(total.load)) / 2


def usage(
  routing: routing_lib.Routing,
  dropped: Array,
  segments: routing_lib.TokenGroups,
  norms: Array | None = None,
) -> Usage:
  """Usage by each segment of the batch.

  Args:
    routing: the decisions.
    dropped: bool[N, K].
    segments: whose tokens stand where (not the routing's own groups).
    norms: f32[N, K], lengths of the outputs, if measured.

  Returns:
    Arrays with a leading axis over the segments.
  """
  probs = jax.lax.stop_gradient(routing.probs)
  chosen = jax.nn.one_hot(routing.expert, probs.shape[-1])
  gates = jax.lax.stop_gradient(routing.gate)[..., None] * chosen
  entropy = -jax.scipy.special.xlogy(probs, probs).sum(-1)
  return Usage(
    segments.mean(chosen.mean(1)),
    segments.mean(probs),
    segments.mean(gates.sum(1)),
    segments.mean(salience(gates, norms)),
    segments.mean(dropped.mean(-1, dtype=jnp.float32)),
    segments.mean(entropy),
  )


def salience(gates: Array, norms: Array | None) -> Array:
  """f32[N, K, E] weights of outputs of lengths f32[N, K] -> f32[N, E]."""
  if norms is None:
    return jnp.zeros_like(gates[:, 0])
  return (gates * norms[..., None]).sum(1)


def mutual_information(load: Array, weight: Array) -> Array:
  """I(sensor; expert) in nats.

  Args:
    load: share of each sensor's choices per expert, f32[..., M, E].
    weight: share of all tokens per sensor, f32[M].

  Returns:
    f32[...]: 0 when all sensors use the experts alike, log min(M, E) at most.
  """
  weight = weight.reshape((1,) * (load.ndim - 2) + (-1, 1))
  joint = load * weight
  marginal = joint.sum(-2, keepdims=True)
  ratio = jnp.where(load > 0, load / jnp.where(marginal > 0, marginal, 1), 1)
  return (joint * jnp.log(ratio)).sum((-1, -2))
