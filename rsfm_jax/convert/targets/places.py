"""Where dense weights go in our models: lists of places.

A place is a regex over the names of the target's parameters and the dense name
(see `convert.rules`) that fills them. `{layer}` counts the blocks of a stack:
the arrays of its layers become one with a leading axis L.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Kind = Literal[
  'copy', 'bands', 'pixels', 'neighbours', 'positions', 'shared', 'experts'
]

FFN = '(w_in|b_in|w_out|b_out)'


class Place(NamedTuple):
  """Parameters that `pattern` matches as a whole, and what fills them.

  Attributes:
    pattern: regex over names of the target.
    take: dense name, with \\1 for groups; None leaves them at init.
    kind: how; see `convert.kinds`.
    first: the block of the source that the first layer of a stack is.
    step: blocks of the source from one layer of the stack to the next.
    seen: experts that a token chooses among, where a partition forbids some.
    reason: why they stay at init.
  """

  pattern: str
  take: str | None
  kind: Kind = 'copy'
  first: int = 0
  step: int = 1
  seen: int | None = None
  reason: str = ''


class Gates(NamedTuple):
  """How a routed FFN weighs its experts; see `convert.upcycle`.

  Attributes:
    choices: experts per token and router, K.
    normalised: whether the gates of a token sum to 1.
    branches: FFNs whose outputs add up.
  """

  choices: int = 1
  normalised: bool = False
  branches: int = 1


class Target(NamedTuple):
  """What a model can take from a family of sources.

  Attributes:
    places: first match wins.
    leave: {regex over dense names: why the target does not take them}.
    gates: of its routed FFNs.
    notes: where the target computes otherwise than the source.
  """

  places: tuple[Place, ...]
  leave: Mapping[str, str]
  gates: Gates
  notes: tuple[str, ...]


ROUTERS = Place(
  r'.*/router(_bias)?', None, reason='routers start as initialised'
)
EMBED = (
  Place(r'embed/(\w+)/kernel', 'embed/kernel', 'bands'),
  Place(r'embed/\w+/(bias|norm/\w+)', r'embed/\1'),
)
# Where the target computes otherwise than every source of a family.
TANH = (
  'FFNs have the tanh form of the GELU, at most 5e-4 from the source per '
  'hidden unit'
)
SWIN_NORMS = 'layer norms add 1e-6 (merges 1e-4) to variances, the source 1e-5'


def heads_note(dim: int, heads: int) -> tuple[str, ...]:
  """The heads of a ViT cannot be read off its weights."""
  size = dim // heads
  if size == 64:
    return ()
  return (
    f'heads have {size} channels by config.model.heads; those of timm, MAE and '
    'DINOv2 have 64, and no shape of the weights tells',
  )
