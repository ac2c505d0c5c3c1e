"""Nested dicts of arrays with '/'-joined names, and regex rules over them.

A tree here is a nested `dict` with string keys and array leaves, the only
form in which parameters, optimiser state and checkpoints travel through this
project. Names are an API: they never change silently.
"""

from collections.abc import Callable, Mapping, Sequence
import math
import re
from typing import Any

import jax
import numpy as np

Tree = Any


def flatten(tree: Tree, prefix: str = '') -> dict[str, Any]:
  """Returns `{name: leaf}` with '/'-joined names, in sorted order."""
  if not isinstance(tree, Mapping):
    return {prefix: tree}
  flat = {}
  for key in sorted(tree):
    if '/' in str(key):
      raise ValueError(f'A key of a tree must not contain "/": {key!r}.')
    flat |= flatten(tree[key], f'{prefix}/{key}' if prefix else str(key))
  return flat


def unflatten(flat: Mapping[str, Any]) -> Tree:
  """Inverse of `flatten`."""
  tree: dict[str, Any] = {}
  for name, leaf in flat.items():
    *parents, last = name.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = leaf
  return tree


def names(tree: Tree) -> Tree:
  """A tree of the same structure whose leaves are their own names."""
  return unflatten({name: name for name in flatten(tree)})


def map_named(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
  """`fn(name, leaf, *other_leaves)` over all leaves of a nested dict."""
  others = [flatten(other) for other in rest]
  return unflatten(
    {
      name: fn(name, leaf, *(other[name] for other in others))
      for name, leaf in flatten(tree).items()
    }
  )


def match_rules(
  tree: Tree, rules: Sequence[tuple[str, Any]], *, what: str
) -> Tree:
  """Gives every leaf the value of the first rule that fully matches its name.

  Args:
    tree: nested dict.
    rules: `(regex, value)` pairs; the first full match wins.
    what: the config key of the rules, for messages.

  Raises:
    ValueError: a leaf that no rule matches, or a rule that matches nothing.
  """
  compiled = [(re.compile(pattern), value) for pattern, value in rules]
  used = [False] * len(compiled)
  out, unmatched = {}, []
  for name in flatten(tree):
    for i, (pattern, value) in enumerate(compiled):
      if pattern.fullmatch(name):
        out[name], used[i] = value, True
        break
    else:
      unmatched.append(name)
  if unmatched:
    raise ValueError(
      f'{what}: no rule matches {unmatched[:5]} ({len(unmatched)} leaves); '
      "add a rule, or ('.*', ...) as the last one."
    )
  unused = [pattern for (pattern, _), seen in zip(rules, used) if not seen]
  if unused:
    raise ValueError(f'{what}: rules that match no parameter: {unused}.')
  return unflatten(out)


def cast(tree: Tree, dtype: Any) -> Tree:
  """All leaves in one dtype."""
  return jax.tree.map(lambda x: x.astype(dtype), tree)


def count(tree: Tree) -> int:
  """The number of elements over all leaves (arrays or abstract arrays)."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def bytes_of(tree: Tree) -> int:
  """The number of bytes over all leaves (arrays or abstract arrays)."""
  return sum(
    math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
    for leaf in jax.tree.leaves(tree)
  )
