"""One FFN from many: dense integration (RingMoE's KS, KA and KC).

What KS and KA stand for, and how specialised, collaborative and shared
experts, gates and biases are fused, is NOT FOUND. DEFAULTS taken here: the
routed experts of a branch are weighed by the mean weight that their outputs
got on calibration data, then the branch's merged experts join the shared one
by `sum`, `mean` or `svd` of their matrices. Biases are summed under `sum` and
`svd`, averaged under `mean`. Nothing is retrained.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.core import trees
from rsfm_jax.models import ringmoe
from rsfm_jax.pruning import surgery
from rsfm_jax.pruning import usage as usage_lib

How = Literal['sum', 'mean', 'svd']


def integrate(
  spec: ringmoe.RingMoESpec,
  params: surgery.Tree,
  *,
  measured: usage_lib.Usage,
  how: How = 'svd',
) -> surgery.Pruned:
  """A dense Swin from a one-sensor RingMoE: one FFN per block, no routers.

  Args:
    spec: of a model of one sensor (see `surgery.extract`).
    params: of that model.
    measured: its usage on calibration data.
    how: 'sum' and 'mean' of the matrices; 'svd' keeps the leading rank / N
      singular triplets of each of the N matrices and adds them up (KC).

  Raises:
    ValueError: a model of several sensors.
  """
  choices.check(how, ('sum', 'mean', 'svd'), key='--dense')
  if len(spec.sensors) != 1:
    raise ValueError(
      f'dense integration needs one sensor, not {spec.sensors}; extract it '
      'first.'
    )
  flat = dict(trees.flatten(params))
  layers = surgery.layers_of(spec)
  for stage, rows in layers.items():
    base = f'{stage}/blocks/ffn'
    experts = _experts(flat, base, measured, rows)
    for leaf in surgery.EXPERT_LEAVES:
      stacked = [
        np.stack([e[leaf][i] for e in experts])
        for i in range(rows.stop - rows.start)
      ]
      merge = _merge_matrices if leaf.startswith('w') else _merge_biases
      flat[f'{base}/shared/{leaf}'] = jnp.asarray(
        np.stack([merge(s, how) for s in stacked]), jnp.float32
      )
  flat = {
    name: leaf
    for name, leaf in flat.items()
    if '/specialised/' not in name and '/collaborative/' not in name
  }
  new = dataclasses.replace(spec, specialised=0, collaborative=0)
  record = {'operation': 'integrate', 'how': how}
  return surgery.Pruned(new, trees.unflatten(flat), record)


def _experts(flat, base, measured, rows) -> list[dict[str, np.ndarray]]:
  """Shared, merged specialised and merged collaborative: {leaf: [L, ...]}.

  A branch's merged expert is the mean of its experts, weighed by the measured
  gates, its output scaled by the mean gate of a token.
  """
  leaves = surgery.EXPERT_LEAVES
  out = [{n: np.asarray(flat[f'{base}/shared/{n}']) for n in leaves}]
  for branch in ('specialised', 'collaborative'):
    if f'{base}/{branch}/w_in' not in flat:
      continue
    gates = getattr(measured, f'{branch}_gate')[rows, 0]
    gate = gates.sum(-1)
    share = gates / np.maximum(gate, 1e-12)[:, None]
    merged = {}
    for leaf in leaves:
      value = np.asarray(flat[f'{base}/{branch}/{leaf}'])
      if branch == 'specialised':
        value = value[:, 0]
      merged[leaf] = np.einsum('le,le...->l...', share, value)
      if leaf in ('w_out', 'b_out'):
        lead = (-1,) + (1,) * (merged[leaf].ndim - 1)
        merged[leaf] = merged[leaf] * gate.reshape(lead)
    out.append(merged)
  return out


def _merge_matrices(stacked: np.ndarray, how: How) -> np.ndarray:
  """[N, A, B] -> [A, B]."""
  if how == 'mean':
    return stacked.mean(0)
  if how == 'sum':
    return stacked.sum(0)
  rank = max(1, min(stacked.shape[1:]) // len(stacked))
  u, s, v = np.linalg.svd(stacked, full_matrices=False)
  return np.einsum('nak,nk,nkb->ab', u[..., :rank], s[..., :rank], v[:, :rank])


def _merge_biases(stacked: np.ndarray, how: How) -> np.ndarray:
  """[N, A] -> [A]."""
  return stacked.mean(0) if how == 'mean' else stacked.sum(0)
