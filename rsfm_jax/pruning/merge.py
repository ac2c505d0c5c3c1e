"""One FFN from many: dense integration (RingMoE's KS, KA and KC).

What KS and KA stand for, and how specialised, collaborative and shared
experts, gates and biases are fused, is NOT FOUND. DEFAULTS taken here: the
kept experts of a branch are weighed by the mean weight that their outputs got
on calibration data, and scaled by the mean gate of a token; then the branches'
experts join RingMoE's shared one by `sum`, `mean` or `svd` of their matrices.
Biases are summed under `sum` and `svd`, averaged under `mean`. Where there is
one branch, as in SkySense V2, all three are that weighted mean. Nothing is
retrained.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.pruning import layout
from rsfm_jax.pruning import pieces
from rsfm_jax.pruning import usage as usage_lib

How = Literal['sum', 'mean', 'svd']
HOWS = ('sum', 'mean', 'svd')


class Merged(NamedTuple):
  """One matrix or bias from those of several experts.

  Attributes:
    origin: name of an array that it is made from.
    how: see the module docstring.
    terms: of each branch: (weight, piece) of its experts, which add up.
  """

  origin: str
  how: How
  terms: tuple[tuple[tuple[float, pieces.Cut], ...], ...]

  def read(self, source: pieces.Source) -> np.ndarray:
    stacked = np.stack(
      [
        sum(w * cut.read(source).astype(np.float32) for w, cut in term)
        for term in self.terms
      ]
    )
    return merge(stacked, self.how)


def merge(stacked: np.ndarray, how: How) -> np.ndarray:
  """Matrices [N, A, B] -> [A, B], or biases [N, A] -> [A].

  'svd' keeps the leading rank / N singular triplets of each of the N matrices
  and adds them up (KC).
  """
  if how == 'mean':
    return stacked.mean(0)
  if how == 'sum' or stacked.ndim == 2 or len(stacked) == 1:
    return stacked.sum(0)
  rank = max(1, min(stacked.shape[1:]) // len(stacked))
  u, s, v = np.linalg.svd(stacked, full_matrices=False)
  return np.einsum('nak,nk,nkb->ab', u[..., :rank], s[..., :rank], v[:, :rank])


def check(
  spec: Any,
  sensors: Sequence[str],
  usage: usage_lib.Usage | None,
  how: How,
) -> None:
  """Whether the experts can be merged.

  Raises:
    ValueError: an unknown way, no usage, or several sensors with experts of
      their own.
  """
  choices.check(how, HOWS, key='--dense')
  if usage is None:
    raise ValueError(
      f'--dense {how} needs usage: --calibration STORE or --usage FILE.'
    )
  own = any(layer.by_sensor for layer in layout.layers(spec))
  if own and len(sensors) != 1:
    raise ValueError(
      f'--dense {how} needs one sensor, not {list(sensors)}, since each has '
      'experts of its own: --sensors NAME.'
    )


def piece(
  spec: Any,
  stack: str,
  row: int,
  leaf: str,
  layers: Sequence[layout.Layer],
  *,
  kept: Mapping[str, np.ndarray],
  usage: usage_lib.Usage,
  how: How,
  sensors: Sequence[str],
  source: Mapping[str, Any],
) -> Merged:
  """What becomes the dense FFN's `leaf` in a block with these layers."""
  dense = f'{stack}{layout.of(spec).dense}/{leaf}'
  terms = []
  if dense in source:
    terms.append(((1.0, pieces.Cut(dense, (row,))),))
  for layer in layers:
    found = usage.pooled(layer.name, sensors)
    gates = (found.share * found.gate)[0]
    chosen = kept[layer.name][0]
    part = gates[chosen] / max(gates[chosen].sum(), 1e-12)
    if leaf in ('w_out', 'b_out'):
      part = part * gates.sum()
    lead = (row,)
    if layer.by_sensor:
      lead += (spec.sensors.index(sensors[0]),)
    name = f'{stack}{layout.of(spec).ffn}/{layer.branch}/{leaf}'
    terms.append(
      tuple(
        (float(w), pieces.Cut(name, (*lead, int(e))))
        for w, e in zip(part, chosen, strict=True)
      )
    )
  return Merged(terms[0][0][1].origin, how, tuple(terms))
