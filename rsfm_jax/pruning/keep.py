"""Which experts stay: rules over measured usage, and controls.

A keep set is {layer name: i64[S, K]}, ascending expert indices; S is the number
of kept sensors where each has a set of experts of its own, else 1. Layers may
keep different numbers, but never fewer than K experts per token. Which rule
RingMoE, MAPEX and SkySense V2's Table 17 use in detail is NOT FOUND. DEFAULTS:
`pooled` for RingMoE, `random` for Table 17, and MAPEX-style `top` with n = 1 or
its alternative `mass` with 0.9.
"""

from collections.abc import Callable, Mapping, Sequence
import json
from typing import Any, Literal
import zlib

import numpy as np

from rsfm_jax.core import choices as choices_lib
from rsfm_jax.pruning import layout
from rsfm_jax.pruning import usage as usage_lib

Keep = dict[str, np.ndarray]
Criterion = Literal['share', 'gate', 'mass', 'salience']
CRITERIA = ('share', 'gate', 'mass', 'salience')
# What `--keep RULE:VALUE` understands.
RULES = ('all', 'top', 'pooled', 'mass', 'random', 'least')


def everything(spec: Any, sensors: Sequence[str]) -> Keep:
  return {
    layer.name: np.tile(np.arange(layer.experts), (layer.sets(len(sensors)), 1))
    for layer in layout.layers(spec)
  }


def choose(
  rule: str,
  spec: Any,
  sensors: Sequence[str],
  *,
  usage: usage_lib.Usage | None = None,
  branches: tuple[str, ...] | None = None,
  by: Criterion = 'share',
  seed: int = 0,
) -> Keep:
  """The keep set of a rule.

  Args:
    rule: 'all'; 'top:n', the union over the sensors of the n best experts of
      each; 'pooled:n', the n best of all sensors together (RingMoE's expert
      pruning); 'mass:q', the union of each sensor's smallest sets that hold a
      share q of its use; controls 'least:n' and 'random:n', as `pooled`.
    spec: of the model.
    sensors: that stay.
    usage: of this model; 'all' and 'random' need none.
    branches: those that the rule cuts; None for the system's default.
    by: what makes an expert good; ties go by its gate, then by its index.
    seed: of 'random'.

  Raises:
    ValueError: an unknown rule, a value that makes no sense, no usage, or a
      sensor that was not measured.
  """
  name, _, text = rule.partition(':')
  choices_lib.check(name, RULES, key='--keep')
  choices_lib.check(by, CRITERIA, key='--by')
  kept = everything(spec, sensors)
  if name == 'all':
    return kept
  value = _value(name, text)
  if usage is None and name != 'random':
    raise ValueError(
      f'--keep {rule} needs usage: --calibration STORE or --usage FILE.'
    )
  if branches is None:
    branches = layout.of(spec).branches
  least = spec.choices
  for layer in layout.layers(spec, branches):
    if name == 'random':
      rows = [
        _shuffled(layer, seed, i) for i in range(layer.sets(len(sensors)))
      ]
      counts = [int(value)] * len(rows)
    else:
      groups = [[s] for s in sensors]
      if name in ('pooled', 'least') and not layer.by_sensor:
        groups = [list(sensors)]
      found = [usage.pooled(layer.name, group) for group in groups]
      rows = [_ranked(of, by, reverse=name == 'least') for of in found]
      counts = [
        _enough(getattr(of, _mass_of(by))[0][row], value)
        if name == 'mass'
        else int(value)
        for of, row in zip(found, rows, strict=True)
      ]
    kept[layer.name] = _joined(layer, rows, counts, least)
  return kept


def like(
  kept: Keep,
  spec: Any,
  *,
  order: Callable[[layout.Layer, int], np.ndarray],
) -> Keep:
  """As many experts per layer as another keep set, in another order.

  Args:
    kept: whose numbers are taken.
    spec: of the model.
    order: (layer, set) -> i64[E], best first.
  """
  return {
    layer.name: np.stack(
      [
        np.sort(order(layer, i)[: kept[layer.name].shape[1]])
        for i in range(len(kept[layer.name]))
      ]
    )
    for layer in layout.layers(spec)
  }


def controls(
  kept: Keep,
  spec: Any,
  sensors: Sequence[str],
  usage: usage_lib.Usage,
  *,
  seed: int = 0,
) -> dict[str, Keep]:
  """{'random', 'least used'}: keep sets of equal sizes, to compare with."""

  def least(layer: layout.Layer, index: int) -> np.ndarray:
    group = [sensors[index]] if layer.by_sensor else list(sensors)
    found = usage.pooled(layer.name, group)
    return _ranked(found, 'share', reverse=True)

  shuffled = lambda layer, index: _shuffled(layer, seed, index)
  return {
    'random': like(kept, spec, order=shuffled),
    'least used': like(kept, spec, order=least),
  }


def explicit(
  given: Mapping[str, Any], spec: Any, sensors: Sequence[str]
) -> Keep:
  """A keep set from JSON: {layer: [experts] or [[experts] per sensor]}.

  Layers that are not named keep all.

  Raises:
    ValueError: a layer or an expert that does not exist, one named twice, too
      few, or sets of different sizes in one layer.
  """
  kept = everything(spec, sensors)
  if not isinstance(given, Mapping):
    raise ValueError(
      'a keep set is a JSON object {layer: [experts]}, not '
      f'{json.dumps(given)[:80]}.'
    )
  known = [layer.name for layer in layout.layers(spec)]
  for name, rows in given.items():
    choices_lib.check(name, known, key='layer of the keep set')
    nested = [rows] if not any(isinstance(r, list) for r in rows) else rows
    try:
      value = np.array(nested, np.int64)
    except (ValueError, TypeError) as error:
      raise ValueError(
        f'keep set of {name}: {rows} is no list of experts, or lists of '
        'different lengths.'
      ) from error
    kept[name] = value
  check(kept, spec, sensors)
  return {name: np.sort(rows, axis=1) for name, rows in kept.items()}


def check(kept: Keep, spec: Any, sensors: Sequence[str]) -> None:
  """Whether a keep set fits a model.

  Raises:
    ValueError: names the layer and what it allows.
  """
  for layer in layout.layers(spec):
    rows = kept[layer.name]
    sets = layer.sets(len(sensors))
    least = min(spec.choices, layer.experts)
    if rows.ndim != 2 or len(rows) != sets or rows.shape[1] < least:
      raise ValueError(
        f'keep set of {layer.name}: {rows.tolist()} must be {sets} list(s) of '
        f'at least {least} experts.'
      )
    for row in rows:
      bad = [e for e in row.tolist() if not 0 <= e < layer.experts]
      if bad or len(set(row.tolist())) != len(row):
        raise ValueError(
          f'keep set of {layer.name}: {row.tolist()} must be different experts '
          f'in 0..{layer.experts - 1}.'
        )


def _value(name: str, text: str) -> float:
  try:
    value = float(text)
  except ValueError:
    value = -1.0
  if name == 'mass' and not 0 < value <= 1:
    raise ValueError(f'--keep mass:{text} needs a share in (0, 1].')
  if name != 'mass' and (value < 1 or value != int(value)):
    raise ValueError(f'--keep {name}:{text} needs a number of experts, from 1.')
  return value


def _mass_of(by: Criterion) -> str:
  """What adds up to the use of a layer: choices, or probability."""
  return 'mass' if by == 'mass' else 'share'


def _ranked(
  found: usage_lib.LayerUsage, by: Criterion, *, reverse: bool
) -> np.ndarray:
  """i64[E], best first, or worst first."""
  best, tie = getattr(found, by)[0], found.gate[0]
  index = np.arange(len(best))
  if reverse:
    return np.lexsort((index, tie, best))
  return np.lexsort((index, -tie, -best))


def _enough(share: np.ndarray, part: float) -> int:
  """How many of the best hold `part` of the use."""
  total = np.cumsum(share)
  return int(np.searchsorted(total, part * total[-1] * (1 - 1e-9)) + 1)


def _shuffled(layer: layout.Layer, seed: int, index: int) -> np.ndarray:
  words = [seed, zlib.crc32(layer.name.encode()), index]
  return np.random.default_rng(words).permutation(layer.experts)


def _joined(
  layer: layout.Layer,
  rows: Sequence[np.ndarray],
  counts: Sequence[int],
  least: int,
) -> np.ndarray:
  """The first experts of each ranking: apart by sensor, or their union."""
  counts = [max(least, min(n, layer.experts)) for n in counts]
  if layer.by_sensor:
    most = max(counts)
    return np.stack([np.sort(row[:most]) for row in rows])
  union = set()
  for row, count in zip(rows, counts, strict=True):
    union |= set(row[:count].tolist())
  return np.array([sorted(union)])
