"""Routers that know the sensor of every token (MAPEX-style).

MAPEX (arXiv 2507.07527) routes by token and conditions on the sensor; how is
NOT FOUND. DEFAULT: logits W x + B[m], one bias per sensor m and expert: for a
linear router that is also what adding or concatenating an embedding of the
sensor comes to, V e_m being a vector per sensor. The others are for
comparison: none, one router W_m per sensor as RingMoE has it, or a fixed
partition of the experts.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.moe import experts
from rsfm_jax.moe import routing

Array = jax.Array
Conditioning = Literal['none', 'bias', 'router', 'partition']
CONDITIONINGS = ('none', 'bias', 'router', 'partition')

# Finite, so that sums of squares of logits stay so; its exponential is 0.
_FORBIDDEN = -1e30


class Kind(NamedTuple):
  """How a layer's router sees sensors; hashable.

  Attributes:
    conditioning: 'none'; 'bias' (W x + B[m]); 'router' (W_m x); 'partition'
      (W x, of the experts that a sensor may use).
    sensors: M.
    allowed: of a partition, [M][E], whether a sensor may use an expert.
  """

  conditioning: Conditioning = 'none'
  sensors: int = 0
  allowed: tuple[tuple[bool, ...], ...] = ()


def logits(
  x: Array, router: Array, bias: Array | None, sensor: Array, kind: Kind
) -> Array:
  """Of N tokens, f32[N, E].

  Args:
    x: [N, D].
    router: [D, E], or [M, D, E] of one router per sensor.
    bias: [M, E]; -inf forbids an expert.
    sensor: i32[N], the place of each token's sensor.
    kind: conditioning, and the partition if any.
  """
  groups = routing.TokenGroups((x.shape[0],), (0,))
  if kind.conditioning == 'router':
    # All routers as one product: E is small, and nothing has to be sorted.
    number = router.shape[-1]
    every = router.swapaxes(0, 1).reshape(1, x.shape[-1], -1)
    found = experts.router_logits(x, every, groups)
    return _own(found.reshape(x.shape[0], -1, number), sensor)
  found = experts.router_logits(x, router[None], groups)
  if kind.conditioning == 'bias':
    return found + _own(bias[None], sensor)
  if kind.conditioning == 'partition':
    allowed = jnp.asarray(np.array(kind.allowed))[sensor]
    return jnp.where(allowed, found, _FORBIDDEN)
  return found


def _own(values: Array, sensor: Array) -> Array:
  """[N or 1, M, E] -> [N, E], each token's sensor's row.

  By a sum with zeros, so that the backward pass scatters nothing; infinite
  entries of other sensors do no harm.
  """
  place = jnp.arange(values.shape[1], dtype=sensor.dtype)
  own = sensor[:, None, None] == place[None, :, None]
  return jnp.where(own, values, 0).sum(1)
