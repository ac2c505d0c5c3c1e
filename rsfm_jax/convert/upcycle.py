"""A dense FFN becomes experts: copies plus noise, routers as initialised.

Sparse upcycling (Komatsuzaki et al., arXiv 2212.05055). What a routed FFN
gives is multiplied by its gate, and branches add up (RMoE: specialised +
collaborative + shared), so copies alone would change what a block computes.
Output matrices and biases of the copies are therefore divided by the number of
branches and by the mean gate of the routers as they start:

* gates that are normalised sum to 1: without noise the model computes exactly
  what the dense one does;
* gates that are probabilities (`model.gate='prob'`, SkySense V2, MAPEX) depend
  on the token. Swin's norm after the FFN takes the factor out again; in
  pre-norm blocks it is 1 in the mean only, and exactly 1 for routers of zeros.

The mean gate is that of tokens from a unit normal, which is what a layer norm
before the router gives, but for its learnt scale and bias.
"""

import jax
import numpy as np

from rsfm_jax.core import rng

_TOKENS = 512
OUTPUTS = ('w_out', 'b_out')
MATRICES = ('w_in', 'w_out')


def mean_gate(
  router: np.ndarray, *, choices: int, normalised: bool
) -> np.ndarray:
  """Mean sum of the gates that a token gets: f32[...] of [..., D, E]."""
  if normalised:
    return np.ones(router.shape[:-2], np.float32)
  tokens = np.random.default_rng(0).standard_normal(
    (_TOKENS, router.shape[-2]), np.float32
  )
  logits = tokens @ np.asarray(router, np.float32)
  weight = np.exp(logits - logits.max(-1, keepdims=True))
  probs = np.sort(weight / weight.sum(-1, keepdims=True), -1)
  return probs[..., -min(choices, router.shape[-1]) :].sum(-1).mean(-1)


def experts(
  leaf: str,
  dense: np.ndarray,
  shape: tuple[int, ...],
  *,
  factor: np.ndarray,
  noise: float,
  key: jax.Array,
) -> np.ndarray:
  """Copies of one array of a dense FFN, for every expert of every layer.

  Args:
    leaf: 'w_in', 'b_in', 'w_out' or 'b_out'.
    dense: [L, ...].
    shape: [L, E, ...] or, with sets of experts, [L, M, E, ...].
    factor: of what the experts give, [L] or [L, M].
    noise: standard deviation of what is added to matrices, relative to that
      of the layer's dense one.
    key: of this array; the noise is a function of it.
  """
  middle = len(shape) - dense.ndim
  lead = dense.reshape(dense.shape[0], *(1,) * middle, *dense.shape[1:])
  out = np.array(np.broadcast_to(lead, shape))
  if leaf in OUTPUTS:
    out *= scaled(factor, out.ndim)
  if noise and leaf in MATRICES:
    flat = out.reshape(len(out), -1)
    std = scaled(flat.std(1), out.ndim)
    out += noise * std * np.asarray(jax.random.normal(key, shape))
  return out.astype(np.float32)


def shared(leaf: str, dense: np.ndarray, *, branches: int) -> np.ndarray:
  """The expert that sees every token, one of several branches that add up."""
  if leaf not in OUTPUTS or branches == 1:
    return dense
  return dense / np.float32(branches)


def scaled(factor: np.ndarray, rank: int) -> np.ndarray:
  """[L, ...] with ones for the axes that follow."""
  factor = np.asarray(factor, np.float32)
  return factor.reshape(*factor.shape, *(1,) * (rank - factor.ndim))


def key_of(seed: int, name: str) -> jax.Array:
  return rng.named(rng.key_for(seed), 'upcycle', name)
