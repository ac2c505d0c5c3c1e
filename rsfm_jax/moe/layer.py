"""One set of experts in place of an FFN (SkySense V2, V-MoE, Swin-MoE)."""

import functools
from typing import NamedTuple

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
from rsfm_jax.nn import remat
from rsfm_jax.sharding import mesh as meshes

Array = jax.Array
P = PartitionSpec


class Statistics(NamedTuple):
  """Sums over the counting tokens of a call, on all devices.

  They add up over sensors (`jax.tree.map(operator.add, ...)`). Only `demand`
  and `z` have gradients.

  Attributes:
    demand: see `balance.Demand`.
    z: of logsumexp(logits)^2, f32[].
    chosen: choices per expert, before dropping, f32[E].
    dropped: choices beyond the capacity, f32[].
    entropy: of the tokens' distributions over the experts in nats, f32[].
    tokens: f32[].
  """

  demand: balance.Demand
  z: Array
  chosen: Array
  dropped: Array
  entropy: Array
  tokens: Array


class MoE(nnx.Module):
  """y = sum over the K most probable experts of p_e(x) FFN_e(x).

  SkySense V2, Eq. 2: a linear router without bias, its probabilities as
  gates, not divided by their sum. With one expert it is the dense FFN.
  Parameters: routed/{router, w_in, b_in, w_out, b_out}; see
  `experts.RoutedExperts`.
  """

  def __init__(
    self,
    dim: int,
    hidden: int,
    number: int,
    *,
    key: Array,
    std: float | None = linear.DEFAULT_STD,
  ):
    self.routed = experts.RoutedExperts(dim, hidden, number, key=key, std=std)

  def __call__(
    self,
    x: Array,
    *,
    options: experts.Options,
    key: Array | None = None,
    valid: Array | None = None,
    groups: int | None = None,
    placement: expert_parallel.Placement | None = None,
  ) -> tuple[Array, Statistics]:
    """x: [B, ..., D] -> ([B, ..., D], sums over its tokens).

    Args:
      x: tokens of B images.
      options: how they are routed.
      key: in training, for the gates' noise; None for none.
      valid: bool[B], images that count. The others are computed where slots
        are left, and are in no sum.
      groups: capacity is counted in this many equal slices of the batch; None
        makes one per device that holds samples.
      placement: where samples and experts live on a mesh; B is cut over it.
    """
    shards = placement.shards if placement else 1
    groups = _check_groups(groups, shards, len(x))
    noise = None
    if key is not None and options.gate_noise:
      # Drawn for the whole batch: the same on any number of devices.
      number = self.routed.router.shape[-1]
      key = rng.named(key, 'gate_noise')
      noise = jax.random.normal(key, (*x.shape[:-1], number))
      noise *= options.gate_noise / number
    run = functools.partial(_forward, options=options, groups=groups // shards)
    weights = self.routed.weights
    if placement is None:
      return run(weights, x, noise, valid, axes=expert_parallel.LOCAL)
    mesh = placement.mesh
    axes = placement.axes._replace(sensors=None)
    weights = jax.tree.map(lambda w: w.astype(x.dtype), weights)
    weights = weights._replace(router=self.routed.weights.router)
    rows = _rows(weights, mesh)
    batch = P(meshes.BATCH_AXES)
    return jax.shard_map(
      lambda weights, *a: run(weights.whole(rows), *a, axes=axes),
      mesh=mesh,
      in_specs=(
        experts.Weights.specs(None, 'expert', rows),
        batch,
        None if noise is None else batch,
        None if valid is None else batch,
      ),
      out_specs=(batch, P()),
      # Loops and kernels of the grouped products do not carry it.
      check_vma=options.engine != 'dropless',
    )(weights, x, noise, valid)


def _check_groups(groups: int | None, shards: int, images: int) -> int:
  groups = shards if groups is None else groups
  if groups % shards or images % groups:
    raise ValueError(
      f'model.routing_groups={groups} must be a multiple of the {shards} '
      f'devices that hold samples, and divide the {images} images of a '
      'sensor (dates count).'
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
  x: Array,
  noise: Array | None,
  valid: Array | None,
  *,
  options: experts.Options,
  groups: int,
  axes: expert_parallel.Axes,
) -> tuple[Array, Statistics]:
  """One device's part of the layer."""
  flat = x.reshape(-1, x.shape[-1])
  per_image = len(flat) // len(x)
  if noise is not None:
    noise = noise.reshape(len(flat), -1)
  if valid is not None:
    valid = jnp.repeat(valid, per_image, total_repeat_length=len(flat))
  cut = routing.TokenGroups.cut([(0, len(flat))], slices=groups)
  sent = experts.send(
    flat, weights, cut, options, axes, noise=noise, valid=valid
  )
  y = experts.compute(flat, sent, weights, cut, axes)
  sums = _statistics(sent, noise, valid, options)
  if axes.batch:
    sums = jax.lax.psum(sums, axes.batch)
  return remat.kept(axes.total(y)).reshape(x.shape), sums


def _statistics(
  sent: experts.Routed,
  noise: Array | None,
  valid: Array | None,
  options: experts.Options,
) -> Statistics:
  """Sums over the tokens of one device."""
  number = sent.logits.shape[-1]
  weight = jnp.ones(len(sent.logits)) if valid is None else valid
  weight = weight.astype(jnp.float32)
  still = jax.lax.stop_gradient
  probs = still(sent.routing.probs)
  chosen = jax.nn.one_hot(sent.routing.expert, number).sum(1)
  entropy = -jax.scipy.special.xlogy(probs, probs).sum(-1)
  lost = sent.dropped.sum(-1, dtype=jnp.float32)
  square = jnp.square(jax.nn.logsumexp(sent.logits, axis=-1))
  return Statistics(
    balance.demand(
      sent.logits,
      noise,
      choices=sent.routing.expert.shape[-1],
      std=options.gate_noise / number,
      weight=weight,
    ),
    (square * weight).sum(),
    (chosen * weight[:, None]).sum(0),
    (lost * weight).sum(),
    (entropy * weight).sum(),
    weight.sum(),
  )
