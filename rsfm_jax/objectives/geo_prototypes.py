"""Prototypes of regions: geo-context prototype learning (GCPL).

SkySense V2 (arXiv 2507.13812), Eq. 13-15: each of R regions has Np vectors.
Features of a sample are assigned to those of its region by Sinkhorn-Knopp on
cosines, the means under the assignment pull the prototypes along. They are
state, not parameters: no gradient reaches them, and downstream they are
frozen. How they are looked up and enter features: `models.geo_context`.

Which place is in which region: `sensors.regions`. 4,096 regions of 100
prototypes are the paper's; momentum and temperature are NOT FOUND in it.
DEFAULT: 0.999 and 0.05.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.models import geo_context
from rsfm_jax.objectives import sinkhorn
from rsfm_jax.sensors import regions as regions_lib

Array = jax.Array

MOMENTUM = 0.999


class Sums(NamedTuple):
  """What one batch says about the regions; adds up over batches and devices.

  Attributes:
    total: f32[R, Np, dp], new prototypes summed over the samples of a region.
    count: f32[R], how many samples those are.
  """

  total: Array
  count: Array


def check_regions(region: np.ndarray, regions: int) -> np.ndarray:
  """Returns `region` as i32 if all are in [-1, R), else raises.

  For where numbers come from files. On device, numbers outside are ignored.

  Raises:
    ValueError: a number that is no region.
  """
  region = np.asarray(region)
  wrong = (region < regions_lib.UNKNOWN) | (region >= regions)
  if wrong.any():
    raise ValueError(
      f'region={region[wrong].flat[0]} is none of the {regions} regions of '
      f'the prototypes: 0 to {regions - 1}, or {regions_lib.UNKNOWN} where '
      'unknown.'
    )
  return region.astype(np.int32)


def init(key: Array, *, regions: int, prototypes: int, dim: int) -> Array:
  """f32[R, Np, dp] directions, all different; start NOT FOUND in the paper."""
  drawn = jax.random.normal(key, (regions, prototypes, dim), jnp.float32)
  return _unit(drawn)


def statistics(
  prototypes: Array,
  features: Array,
  region: Array,
  valid: Array | None = None,
  *,
  temperature: float = sinkhorn.EPSILON,
  iterations: int = sinkhorn.ITERATIONS,
) -> Sums:
  """What the features of a batch make of the prototypes (Eq. 13 and 14).

  Args:
    prototypes: f32[R, Np, dp].
    features: [B, n, dp] vectors of a sample's places, of any dtype.
    region: i32[B]; samples outside [0, R) are skipped.
    valid: bool[B] or bool[B, n], what counts; others may hold anything.
    temperature: of the Sinkhorn-Knopp assignment.
    iterations: of the same.

  Returns:
    Sums over the batch, in float32, no gradient.
  """
  if valid is None:
    valid = jnp.ones(features.shape[:2], bool)
  elif valid.ndim == 1:
    valid = jnp.broadcast_to(valid[:, None], features.shape[:2])
  valid = valid & geo_context.is_known(prototypes, region)[:, None]
  features = jax.lax.stop_gradient(features).astype(jnp.float32)
  features = jnp.where(valid[..., None], features, 0)
  found = geo_context.lookup(prototypes, region)
  cosine = jnp.einsum('bnd,bpd->bnp', _unit(features), _unit(found))
  assignment = sinkhorn.sinkhorn(
    cosine, temperature=temperature, iterations=iterations, weights=valid
  )
  shares = sinkhorn.columns_to_one(assignment, valid)
  new = jnp.einsum('bnp,bnd->bpd', shares, features)
  index = jnp.where(valid.any(1), region, prototypes.shape[0])
  add = lambda shape, rows: (
    jnp.zeros(shape, jnp.float32).at[index].add(rows, mode='drop')
  )
  count = add(prototypes.shape[:1], jnp.ones(index.shape, jnp.float32))
  return Sums(add(prototypes.shape, new), count)


def update(
  prototypes: Array, sums: Sums, *, momentum: float | Array = MOMENTUM
) -> Array:
  """P = m P + (1 - m) mean of the samples seen (Eq. 15); others stay.

  Args:
    prototypes: f32[R, Np, dp].
    sums: of `statistics`, added up or averaged over batches.
    momentum: m.

  Returns:
    f32[R, Np, dp]; a region that was not seen keeps every bit.
  """
  count = sums.count[:, None, None]
  mean = sums.total / jnp.where(count > 0, count, 1)
  moved = momentum * prototypes + (1 - momentum) * mean
  return jnp.where(count > 0, moved, prototypes)


def _unit(x: Array) -> Array:
  """Divides by the Euclidean norm over the last axis (eps 1e-12)."""
  square = jnp.square(x).sum(-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
