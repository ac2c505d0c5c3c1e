"""Which layer a parameter belongs to, for layer-wise learning rates.

Layer 0 are the tokenizers, and what a MAPEX-style model adds for each sensor;
layer i + 1 is the i-th block, and the last layer is whatever follows the
blocks: norms, fusion, heads. A merging, and prompts and positions at the entry
of a stage, belong to the stage's first block (SkySense v1's rule for mergings;
for SkySense V2 a DEFAULT, NOT FOUND).
"""

import re

import numpy as np

from rsfm_jax.core import trees
from rsfm_jax.models import mapex_spec
from rsfm_jax.models import ringmoe
from rsfm_jax.models import skysense_v2_spec

Spec = (
  ringmoe.RingMoESpec | skysense_v2_spec.SkySenseV2Spec | mapex_spec.MapexSpec
)
_STAGE = re.compile(r'stage_(\d+)/(\w+)/.*')
_UNIT = re.compile(r'(run_\d+)/(?:plain_(\d+)|last)/.*')


def count(spec: Spec) -> int:
  """How many layers there are: the blocks, one below and one above."""
  return sum(spec.depths) + 2


def of_parameters(spec: Spec, params: trees.Tree) -> trees.Tree:
  """{name: layer i32[], or i32[L] where L blocks are stacked}.

  Args:
    spec: of the encoder.
    params: abstract; those that are not of the encoder's trunk are last.
  """
  return trees.map_named(lambda name, _: _layer(spec, name), params)


def rates(spec: Spec, params: trees.Tree, *, decay: float) -> trees.Tree:
  """What the learning rate of every parameter is multiplied by.

  decay^(last layer - layer), f32[] or, of stacked blocks, f32[L, 1, ...].

  Raises:
    ValueError: a decay that is not within (0, 1].
  """
  if not 0 < decay <= 1:
    raise ValueError(f'optim.layer_decay={decay} must be in (0, 1].')
  last = count(spec) - 1

  def factor(_, leaf, layer):
    share = np.float32(decay) ** (last - layer).astype(np.float32)
    return share.reshape(-1, *(1,) * (leaf.ndim - 1)) if layer.ndim else share

  layers = of_parameters(spec, params)
  return trees.map_named(factor, params, layers)


def _layer(spec: Spec, name: str) -> np.ndarray:
  if name.startswith(('embed/', 'sensors/', 'mask_token')):
    return np.asarray(0)
  if isinstance(spec, mapex_spec.MapexSpec):
    return _layer_of_unit(spec, name)
  found = _STAGE.fullmatch(name)
  if not found:
    return np.asarray(count(spec) - 1)
  stage, part = int(found[1]), found[2]
  first = sum(spec.depths[:stage]) + 1
  if part == 'merge' and isinstance(spec, ringmoe.RingMoESpec):
    return np.asarray(first + spec.depths[stage])  # It ends its stage.
  if part in ('merge', 'prompts', 'positions'):
    return np.asarray(first)
  return first + np.arange(*_span(spec, stage, part))


def _layer_of_unit(spec: mapex_spec.MapexSpec, name: str) -> np.ndarray:
  """Of a MAPEX-style model, whose units of several blocks are stacked."""
  found = _UNIT.fullmatch(name)
  if not found:
    return np.asarray(count(spec) - 1)
  run = next(run for run in mapex_spec.runs(spec) if run.name == found[1])
  within = run.size - 1 if found[2] is None else int(found[2])
  return run.first + within + 1 + run.size * np.arange(run.units)


def _span(spec: Spec, stage: int, part: str) -> tuple[int, int]:
  """First and end, within the stage, of a run of stacked blocks."""
  if isinstance(spec, ringmoe.RingMoESpec):
    return 0, spec.depths[stage]
  runs = {run.name: run for run in skysense_v2_spec.runs(spec, stage)}
  return runs[part].start, runs[part].start + runs[part].depth
