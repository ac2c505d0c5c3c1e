"""Smaller RingMoE models from a trained one, complete with their specs.

All surgery is on the nested dict of parameters and the spec; what it returns
is a whole model that `models.build` knows.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.core import trees
from rsfm_jax.models import ringmoe
from rsfm_jax.pruning import usage as usage_lib

Tree = Any
Fold = Literal['mean_gate', 'none']
EXPERT_LEAVES = ('w_in', 'b_in', 'w_out', 'b_out')


class Pruned(NamedTuple):
  """A model: its spec, its parameters and what was done to get it."""

  spec: ringmoe.RingMoESpec
  params: Tree
  record: dict[str, Any]


def extract(
  spec: ringmoe.RingMoESpec, params: Tree, sensors: Sequence[str]
) -> Pruned:
  """Keeps what some sensors use; their outputs do not change at all.

  Other sensors' patch embeds, specialised experts, routers and decoders go;
  14.7 B becomes 6.5 B for one sensor (RingMoE, as its readers report).

  Raises:
    ValueError: a sensor that the model does not have.
  """
  for sensor in sensors:
    choices.check(sensor, spec.sensors, key='--sensors')
  kept = [s for s in spec.sensors if s in sensors]
  rows = np.array([spec.sensors.index(s) for s in kept])
  new = dataclasses.replace(
    spec, sensors=tuple(kept), channels=tuple(spec.channels[i] for i in rows)
  )
  flat = {}
  for name, leaf in trees.flatten(params).items():
    part, _, rest = name.partition('/')
    if part in ('embed', 'decoder') and rest.split('/')[0] not in kept:
      continue
    flat[name] = leaf[:, rows] if '/specialised/' in name else leaf
  return Pruned(
    new, trees.unflatten(flat), {'operation': 'extract', 'sensors': kept}
  )


def most_used(
  measured: usage_lib.Usage, sensors: Sequence[int], *, keep: int
) -> np.ndarray:
  """The collaborative experts that are used most, i64[L, keep], ascending.

  Usage is summed over the given sensors, each with its measured images.
  """
  weights = measured.images[list(sensors)].astype(np.float64)
  load = np.tensordot(
    measured.collaborative_load[:, list(sensors)], weights, ((1,), (0,))
  )
  order = np.argsort(-load, axis=-1, kind='stable')[:, :keep]
  return np.sort(order, axis=-1)


def prune_collaborative(
  spec: ringmoe.RingMoESpec,
  params: Tree,
  kept: np.ndarray,
  *,
  measured: usage_lib.Usage | None = None,
  fold: Fold = 'mean_gate',
) -> Pruned:
  """Keeps some collaborative experts per block and their router columns.

  With `gate='prob'` a router over fewer experts gives the kept ones all the
  probability, so their outputs grow by 1 / (mass that was kept). 'mean_gate'
  scales their output layer by the measured mean of that mass; 'none' leaves
  it. Which RingMoE's expert pruning does is NOT FOUND.

  Args:
    spec: of the model.
    params: of the model.
    kept: i64[L, K] expert indices per block, as of `most_used`; all of them
      changes nothing.
    measured: usage of this model on calibration data; needed to fold.
    fold: see above.

  Raises:
    ValueError: an index out of range, or no usage to fold with.
  """
  kept = np.asarray(kept)
  if kept.min() < 0 or kept.max() >= spec.collaborative:
    raise ValueError(
      f'kept experts {np.unique(kept).tolist()} must be in '
      f'0..{spec.collaborative - 1}.'
    )
  scale = np.ones(len(kept))
  folds = fold == 'mean_gate' and spec.gate == 'prob'
  if folds and kept.shape[1] < spec.collaborative:
    if measured is None:
      raise ValueError("fold='mean_gate' needs measured usage.")
    weights = measured.images / measured.images.sum()
    mass = np.tensordot(measured.collaborative_mass, weights, ((1,), (0,)))
    scale = np.take_along_axis(mass, kept, axis=1).sum(1)
  flat = dict(trees.flatten(params))
  for stage, layers in layers_of(spec).items():
    base = f'{stage}/blocks/ffn/collaborative'
    rows = jnp.asarray(kept[layers])
    for leaf in EXPERT_LEAVES:
      value = _take(flat[f'{base}/{leaf}'], rows, axis=1)
      if leaf in ('w_out', 'b_out') and np.any(scale[layers] != 1):
        value = value * _lead(scale[layers], value)
      flat[f'{base}/{leaf}'] = value
    flat[f'{base}/router'] = _take(flat[f'{base}/router'], rows, axis=2)
  new = dataclasses.replace(spec, collaborative=kept.shape[1])
  return Pruned(
    new,
    trees.unflatten(flat),
    {
      'operation': 'prune_collaborative',
      'kept': kept.tolist(),
      'fold': fold,
      'scale': scale.tolist(),
    },
  )


def layers_of(spec: ringmoe.RingMoESpec) -> dict[str, slice]:
  """Which rows of per-layer arrays belong to each stage."""
  stops = np.cumsum(spec.depths).tolist()
  return {
    f'stage_{i}': slice(stop - depth, stop)
    for i, (depth, stop) in enumerate(zip(spec.depths, stops, strict=True))
  }


def _take(value, rows, *, axis: int):
  """value[l] indexed by rows[l] along `axis` (counted with L)."""
  shape = [1] * value.ndim
  shape[0], shape[axis] = rows.shape
  return jnp.take_along_axis(jnp.asarray(value), rows.reshape(shape), axis)


def _lead(scale: np.ndarray, value):
  shape = (-1,) + (1,) * (value.ndim - 1)
  return jnp.asarray(scale, value.dtype).reshape(shape)
