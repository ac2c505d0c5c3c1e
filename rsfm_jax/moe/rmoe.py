"""RMoE: sensor-specialised, collaborative and shared experts (RingMoE).

y = specialised_m(x) + collaborative(x) + shared(x), a plain sum. The sensor of
every token is known statically: the batch is a concatenation of segments, and
a `Segment` says whose images stand where.
"""

from collections.abc import Sequence
import functools
from typing import Literal, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rsfm_jax.core import rng
from rsfm_jax.moe import balance
from rsfm_jax.moe import expert_parallel
from rsfm_jax.moe import experts
from rsfm_jax.moe import routing
from rsfm_jax.nn import linear
from rsfm_jax.nn import mlp
from rsfm_jax.nn import remat
from rsfm_jax.sharding import mesh as meshes

Array = jax.Array
P = PartitionSpec
BalanceScope = Literal['mixed', 'per_sensor', 'global']


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
    specialised_salience: see `balance.Usage`, f32[M, E].
    collaborative_salience: per sensor, f32[M, E'].
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
  specialised_salience: Array
  collaborative_salience: Array
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

  @property
  def weights(self) -> 'Weights':
    routed = (self.specialised, self.collaborative)
    return Weights(
      self.shared.weights, *(None if r is None else r.weights for r in routed)
    )

  def __call__(
    self,
    x: Array,
    *,
    segments: Sequence[Segment],
    options: experts.Options,
    groups: int = 1,
    slices: int = 1,
    scope: BalanceScope = 'mixed',
    placement: expert_parallel.Placement | None = None,
  ) -> tuple[Array, RMoEAux]:
    """x: [B, H, W, D] -> ([B, H, W, D], aux).

    Args:
      x: images of all sensors, concatenated in the order of `segments`.
      segments: who stands where; a sensor may come back.
      options: how tokens are routed.
      groups: the collaborative experts count capacity and balance in this many
        equal slices of the batch.
      slices: the specialised ones in this many equal slices of each segment.
      scope: whether the collaborative router balances over each slice, inside
        every sensor (as RingMoE's code does; quirk Q4), or over the whole
        batch on all devices.
      placement: where samples and experts live; the segments must then be
        those of an `expert_parallel.Arrangement`.
    """
    segments = tuple(Segment(*s) for s in segments)
    run = functools.partial(
      forward,
      sensors=self.sensors,
      options=options,
      slices=slices,
      scope=scope,
    )
    if placement is None:
      return run(self.weights, x, segments=segments, groups=groups)
    shards = placement.shards
    run = functools.partial(
      run,
      segments=segments[: len(segments) // shards],
      groups=groups // shards,
      axes=placement.axes,
    )
    batch = P(meshes.BATCH_AXES)
    weights = jax.tree.map(lambda w: w.astype(x.dtype), self.weights)
    weights = weights.with_routers(self.weights)
    cuts = weights.cuts(placement.mesh)
    return jax.shard_map(
      lambda weights, x: run(weights.whole(cuts), x),
      mesh=placement.mesh,
      in_specs=(weights.specs(placement.kind, cuts), batch),
      out_specs=(batch, _aux_specs(placement.kind)),
      # Loops and kernels of the grouped products do not carry it.
      check_vma=options.engine != 'dropless',
    )(weights, x)


class Weights(NamedTuple):
  """Of one layer; absent branches are None.

  Attributes:
    shared: w_in [1, D, F], b_in [1, F], w_out [1, F, D], b_out [1, D].
    specialised: M sets.
    collaborative: one set.
  """

  shared: tuple[Array, ...]
  specialised: experts.Weights | None
  collaborative: experts.Weights | None

  def with_routers(self, other: 'Weights') -> 'Weights':
    """Routers of `other`: they stay in float32."""
    swap = lambda a, b: None if a is None else a._replace(router=b.router)
    return Weights(
      self.shared,
      swap(self.specialised, other.specialised),
      swap(self.collaborative, other.collaborative),
    )

  def cuts(self, mesh: jax.sharding.Mesh) -> 'Cuts':
    """The axes over which matrices are cut at the door."""
    w_in = self.shared[0]
    rows = (w_in.shape[1], w_in.shape[2] // mesh.shape['tensor'])
    return Cuts(
      *(
        tuple(meshes.dividing(size, over, mesh) or () for size in rows)
        for over in (meshes.WEIGHT_AXES, meshes.WEIGHT_AXES[:1])
      )
    )

  def specs(self, kind: expert_parallel.Kind, cuts: 'Cuts') -> 'Weights':
    """How each weight comes to a device; those of `models.partition`."""

    routed = functools.partial(experts.Weights.specs, rows=cuts.routed)
    special = ('expert', None) if kind == 'sensor' else (None, 'expert')
    w_in = P(None, cuts.shared[0], 'tensor')
    w_out = P(None, ('tensor', *cuts.shared[1]))
    return Weights(
      (w_in, P(None, 'tensor'), w_out, P()),
      None if self.specialised is None else routed(*special),
      None if self.collaborative is None else routed(None, 'expert'),
    )

  def whole(self, cuts: 'Cuts') -> 'Weights':
    """Gathers what `cuts` cut: gradients are scattered, never all-reduced."""

    gather = experts.gather
    routed = lambda w: None if w is None else w.whole(cuts.routed)
    w_in, b_in, w_out, b_out = self.shared
    w_in = gather(w_in, 1, cuts.shared[0])
    w_out = gather(w_out, 1, cuts.shared[1])
    return Weights(
      (w_in, b_in, w_out, b_out),
      routed(self.specialised),
      routed(self.collaborative),
    )


class Cuts(NamedTuple):
  """Axes over which the rows of (w_in, w_out) are cut, () where they are not.

  Rows, never columns: XLA for TPU scatters sums of gradients along rows, and
  makes an all-reduce of twice the bytes where columns are no whole tiles.
  """

  shared: tuple[tuple[str, ...], tuple[str, ...]]
  routed: tuple[tuple[str, ...], tuple[str, ...]]


def forward(
  weights: Weights,
  x: Array,
  *,
  segments: tuple[Segment, ...],
  sensors: int,
  options: experts.Options,
  groups: int = 1,
  slices: int = 1,
  scope: BalanceScope = 'mixed',
  axes: expert_parallel.Axes = expert_parallel.LOCAL,
) -> tuple[Array, RMoEAux]:
  """One device's part of the layer; see `RMoE.__call__`.

  The collaborative tokens leave first: the shared and the specialised experts
  compute while they travel.
  """
  shape = x.shape
  per_image = shape[1] * shape[2]
  x = x.reshape(-1, shape[-1])
  parts = [(s.sensor, s.images * per_image) for s in segments]
  # Sensors may be cut over the expert axis; then all their experts are here.
  at_home = axes
  if axes.sensors:
    at_home = axes._replace(expert=None, batch=axes.beside_sensors)
  branches = {}
  for name, cut, of in (
    ('collaborative', _common(parts, scope, groups, slices), axes),
    ('specialised', routing.TokenGroups.cut(parts, slices=slices), at_home),
  ):
    own = getattr(weights, name)
    if own is not None:
      pool = None
      if scope == 'global':
        pool = lambda v, c=cut, a=of: a.mean(c.mean_by_set(v))
      sent = experts.send(x, own, cut, options, of, pool)
      branches[name] = (sent, own, cut, of)
  y, norms = _shared(x, weights.shared, axes), {}
  for name in ('specialised', 'collaborative'):
    if name in branches:
      out, norms[name] = experts.measured(x, *branches[name], options=options)
      y = y + out
  y = remat.kept(axes.total(y)).reshape(shape)
  by_sensor = routing.TokenGroups.cut(parts)
  done = {}
  for name, (sent, _, _, of) in branches.items():
    left = axes
    if scope == 'global':  # The others are averaged already.
      left = axes._replace(batch=tuple(set(axes.batch) - set(of.batch)))
    usage = balance.usage(sent.routing, sent.dropped, by_sensor, norms[name])
    done[name] = _Branch(left.mean(sent.balance), axes.mean(sent.z), usage)
  return y, _aux(done, segments, sensors, axes)


def _shared(
  x: Array, weights: tuple[Array, ...], axes: expert_parallel.Axes
) -> Array:
  w_in, b_in, w_out, b_out = weights
  if axes.tensor:
    b_out = b_out / jax.lax.axis_size(axes.tensor)
  return mlp.stacked_ffn(x[None], w_in, b_in, w_out, b_out)[0]


def _common(
  parts: list[tuple[int, int]], scope: BalanceScope, groups: int, slices: int
) -> routing.TokenGroups:
  """The collaborative experts are one set for everybody."""
  if scope == 'per_sensor':
    everybody = [(0, tokens) for _, tokens in parts]
    return routing.TokenGroups.cut(everybody, slices=slices)
  total = sum(tokens for _, tokens in parts)
  return routing.TokenGroups.cut([(0, total)], slices=groups)


def _aux_specs(kind: expert_parallel.Kind) -> RMoEAux:
  """Scalars are whole; rows of sensors are cut where sensors are."""
  rows = P('expert') if kind == 'sensor' else P()
  specs = RMoEAux(*(rows for _ in RMoEAux._fields))
  return specs._replace(balance=P(), z=P())


class _Branch(NamedTuple):
  """Losses of a group of experts, and their usage by each segment."""

  balance: Array
  z: Array
  usage: balance.Usage


def _aux(
  branches: dict[str, _Branch],
  segments: tuple[Segment, ...],
  sensors: int,
  axes: expert_parallel.Axes,
) -> RMoEAux:
  """Puts the segments' values at the rows of their sensors.

  Where sensors are cut over an axis, each column has the rows of its own.
  """
  rest = axes._replace(batch=axes.beside_sensors)
  index = jnp.array([s.sensor for s in segments])
  repeats = len(segments) // len({s.sensor for s in segments})

  columns = jax.lax.axis_size(axes.sensors) if axes.sensors else 1
  rows = sensors // columns

  def place(values: Array) -> Array:
    values = values.reshape(len(segments), -1) / repeats
    out = jnp.zeros((rows, values.shape[-1])).at[index].add(values)
    return rest.mean(out)

  zero = jnp.zeros(())
  empty = _Branch(
    zero,
    zero,
    balance.Usage(*(jnp.zeros((rows, n)) for n in (0, 0, 0, 0, 1, 1))),
  )
  placed = {
    name: b._replace(usage=jax.tree.map(place, b.usage))
    for name, b in branches.items()
  }
  pair = [placed.get(n, empty) for n in ('specialised', 'collaborative')]
  usages = [b.usage for b in pair]
  images = jnp.array([[s.images] for s in segments], jnp.float32)
  # `place` averages over a sensor's segments; a share adds them up.
  share = place(images / images.sum())[:, 0] * repeats / columns
  return RMoEAux(
    balance=sum(b.balance for b in pair),
    z=sum(b.z for b in pair),
    specialised_load=usages[0].load,
    collaborative_load=usages[1].load,
    specialised_mass=usages[0].mass,
    collaborative_mass=usages[1].mass,
    specialised_gate=usages[0].gate,
    collaborative_gate=usages[1].gate,
    specialised_salience=usages[0].salience,
    collaborative_salience=usages[1].salience,
    share=share,
    dropped=jnp.concatenate([u.dropped for u in usages], -1),
    entropy=jnp.concatenate([u.entropy for u in usages], -1),
  )
