"""What a block keeps for its backward pass, and what it computes again.

Layers name the outputs of their products; a policy says which names are kept.
Everything else of a block (norms, softmax, GELU, routing, gathers of rows) is
computed again from them, and from the block's input.

| policy | keeps | computes again |
|---|---|---|
| `none` | all | nothing |
| `products` | what products gave, what travelled | what is cheap |
| `hidden` | the same without FFNs' hidden layers | also their first products |
| `full` | the input of a pair of blocks | the pair, with its all-to-alls |
"""

from typing import Literal

import jax
from jax.ad_checkpoint import checkpoint_name

Array = jax.Array
Policy = Literal['none', 'products', 'hidden', 'full']

_POLICIES = jax.checkpoint_policies
POLICIES = {
  'full': _POLICIES.nothing_saveable,
  'hidden': _POLICIES.save_only_these_names('kept'),
  'products': _POLICIES.save_only_these_names('kept', 'hidden'),
}
NAMES = ('none', *POLICIES)


def kept(y: Array) -> Array:
  """Marks an output of a product, or rows that came from other devices."""
  return checkpoint_name(y, 'kept')


def hidden(y: Array) -> Array:
  """Marks the hidden layer of an FFN before its GELU, its widest array."""
  return checkpoint_name(y, 'hidden')
