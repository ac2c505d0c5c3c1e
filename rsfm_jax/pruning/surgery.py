"""Smaller models from trained ones, complete with their specs.

A plan says, for every array of the smaller model, from which pieces of the old
one it is put together. The same plan works on parameters in memory and on
arrays that are read from disk expert by expert; keeping everything names every
array whole, so that no bit changes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.pruning import keep as keep_lib
from rsfm_jax.pruning import layout
from rsfm_jax.pruning import merge
from rsfm_jax.pruning import pieces
from rsfm_jax.pruning import usage as usage_lib

Fold = Literal['mean_gate', 'none']
FOLDS = ('mean_gate', 'none')
EXPERT_LEAVES = ('w_in', 'b_in', 'w_out', 'b_out')
# The axis of hidden units; None where outputs add up.
_HIDDEN = {'w_in': 1, 'b_in': 0, 'w_out': 0, 'b_out': None}


class Pruned(NamedTuple):
  """A smaller model that is not put together yet.

  Attributes:
    spec: of the smaller model.
    leaves: {name: pieces of the old model's arrays}.
    record: what was done, JSON.
  """

  spec: Any
  leaves: dict[str, pieces.Leaf]
  record: dict[str, Any]

  def params(self, params: trees.Tree) -> trees.Tree:
    """The smaller model's parameters, from those of the old one."""
    source = trees.flatten(params)
    return trees.unflatten(
      {name: leaf.array(source) for name, leaf in self.leaves.items()}
    )


def plan(
  spec: Any,
  source: Mapping[str, Any],
  *,
  sensors: Sequence[str] | None = None,
  kept: keep_lib.Keep | None = None,
  usage: usage_lib.Usage | None = None,
  fold: Fold = 'mean_gate',
  dense: merge.How | None = None,
) -> Pruned:
  """What a smaller model is made of.

  Sensors: patch embeds, prompts, tables, decoders and specialised experts of
  the others go; outputs of those that stay do not change at all.

  Experts: with probabilities as gates, a router over fewer experts gives the
  kept ones all the probability. 'mean_gate' scales their output layers by what
  was measured: several left, by the mean of their probabilities together; one
  left, by its mean gate on its own tokens (MAPEX-style DEFAULT). 'none' leaves
  them. A single expert of SkySense V2 or MAPEX loses its router: the block is
  dense. Which of the two RingMoE's expert pruning does is NOT FOUND.

  Args:
    spec: of the model.
    source: {name: array} of its parameters; only `shape` and `dtype` are read.
    sensors: that stay; None for all.
    kept: see `keep`; None for all experts.
    usage: of this model on calibration data; needed to fold and to merge.
    fold: see above.
    dense: merges the kept experts of every block into one FFN; see `merge`.

  Raises:
    ValueError: an unknown sensor, a keep set that does not fit, no usage.
  """
  for sensor in sensors or ():
    choices.check(sensor, spec.sensors, key='--sensors')
  choices.check(fold, FOLDS, key='--fold')
  sensors = tuple(s for s in spec.sensors if sensors is None or s in sensors)
  if kept is None:
    kept = keep_lib.everything(spec, sensors)
  keep_lib.check(kept, spec, sensors)
  if usage is not None:
    usage.check(spec)
  system = layout.of(spec)
  if dense is not None:
    merge.check(spec, sensors, usage, dense)
    scale = None
  else:
    scale = _scales(spec, sensors, kept, usage, fold)
  new = system.shrink(spec, sensors, None if dense else kept)
  cutter = _Cutter(spec, new, source, sensors, kept, usage, dense, scale)
  record = {
    'operation': 'prune',
    'sensors': list(sensors),
    'kept': {name: rows.tolist() for name, rows in kept.items()},
    'fold': fold,
    'dense': dense,
    'scale': scale and {name: s.tolist() for name, s in scale.items()},
  }
  return Pruned(new, cutter.leaves(), record)


def _scales(
  spec: Any,
  sensors: tuple[str, ...],
  kept: keep_lib.Keep,
  usage: usage_lib.Usage | None,
  fold: Fold,
) -> dict[str, np.ndarray]:
  """{layer: f64[S]}, what output layers are multiplied by."""
  out = {}
  for layer in layout.layers(spec):
    rows = kept[layer.name]
    out[layer.name] = np.ones(len(rows))
    folds = fold == 'mean_gate' and getattr(spec, 'gate', 'prob') == 'prob'
    if not folds or rows.shape[1] == layer.experts:
      continue
    if usage is None:
      raise ValueError(
        f'--fold mean_gate needs usage of {layer.name}: --calibration STORE, '
        'or --usage FILE, or --fold none.'
      )
    groups = [(s,) for s in sensors] if layer.by_sensor else [sensors]
    for i, group in enumerate(groups):
      measured = [s for s in group if usage.images[usage.sensors.index(s)]]
      found = usage.pooled(layer.name, measured or group)
      out[layer.name][i] = _weight(found, rows[i])
  return out


def _weight(found: usage_lib.LayerUsage, row: np.ndarray) -> float:
  """The mean weight that the kept experts' outputs had together."""
  if len(row) > 1:
    return float(found.mass[0, row].sum())
  if found.share[0, row[0]] > 0:
    return float(found.gate[0, row[0]])
  # Nobody chose it: the weight of whatever was chosen.
  return float((found.share * found.gate).sum())


class _Cutter(NamedTuple):
  """Finds the pieces of every array; see `plan`."""

  spec: Any
  new: Any
  source: Mapping[str, Any]
  sensors: tuple[str, ...]
  kept: keep_lib.Keep
  usage: usage_lib.Usage | None
  dense: merge.How | None
  scale: dict[str, np.ndarray] | None

  def leaves(self) -> dict[str, pieces.Leaf]:
    out = {}
    stacks = self._stacks()
    abstract = trees.flatten(build.build(self.new).abstract)
    for name, leaf in abstract.items():
      stack = next((s for s in stacks if name.startswith(f'{s}/')), None)
      if stack is None:
        found = (pieces.Cut(name),)
      else:
        rest = name.removeprefix(f'{stack}/')
        found = tuple(
          piece
          for block in stacks[stack]
          for piece in self._pieces(block, rest)
        )
      found = self._whole(name, leaf.shape, found)
      dtype = self.source[found[0].origin].dtype
      out[name] = pieces.Leaf(tuple(leaf.shape), dtype, found)
    return out

  def _stacks(self) -> dict[str, list[int]]:
    """{stack of the new model: its blocks}."""
    out: dict[str, list[int]] = {}
    for block, place in enumerate(layout.of(self.new).blocks(self.new)):
      out.setdefault(place.stack, []).append(block)
    return out

  def _pieces(self, block: int, rest: str) -> list[pieces.Piece]:
    """Of one block and one array, in the order of memory."""
    system = layout.of(self.spec)
    stack, row = system.blocks(self.spec)[block]
    branch, _, leaf = rest.rpartition('/')
    mine = [x for x in system.layers(self.spec) if x.block == block]
    ffn = f'{stack}/{system.ffn}'
    if branch == system.dense and leaf in EXPERT_LEAVES and mine:
      if self.dense is not None:
        merged = merge.piece(
          self.spec, f'{stack}/', row, leaf, mine,
          kept=self.kept, usage=self.usage, how=self.dense,
          sensors=self.sensors, source=self.source,
        )  # fmt: skip
        return [self._with_shared(merged, ffn, row, leaf)]
      if f'{stack}/{rest}' not in self.source:
        (only,) = self._experts(mine[0], ffn, row, leaf)
        return [self._with_shared(only, ffn, row, leaf)]
    for layer in mine:
      if rest == f'{system.ffn}/router_bias':
        return self._routers(layer, f'{ffn}/router_bias', row, ndim=1)
      if branch == f'{system.ffn}/{layer.branch}':
        if leaf == 'router':
          return self._routers(layer, f'{stack}/{rest}', row, ndim=2)
        return self._experts(layer, ffn, row, leaf)
    return [pieces.Cut(f'{stack}/{rest}', (row,))]

  def _experts(
    self, layer: layout.Layer, ffn: str, row: int, leaf: str
  ) -> list[pieces.Piece]:
    name, out = f'{ffn}/{layer.branch}/{leaf}', []
    for i, chosen in enumerate(self.kept[layer.name]):
      lead = (row,)
      if layer.by_sensor:
        lead += (self.spec.sensors.index(self.sensors[i]),)
      scale = 1.0
      if leaf in ('w_out', 'b_out'):
        scale = float(self.scale[layer.name][i])
      out += [pieces.Cut(name, (*lead, int(e)), scale=scale) for e in chosen]
    return out

  def _routers(
    self, layer: layout.Layer, name: str, row: int, *, ndim: int
  ) -> list[pieces.Piece]:
    """Columns of a router [.., D, E] or bias [.., E], of every sensor's own."""
    kept = [tuple(chosen.tolist()) for chosen in self.kept[layer.name]]
    if len(self.source[name].shape) == 1 + ndim:
      return [pieces.Cut(name, (row,), kept[0])]
    if not layer.by_sensor:
      kept *= len(self.sensors)
    places = [self.spec.sensors.index(s) for s in self.sensors]
    return [
      pieces.Cut(name, (row, m), columns)
      for m, columns in zip(places, kept, strict=True)
    ]

  def _with_shared(
    self, piece: pieces.Piece, ffn: str, row: int, leaf: str
  ) -> pieces.Piece:
    """An FFN that all tokens pass beside the routed ones joins the one left.

    Two FFNs that add up are one of twice the width.
    """
    name = f'{ffn}/shared/{leaf}'
    own = layout.of(self.spec).dense
    if name not in self.source or own.endswith('shared'):
      return piece
    return pieces.Side((pieces.Cut(name, (row,)), piece), _HIDDEN[leaf])

  def _whole(
    self, name: str, shape: tuple[int, ...], found: tuple[pieces.Piece, ...]
  ) -> tuple[pieces.Piece, ...]:
    """An array that does not change is named once."""
    if name not in self.source or tuple(self.source[name].shape) != shape:
      return found
    if not all(isinstance(p, pieces.Cut) and p.scale == 1 for p in found):
      return found
    places = [p.index for p in found if p.origin == name]
    lead = len(found[0].index)
    grid = list(np.ndindex(*shape[:lead]))
    columns = tuple(range(shape[-1]))
    same = places == grid and len(found) == len(grid)
    if same and all(p.columns in (None, columns) for p in found):
      return (pieces.Cut(name),)
    return found
