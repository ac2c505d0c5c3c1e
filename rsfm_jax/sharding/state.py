"""A sharded train state: planned abstractly, then created or restored."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from rsfm_jax.core import once
from rsfm_jax.core import trees
from rsfm_jax.sharding import rules as rules_lib


class Plan(NamedTuple):
  """A state before any byte of it exists.

  Attributes:
    abstract: `jax.ShapeDtypeStruct` with a sharding for every leaf; what
      `Checkpoints.restore` asks for.
    shardings: the same tree of NamedShardings; what `jax.jit` asks for.
    create: `() -> state`, made on its devices directly.
  """

  abstract: trees.Tree
  shardings: trees.Tree
  create: Callable[[], trees.Tree]


def plan(
  init: Callable[..., trees.Tree],
  *args: Any,
  mesh: Mesh,
  rules: rules_lib.Rules,
) -> Plan:
  """Plans `init(*args)` on a mesh; nothing is allocated until `create`.

  Raises:
    ValueError: the rules do not fit the state (see `rules.shardings`).
  """
  shapes = jax.eval_shape(init, *args)
  shardings = rules_lib.shardings(shapes, mesh, rules)
  create = once.jit(init, out_shardings=shardings)
  return Plan(
    abstract=abstract(shapes, shardings),
    shardings=shardings,
    create=lambda: create(*args),
  )


def abstract(tree: trees.Tree, shardings: trees.Tree) -> trees.Tree:
  """`jax.ShapeDtypeStruct`s of a tree that carry the given shardings."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    tree,
    shardings,
  )
