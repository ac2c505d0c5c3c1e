"""RMoE: sensor-specialised, collaborative and shared experts (RingMoE).

y = specialised_m(x) + collaborative(x) + shared(x), a plain sum. The sensor of
every token is known statically: the batch is a concatenation of sensors, and a
`Segment` says whose images stand where.
"""

from typing import Literal, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from rsfm_jax.core import rng
from rsfm_jax.moe import balance
from rsfm_jax.moe import experts
from rsfm_jax.moe import routing
from rsfm_jax.nn import linear
from rsfm_jax.nn import mlp

Array = jax.Array
BalanceScope = Literal['mixed', 'per_sensor']


class Segment(NamedTuple):
  """Images of one sensor inside a batch: index of the sensor, how many."""

  sensor: int
  images: int


class RMoEAux(NamedTuple):
  """Of one layer; sensors that are absent from the batch have zeros.

  Attributes:
    balance: collaborative loss + mean over sensors of specialised losses.
    z: the same sum of router z-losses.
    specialised_load: f32[M, E].
    collaborative_load: per sensor, f32[M, E'].
    specialised_mass: mean probabilities, f32[M, E].
    collaborative_mass: per sensor, f32[M, E'].
    specialised_gate: mean weights of the outputs, f32[M, E].
    collaborative_gate: per sensor, f32[M, E'].
    share: of the batch's tokens, f32[M].
    dropped: (specialised, collaborative), f32[M, 2].
    entropy: (specialised, collaborative), f32[M, 2].
  """

  balance: Array
  z: Array
  specialised_load: Array
  collaborative_load: Array
  specialised_mass: Array
  collaborative_mass: Array
  specialised_gate: Array
  collaborative_gate: Array
  share: Array
  dropped: Array
  entropy: Array


class RMoE(nnx.Module):
  """The FFN of every RingMoE block."""

  def __init__(
    self,
    dim: int,
    hidden: int,
    *,
    sensors: int,
    specialised: int,
    collaborative: int,
    key: Array,
    std: float | None = linear.DEFAULT_STD,
  ):
    self.shared = mlp.Mlp(dim, hidden, key=rng.named(key, 'shared'), std=std)
    self.specialised = (
      None
      if not specialised
      else experts.RoutedExperts(
        dim,
        hidden,
        specialised,
        sets=sensors,
        std=std,
        key=rng.named(key, 'specialised'),
      )
    )
    self.collaborative = (
      None
      if not collaborative
      else experts.RoutedExperts(
        dim,
        hidden,
        collaborative,
        std=std,
        key=rng.named(key, 'collaborative'),
      )
    )
    self.sensors = sensors

  def __call__(
    self,
    x: Array,
    *,
    segments: tuple[Segment, ...],
    options: experts.Options,
    groups: int = 1,
    scope: BalanceScope = 'mixed',
  ) -> tuple[Array, RMoEAux]:
    """x: [B, H, W, D] -> ([B, H, W, D], aux).

    Args:
      x: images of all sensors, concatenated in the order of `segments`.
      segments: who stands where.
      options: how tokens are routed.
      groups: capacity and balance are counted in this many equal slices.
      scope: whether the collaborative router balances over the mixed batch or
        inside every sensor (as RingMoE's code does; quirk Q4).
    """
    shape = x.shape
    per_image = shape[1] * shape[2]
    x = x.reshape(-1, shape[-1])
    parts = [(s.sensor, s.images * per_image) for s in segments]
    by_sensor = routing.TokenGroups.cut(parts)
    y = self.shared(x)
    branches = []
    for routed, tokens in (
      (self.specialised, parts),
      (self.collaborative, _common_parts(parts, scope)),
    ):
      if routed is None:
        branches.append(None)
        continue
      cut = routing.TokenGroups.cut(tokens, slices=groups)
      out, done = routed(x, cut, options)
      usage = balance.usage(done.routing, done.dropped, by_sensor)
      branches.append(_Branch(done.balance, done.z, usage))
      y = y + out
    return y.reshape(shape), self._aux(segments, *branches)

  def _aux(
    self,
    segments: tuple[Segment, ...],
    special: '_Branch | None',
    common: '_Branch | None',
  ) -> RMoEAux:
    """Puts the segments' values at the rows of their sensors."""
    index = jnp.array([s.sensor for s in segments])
    empty = _Branch(
      jnp.zeros(()),
      jnp.zeros(()),
      balance.Usage(*(jnp.zeros((self.sensors, n)) for n in (0, 0, 0, 1, 1))),
    )

    def place(values: Array) -> Array:
      values = values.reshape(len(segments), -1)
      zeros = jnp.zeros((self.sensors, values.shape[-1]))
      return zeros.at[index].set(values)

    branches = [
      empty if b is None else b._replace(usage=jax.tree.map(place, b.usage))
      for b in (special, common)
    ]
    usages = [b.usage for b in branches]
    images = jnp.array([[s.images] for s in segments], jnp.float32)
    return RMoEAux(
      balance=sum(b.balance for b in branches),
      z=sum(b.z for b in branches),
      specialised_load=usages[0].load,
      collaborative_load=usages[1].load,
      specialised_mass=usages[0].mass,
      collaborative_mass=usages[1].mass,
      specialised_gate=usages[0].gate,
      collaborative_gate=usages[1].gate,
      share=place(images / images.sum())[:, 0],
      dropped=jnp.concatenate([u.dropped for u in usages], -1),
      entropy=jnp.concatenate([u.entropy for u in usages], -1),
    )


class _Branch(NamedTuple):
  """Losses of a group of experts, and their usage by each segment."""

  balance: Array
  z: Array
  usage: balance.Usage


def _common_parts(
  parts: list[tuple[int, int]], scope: BalanceScope
) -> list[tuple[int, int]]:
  """The collaborative experts are one set for everybody."""
  if scope == 'mixed':
    return [(0, sum(tokens for _, tokens in parts))]
  return [(0, tokens) for _, tokens in parts]
