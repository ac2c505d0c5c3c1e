"""One set of experts in place of an FFN (SkySense V2, V-MoE, MAPEX-style)."""

import functools
import math
from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rsfm_jax.core import rng
from rsfm_jax.moe import balance
from rsfm_jax.moe import expert_parallel
from rsfm_jax.moe import experts
from rsfm_jax.moe import routers
from rsfm_jax.moe import routing
from rsfm_jax.nn import linear
from rsfm_jax.nn import mlp
from rsfm_jax.nn import remat
from rsfm_jax.sharding import mesh as meshes

Array = jax.Array
P = PartitionSpec


class Statistics(NamedTuple):
  """Sums over the counting tokens of each place, on all devices.

  S places of a sample, such as its sensors and dates, stand in a batch as
  [B, S]; where a layer is told the sensor of every token, S are the sensors.
  Sums add up. Only `demand` and `z` have gradients.

  Attributes:
    demand: see `balance.Demand`, of f32[S, E].
    z: of logsumexp(logits)^2, f32[S].
    chosen: choices per expert, before dropping, f32[S, E].
    preferred: what they would be without the gates' noise, f32[S, E].
    gate: of the weights of each expert's outputs, f32[S, E].
    salience: of weight x length of output, f32[S, E]; zeros in training.
    dropped: choices beyond the capacity, f32[S].
    entropy: of the tokens' distributions over the experts in nats, f32[S].
    tokens: f32[S].
  """

  demand: balance.Demand
  z: Array
  chosen: Array
  preferred: Array
  gate: Array
  salience: Array
  dropped: Array
  entropy: Array
  tokens: Array


class MoE(nnx.Module):
  """y = sum over the K most probable experts of p_e(x) FFN_e(x).

  SkySense V2, Eq. 2: a linear router without bias, its probabilities as
  gates, not divided by their sum. With one expert it is the dense FFN.
  Parameters: routed/{router, w_in, b_in, w_out, b_out}; see
  `experts.RoutedExperts`; router_bias [M, E] of routers with a bias; and
  shared/{w_in, b_in, w_out, b_out} of an FFN that all tokens pass, whose output
  is added as it is.
  """

  def __init__(
    self,
    dim: int,
    hidden: int,
    number: int,
    *,
    key: Array,
    std: float | None = linear.DEFAULT_STD,
    router: routers.Kind | None = None,
    shared: mlp.Mlp | None = None,
  ):
    router = router or routers.Kind()
    by_sensor = router.conditioning == 'router'
    self.routed = experts.RoutedExperts(
      dim,
      hidden,
      number,
      key=key,
      routers=router.sensors if by_sensor else None,
      std=std,
    )
    self.router_bias = (
      nnx.Param(jnp.zeros((router.sensors, number)))
      if router.conditioning == 'bias'
      else None
    )
    self.shared = shared
    self.router = router

  def __call__(
    self,
    x: Array,
    *,
    options: experts.Options,
    key: Array | None = None,
    valid: Array | None = None,
    groups: int | None = None,
    places: int = 1,
    sensor: Array | None = None,
    placement: expert_parallel.Placement | None = None,
  ) -> tuple[Array, Statistics]:
    """x: [B S, ..., D] -> ([B S, ..., D], sums over its tokens).

    Args:
      x: tokens of B samples' S images.
      options: how they are routed.
      key: in training, for the gates' noise; None for none.
      valid: bool[B S], images that count, or bool[B S, ...], tokens that do.
        The others are computed where slots are left, and are in no sum.
      groups: capacity is counted in this many equal slices of the batch; None
        makes one per device that holds samples.
      places: S, which run fastest.
      sensor: i32[B S, ...], of every token, for routers that ask for it and
        for sums by sensor; None takes the places' sums.
      placement: where samples and experts live on a mesh; B is cut over it.
    """
    assert sensor is not None or self.router.conditioning == 'none'
    shards = placement.shards if placement else 1
    groups = _check_groups(groups, shards, x.shape[0], places)
    noise = None
    if key is not None and options.gate_noise:
      # Drawn for the whole batch: the same on any number of devices.
      number = self.routed.router.shape[-1]
      key = rng.named(key, 'gate_noise')
      noise = jax.random.normal(key, (*x.shape[:-1], number))
      noise *= options.gate_noise / number
    run = functools.partial(
      _forward,
      options=options,
      groups=groups // shards,
      places=places,
      router=self.router,
    )
    weights = self.routed.weights
    bias = None if self.router_bias is None else self.router_bias[...]
    rest = (noise, valid, sensor)
    if placement is None:
      y, sums = run(weights, bias, x, *rest, axes=expert_parallel.LOCAL)
      return self._with_shared(x, y), sums
    mesh = placement.mesh
    axes = placement.axes._replace(sensors=None)
    weights = jax.tree.map(lambda w: w.astype(x.dtype), weights)
    weights = weights._replace(router=self.routed.weights.router)
    rows = _rows(weights, mesh)
    batch = P(meshes.BATCH_AXES)
    y, sums = jax.shard_map(
      lambda weights, *a: run(weights.whole(rows), *a, axes=axes),
      mesh=mesh,
      in_specs=(
        experts.Weights.specs(None, 'expert', rows),
        None if bias is None else P(),
        batch,
        *(None if part is None else batch for part in rest),
      ),
      out_specs=(batch, P()),
      # Loops and kernels of the grouped products do not carry it.
      check_vma=options.engine != 'dropless',
    )(weights, bias, x, *rest)
    return self._with_shared(x, y), sums

  def _with_shared(self, x: Array, y: Array) -> Array:
    return y if self.shared is None else y + self.shared(x)


def _check_groups(
  groups: int | None, shards: int, images: int, places: int
) -> int:
  groups = shards if groups is None else groups
  if images // places % shards:
    raise ValueError(
      f'{images // places} samples are not cut equally by the {shards} devices '
      'that hold samples; change batch_size or the mesh.'
    )
  if groups % shards or images % groups:
    raise ValueError(
      f'model.routing_groups={groups} must be a multiple of the {shards} '
      f'devices that hold samples, and divide the {images} images of sensors '
      'of one size (dates count).'
    )
  return groups


def _rows(weights: experts.Weights, mesh: jax.sharding.Mesh) -> experts.Rows:
  """As far as the rows divide, like `rmoe.Weights.cuts`."""
  sizes = (
    weights.w_in.shape[2],
    weights.w_out.shape[2] // mesh.shape['tensor'],
  )
  over = meshes.WEIGHT_AXES[:1]
  return tuple(meshes.dividing(size, over, mesh) or () for size in sizes)


def _forward(
  weights: experts.Weights,
  bias: Array | None,
  x: Array,
  noise: Array | None,
  valid: Array | None,
  sensor: Array | None,
  *,
  options: experts.Options,
  groups: int,
  places: int,
  router: routers.Kind,
  axes: expert_parallel.Axes,
) -> tuple[Array, Statistics]:
  """One device's part of the layer."""
  flat = x.reshape(-1, x.shape[-1])
  tokens, per_image = flat.shape[0], math.prod(x.shape[1:-1])
  if noise is not None:
    noise = noise.reshape(tokens, -1)
  if valid is not None and valid.ndim == 1:
    valid = jnp.repeat(valid, per_image, total_repeat_length=tokens)
  elif valid is not None:
    valid = valid.reshape(-1)
  cut = routing.TokenGroups.cut([(0, tokens)], slices=groups)
  logits = None
  if sensor is not None:
    sensor = sensor.reshape(-1)
    logits = routers.logits(flat, weights.router[0], bias, sensor, router)
  sent = experts.send(
    flat, weights, cut, options, axes, logits=logits, noise=noise, valid=valid
  )
  y, norms = experts.measured(flat, sent, weights, cut, axes, options=options)
  if sensor is None:
    sizes = (places, per_image)
    sums = _by_place(sent, norms, noise, valid, options, sizes)
  else:
    count = router.sensors
    sums = _by_sensor(sent, norms, noise, valid, options, sensor, count)
  if axes.batch:
    sums = jax.lax.psum(sums, axes.batch)
  return remat.kept(axes.total(y)).reshape(x.shape), sums


def _by_place(
  sent: experts.Routed,
  norms: Array | None,
  noise: Array | None,
  valid: Array | None,
  options: experts.Options,
  sizes: tuple[int, int],
) -> Statistics:
  """`_statistics` of each place; `sizes`: S, tokens of an image."""

  def apart(rows: Array) -> Array:  # [N, ...] -> [S, B n, ...].
    rows = rows.reshape(-1, *sizes, *rows.shape[1:]).swapaxes(0, 1)
    return rows.reshape(sizes[0], -1, *rows.shape[3:])

  weight = jnp.ones(sent.logits.shape[0]) if valid is None else valid
  rows = (sent.logits, noise, weight.astype(jnp.float32), sent.dropped)
  sums = functools.partial(_statistics, std=options.gate_noise)
  routed = (sent.routing.probs, sent.routing.expert, sent.routing.gate, norms)
  return jax.vmap(sums)(*jax.tree.map(apart, (*rows, *routed)))


def _by_sensor(
  sent: experts.Routed,
  norms: Array | None,
  noise: Array | None,
  valid: Array | None,
  options: experts.Options,
  sensor: Array,
  sensors: int,
) -> Statistics:
  """`_statistics` of each sensor's tokens; `sensor`: i32[N]."""
  weight = jax.nn.one_hot(sensor, sensors)
  if valid is not None:
    weight *= valid[:, None]
  routing = sent.routing
  sums = lambda of: _statistics(
    sent.logits,
    noise,
    of,
    sent.dropped,
    routing.probs,
    routing.expert,
    routing.gate,
    norms,
    std=options.gate_noise,
  )
  return jax.vmap(sums, in_axes=1)(weight)


def _statistics(
  logits: Array,
  noise: Array | None,
  weight: Array,
  dropped: Array,
  probs: Array,
  expert: Array,
  gate: Array,
  norms: Array | None,
  *,
  std: float,
) -> Statistics:
  """Sums over the tokens of one place of one device; `std` is that times E."""
  number = logits.shape[-1]
  probs = jax.lax.stop_gradient(probs)
  choices = jax.nn.one_hot(expert, number)
  gates = jax.lax.stop_gradient(gate)[..., None] * choices
  sums = lambda rows: (rows * weight[:, None]).sum(0)
  entropy = -jax.scipy.special.xlogy(probs, probs).sum(-1)
  lost = dropped.sum(-1, dtype=jnp.float32)
  square = jnp.square(jax.nn.logsumexp(logits, axis=-1))
  chosen = preferred = choices.sum(1)
  if noise is not None:
    preferred = balance.preferred(logits, expert.shape[-1])
  return Statistics(
    balance.demand(
      logits,
      noise,
      choices=expert.shape[-1],
      std=std / number,
      weight=weight,
    ),
    (square * weight).sum(),
    sums(chosen),
    sums(preferred),
    sums(gates.sum(1)),
    sums(balance.salience(gates, norms)),
    (lost * weight).sum(),
    (entropy * weight).sum(),
    weight.sum(),
  )
