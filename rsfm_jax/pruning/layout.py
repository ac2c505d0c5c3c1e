"""Where a model keeps its routers, experts and blocks: one adapter a system.

All that pruning knows of RingMoE, SkySense V2 and MAPEX-style models stands
here; usage, keep
rules, surgery and integration work on layers by name.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.models import build
from rsfm_jax.models import mapex_spec
from rsfm_jax.models import ringmoe
from rsfm_jax.models import skysense_v2_spec
from rsfm_jax.nn import swin

Array = jax.Array
Spec = Any
Kept = Mapping[str, np.ndarray] | None


class Layer(NamedTuple):
  """A router and its experts.

  Attributes:
    branch: name of its parameters in the FFN of a block.
    block: place of the block in the model; of the unit of blocks, where such
      units are stacked (MAPEX-style).
    experts: of each set.
    row: of the layer in what the model reports about the branch.
    by_sensor: whether every sensor has a set of its own, router included.
  """

  branch: str
  block: int
  experts: int
  row: int
  by_sensor: bool

  @property
  def name(self) -> str:
    return f'{self.branch}/{self.block}'

  def sets(self, sensors: int) -> int:
    return sensors if self.by_sensor else 1


class Place(NamedTuple):
  """Of a block: the stack that holds its parameters, and the row there."""

  stack: str
  row: int


class Means(NamedTuple):
  """Over the tokens of each sensor of a batch, [L, M, E] of a branch.

  Attributes:
    share: tokens whose top-K holds the expert.
    gate: weight of the expert's output, 0 where it was not chosen.
    mass: probability.
    salience: weight x length of the output.
  """

  share: Array
  gate: Array
  mass: Array
  salience: Array


class System(NamedTuple):
  """What is particular to one kind of model.

  Attributes:
    layers: of a spec, in the order of the blocks.
    blocks: of a spec, the place of every block.
    shrink: (spec, sensors, {layer name: i64[S, K]} or None for no routers)
      -> the smaller spec.
    means: (spec, aux of a forward pass) -> {branch: Means}.
    branches: those that keep rules apply to unless told otherwise.
    ffn: name of the FFN in a block.
    dense: name of the FFN that a block without a router has.
    joint: whether sensors see each other, so that feeding them together is
      another thing than feeding them alone.
  """

  layers: Callable[[Spec], tuple[Layer, ...]]
  blocks: Callable[[Spec], tuple[Place, ...]]
  shrink: Callable[..., Spec]
  means: Callable[[Spec, Any], dict[str, Means]]
  branches: tuple[str, ...]
  ffn: str
  dense: str
  joint: bool = False


def of(spec: Spec) -> System:
  """The adapter of a spec."""
  for kind, (spec_type, _) in build.MODELS.items():
    if isinstance(spec, spec_type):
      return SYSTEMS[kind]
  raise AssertionError(type(spec))


def layers(spec: Spec, branches: tuple[str, ...] | None = None):
  """The layers of some branches; None for all.

  Raises:
    ValueError: a branch that the model does not have.
  """
  found = of(spec).layers(spec)
  known = tuple(dict.fromkeys(layer.branch for layer in found))
  for branch in branches or ():
    choices.check(branch, known, key='--branches')
  return tuple(x for x in found if branches is None or x.branch in branches)


def _stacked(stage: int, runs: Mapping[str, tuple[int, int]]):
  for name, (start, stop) in runs.items():
    for row in range(stop - start):
      yield Place(f'stage_{stage}/{name}', row)


# RingMoE: in every block specialised and collaborative experts.


def _ringmoe_layers(spec: ringmoe.RingMoESpec) -> tuple[Layer, ...]:
  every = [c for i in range(len(spec.depths)) for c in spec.counts(i)]
  return tuple(
    Layer(branch, block, count, block, branch == 'specialised')
    for block, counts in enumerate(every)
    for branch, count in zip(ringmoe.BRANCHES, counts, strict=True)
    if count
  )


def _ringmoe_blocks(spec: ringmoe.RingMoESpec) -> tuple[Place, ...]:
  return tuple(
    place
    for i in range(len(spec.depths))
    for place in _stacked(i, swin.run_names(spec.counts(i)))
  )


def _ringmoe_shrink(
  spec: ringmoe.RingMoESpec,
  sensors: tuple[str, ...],
  kept: Kept,
) -> ringmoe.RingMoESpec:
  of_branch = lambda branch: tuple(
    _count(kept, branch, block, 0) for block in range(sum(spec.depths))
  )
  return dataclasses.replace(
    spec,
    **_sensors(spec, sensors, ('channels',)),
    **{branch: of_branch(branch) for branch in ringmoe.BRANCHES},
  )


def _ringmoe_means(spec: ringmoe.RingMoESpec, aux: Any) -> dict[str, Means]:
  out = {}
  for branch in ringmoe.BRANCHES:
    load, gate, mass, salience = (
      getattr(aux, f'{branch}_{what}')
      for what in ('load', 'gate', 'mass', 'salience')
    )
    # Shares of choices -> of tokens.
    choices_ = min(spec.choices, max(load.shape[-1], 1))
    out[branch] = Means(load * choices_, gate, mass, salience)
  return out


# SkySense V2: one set of experts for all sensors, in some blocks.


def _skysense_layers(
  spec: skysense_v2_spec.SkySenseV2Spec,
) -> tuple[Layer, ...]:
  return tuple(
    Layer('routed', block, count, row, by_sensor=False)
    for row, (block, count) in enumerate(spec.routed.items())
  )


def _skysense_blocks(
  spec: skysense_v2_spec.SkySenseV2Spec,
) -> tuple[Place, ...]:
  return tuple(
    Place(f'stage_{i}/{run.name}', row)
    for i in range(len(spec.depths))
    for run in skysense_v2_spec.runs(spec, i)
    for row in range(run.depth)
  )


def _skysense_shrink(
  spec: skysense_v2_spec.SkySenseV2Spec,
  sensors: tuple[str, ...],
  kept: Kept,
) -> skysense_v2_spec.SkySenseV2Spec:
  changes = _sensors(spec, sensors, ('channels', 'reduces', 'image_sizes'))
  if spec.experts:
    blocks = spec.moe_blocks
    changes['experts'] = tuple(_count(kept, 'routed', b, 1) for b in blocks)
  return dataclasses.replace(spec, **changes)


def _one_set_means(spec: Spec, aux: Any) -> dict[str, Means]:
  """Of models whose sensors share all experts."""
  if aux is None:
    return {}
  like = jax.tree.map(jnp.zeros_like, next(iter(aux.values())))
  rows = [aux.get(sensor, like) for sensor in spec.sensors]
  rows = jax.tree.map(lambda *a: jnp.stack(a, 1), *rows)
  tokens = jnp.maximum(rows.tokens, 1)[..., None]
  sums = (rows.chosen, rows.gate, rows.demand.importance, rows.salience)
  return {'routed': Means(*(x / tokens for x in sums))}


# MAPEX-style: one set of experts in every n-th block; routers know the sensor.


def _mapex_layers(spec: mapex_spec.MapexSpec) -> tuple[Layer, ...]:
  routed = [(i, n) for i, n in enumerate(spec.experts) if n > 1]
  return tuple(
    Layer('routed', unit, count, row, by_sensor=False)
    for row, (unit, count) in enumerate(routed)
  )


def _mapex_blocks(spec: mapex_spec.MapexSpec) -> tuple[Place, ...]:
  return tuple(
    Place(run.name, row)
    for run in mapex_spec.runs(spec)
    for row in range(run.units)
  )


def _mapex_shrink(
  spec: mapex_spec.MapexSpec, sensors: tuple[str, ...], kept: Kept
) -> mapex_spec.MapexSpec:
  changes = _sensors(spec, sensors, ('channels',))
  changes['experts'] = tuple(
    _count(kept, 'routed', unit, 1) for unit in range(len(spec.experts))
  )
  if spec.conditioning != 'partition':
    return dataclasses.replace(spec, **changes)
  places = [spec.sensors.index(s) for s in changes['sensors']]
  rows = []
  for unit, count in enumerate(changes['experts']):
    left = (kept or {}).get(f'routed/{unit}', np.zeros((1, 1)))[0].tolist()
    if count == 1:
      rows.append(((0,),) * len(places))
      continue
    every = spec.partition_of(unit)
    rows.append(
      tuple(tuple(left.index(e) for e in every[m] if e in left) for m in places)
    )
  dealt = dataclasses.replace(spec, **changes, partition=None)
  if all(dealt.partition_of(i) == row for i, row in enumerate(rows)):
    return dealt
  return dataclasses.replace(spec, **changes, partition=tuple(rows))


def _count(kept: Kept, branch: str, block: int, absent: int) -> int:
  """Experts that a layer keeps; `absent` where it has no router."""
  rows = (kept or {}).get(f'{branch}/{block}')
  return absent if rows is None else rows.shape[1]


def _sensors(
  spec: Spec, sensors: tuple[str, ...], fields: tuple[str, ...]
) -> dict[str, tuple]:
  """The spec's fields that have one entry per sensor."""
  kept = np.flatnonzero([s in sensors for s in spec.sensors])
  return {
    field: tuple(getattr(spec, field)[i] for i in kept)
    for field in ('sensors', *fields)
  }


SYSTEMS: dict[str, System] = {
  'ringmoe': System(
    _ringmoe_layers,
    _ringmoe_blocks,
    _ringmoe_shrink,
    _ringmoe_means,
    branches=('collaborative',),
    ffn='ffn',
    dense='ffn/shared',
  ),
  'skysense_v2': System(
    _skysense_layers,
    _skysense_blocks,
    _skysense_shrink,
    _one_set_means,
    branches=('routed',),
    ffn='ffn',
    dense='ffn',
  ),
  'mapex': System(
    _mapex_layers,
    _mapex_blocks,
    _mapex_shrink,
    _one_set_means,
    branches=('routed',),
    ffn='last/ffn',
    dense='last/ffn',
    joint=True,
  ),
}
