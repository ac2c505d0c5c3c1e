"""Path rules: which dimension of which parameter is cut over which axis.

Rules are `(path regex, PartitionSpec)`, written once for parameter paths; the
first full match wins. Optimiser moments, EMA and teachers follow, because
their paths end in the parameter's path.
"""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from rsfm_jax.core import trees

Rules = Sequence[tuple[str, PartitionSpec]]
WHAT = 'mesh.rules'


def specs(params: trees.Tree, rules: Rules) -> trees.Tree:
  """A PartitionSpec for every leaf of a tree of (abstract) parameters.

  Raises:
    ValueError: a leaf without a rule, a rule without a leaf, or a spec with
      more entries than its leaf has dimensions.
  """
  matched = trees.flatten(trees.match_rules(params, rules, what=WHAT))
  return _map(lambda name, x: _check_rank(name, x, matched[name]), params)


def state_specs(state: Mapping[str, trees.Tree], rules: Rules) -> trees.Tree:
  """Specs of a whole train state by rules written for its parameters.

  A leaf whose path ends in a parameter's path takes that parameter's spec, or
  is whole if its shape is another (factored moments are small); a scalar (step,
  counters) is replicated; any other leaf (prototypes, centres in
  `extra`) needs a rule for its own path, such as `extra/prototypes`.

  Args:
    state: nested dict with `params` at the top, of arrays or abstract arrays.
    rules: as for `specs`.

  Raises:
    ValueError: as for `specs`.
  """
  params = trees.flatten(state['params'])
  leaves = trees.flatten(state)
  owner = {name: _owner(name, params) for name in leaves}
  ruled = dict(params)
  for name, leaf in leaves.items():
    if owner[name] is None and leaf.ndim:
      ruled[name] = leaf
  found = trees.flatten(specs(trees.unflatten(ruled), rules))

  def spec_of(name, leaf):
    spec = found.get(owner[name] or name, PartitionSpec())
    if owner[name] and params[owner[name]].shape != leaf.shape:
      spec = PartitionSpec()
    return _check_rank(name, leaf, spec)

  return _map(spec_of, state)


def shardings(state: trees.Tree, mesh: Mesh, rules: Rules) -> trees.Tree:
  """NamedShardings of a train state, or of bare parameters, on a mesh.

  Raises:
    ValueError: as for `specs`; or a dimension does not divide by its axes.
  """
  whole = isinstance(state, Mapping) and 'params' in state
  chosen = trees.flatten((state_specs if whole else specs)(state, rules))

  def named(name, leaf):
    _check_divides(name, leaf, chosen[name], mesh)
    return NamedSharding(mesh, chosen[name])

  return _map(named, state)


def _map(fn: Callable[[str, Any], Any], tree: trees.Tree) -> trees.Tree:
  """`fn(name, leaf)` over a nested dict; empty dicts stay where they are."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: fn('/'.join(part.key for part in path), leaf), tree
  )


def _owner(name: str, params: Mapping[str, jax.Array]) -> str | None:
  """The parameter whose path ends `name`: the longest such path."""
  parts = name.split('/')
  tails = ('/'.join(parts[i:]) for i in range(len(parts)))
  return next((tail for tail in tails if tail in params), None)


def _check_rank(name: str, leaf, spec: PartitionSpec) -> PartitionSpec:
  if len(spec) > leaf.ndim:
    raise ValueError(
      f'{WHAT}: {name} has shape {tuple(leaf.shape)}, but its rule {spec} '
      f'names {len(spec)} dimensions.'
    )
  return spec


def _check_divides(name: str, leaf, spec: PartitionSpec, mesh: Mesh) -> None:
  for dim, axes in enumerate(spec):
    axes = () if axes is None else (axes,) if isinstance(axes, str) else axes
    unknown = [axis for axis in axes if axis not in mesh.shape]
    if unknown:
      raise ValueError(
        f'{WHAT}: {name} is cut over {unknown}, but the mesh has the axes '
        f'{list(mesh.shape)}.'
      )
    pieces = math.prod(mesh.shape[axis] for axis in axes)
    if leaf.shape[dim] % pieces:
      raise ValueError(
        f'{WHAT}: dimension {dim} of {name} {tuple(leaf.shape)} does not '
        f'divide into {pieces} pieces (mesh axes {axes}).'
      )
