"""Exact nearest neighbours on device, under the rules of five harnesses.

The harnesses agree on the name and on little else, see `RULES`; each rule
reproduces its harness on golden arrays. Bank rows with `valid` False are
never neighbours, whatever they hold.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.core import choices

# Rows of normalised features are divided by at least this norm (OlmoEarth).
_EPSILON = 1e-8
_CHUNK = 512


@dataclasses.dataclass(frozen=True)
class Rule:
  """How neighbours become a prediction.

  Attributes:
    k: neighbours that vote.
    distance: by cosine similarity or by squared Euclidean distance.
    vote: `exponential` weights exp(similarity / temperature); `softmax` the
      same, normalised over the `pool` nearest, so that scores of k < pool do
      not sum to 1; `majority` counts.
    temperature: of the weights.
    pool: neighbours that the softmax normalises over.
    labels_marked: multi-label: None marks labels whose share of votes exceeds
      one half (one binary vote a label); a number marks that many best labels
      always.
  """

  k: int
  distance: Literal['cosine', 'euclidean'] = 'cosine'
  vote: Literal['exponential', 'softmax', 'majority'] = 'exponential'
  temperature: float = 0.07
  pool: int = 0
  labels_marked: int | None = None


RULES = {
  'olmoearth_k20': Rule(20),
  'galileo_k5': Rule(5),
  'galileo_k20': Rule(20),
  **{
    f'dinov2_k{k}': Rule(k, vote='softmax', pool=200)
    for k in (10, 20, 100, 200)
  },
  'pangaea_k200': Rule(200, temperature=0.1, labels_marked=10),
  'torchgeobench_k5': Rule(5, distance='euclidean', vote='majority'),
}


class Votes(NamedTuple):
  predictions: np.ndarray  # i32[M], or bits i32[M, L]
  scores: np.ndarray  # f32[M, K] or f32[M, L], the votes


def rule(name: str) -> Rule:
  """The rule `name`.

  Raises:
    ValueError: there is no such rule.
  """
  return RULES[choices.check(name, RULES, key='knn.rule')]


def _similarity(query, bank, distance):
  """[M, D] x [N, D] -> [M, N]; larger is nearer."""
  products = jnp.dot(query, bank.T, precision=jax.lax.Precision.HIGHEST)
  if distance == 'cosine':
    return products
  # The norm of the query moves a whole row and no order: left out.
  return 2 * products - jnp.sum(bank * bank, axis=1)[None]


def _unit(x):
  norm = jnp.linalg.norm(x, axis=1, keepdims=True)
  return x / jnp.maximum(norm, _EPSILON)


@functools.partial(jax.jit, static_argnames=('k', 'distance', 'chunk'))
def neighbours(
  bank: jax.Array,
  query: jax.Array,
  valid: jax.Array,
  *,
  k: int,
  distance: Literal['cosine', 'euclidean'] = 'cosine',
  chunk: int = _CHUNK,
) -> tuple[jax.Array, jax.Array]:
  """The k nearest rows of the bank, nearest first, exact.

  Args:
    bank: f32[N, D].
    query: f32[M, D]; handled in chunks, [chunk, N] similarities at a time.
    valid: bool[N].
    k: at most N.
    distance: see `Rule`.
    chunk: queries at a time.

  Returns:
    similarity f32[M, k] (-inf where fewer than k rows are valid), i32[M, k].
  """
  bank = jnp.where(valid[:, None], bank, 0.0)
  if distance == 'cosine':
    bank, query = _unit(bank), _unit(query)
  else:  # Distances ignore a shift; float32 does not.
    centre = jnp.sum(bank, axis=0, keepdims=True) / jnp.sum(valid)
    bank, query = jnp.where(valid[:, None], bank - centre, 0.0), query - centre

  def nearest(rows):
    similarity = _similarity(rows, bank, distance)
    return jax.lax.top_k(jnp.where(valid[None], similarity, -jnp.inf), k)

  size = len(query)
  chunk = min(chunk, size)
  padded = jnp.pad(query, ((0, -size % chunk), (0, 0)))
  similarity, index = jax.lax.map(
    nearest, padded.reshape(-1, chunk, query.shape[1])
  )
  return similarity.reshape(-1, k)[:size], index.reshape(-1, k)[:size]


def _weights(similarity: np.ndarray, how: Rule) -> np.ndarray:
  """The weight of each neighbour, nearest first: f32[M, k]."""
  if how.vote == 'majority':
    return np.isfinite(similarity[:, : how.k]).astype(np.float32)
  weights = np.exp(similarity / how.temperature)
  if how.vote == 'softmax':
    weights /= weights.sum(1, keepdims=True)
  return weights[:, : how.k]


def classify(
  bank: np.ndarray,
  targets: np.ndarray,
  query: np.ndarray,
  *,
  how: Rule,
  classes: int,
  valid: np.ndarray | None = None,
) -> Votes:
  """Predicts by the vote of the nearest rows of the bank.

  Args:
    bank: f32[N, D] training features, as they come.
    targets: int[N] classes, or bits int[N, L].
    query: f32[M, D].
    how: the rule; k and pool are cut to the size of the bank.
    classes: K or L.
    valid: bool[N]; False rows do not vote. Default: all vote.

  Raises:
    ValueError: an empty bank.
  """
  valid = np.ones(len(bank), bool) if valid is None else np.asarray(valid)
  if not valid.any():
    raise ValueError('The bank of nearest neighbours has no valid row.')
  similarity, index = jax.device_get(
    neighbours(
      jnp.asarray(bank, jnp.float32),
      jnp.asarray(query, jnp.float32),
      jnp.asarray(valid),
      k=min(max(how.k, how.pool), len(bank)),
      distance=how.distance,
    )
  )
  weights = _weights(similarity, how)
  targets = np.asarray(targets)
  multilabel = targets.ndim == 2
  votes = targets if multilabel else targets[:, None] == np.arange(classes)
  votes = np.where(valid[:, None], votes, 0).astype(np.float32)
  scores = np.zeros((len(query), classes), np.float32)
  for place in range(weights.shape[1]):  # k passes, never [M, k, K] at once
    scores += weights[:, place, None] * votes[index[:, place]]
  if how.vote != 'softmax':
    scores /= weights.sum(1, keepdims=True)
  if not multilabel:
    return Votes(scores.argmax(1).astype(np.int32), scores)
  if how.labels_marked is None:
    return Votes((scores > 0.5).astype(np.int32), scores)
  best = np.argsort(-scores, axis=1, kind='stable')[:, : how.labels_marked]
  bits = np.zeros(scores.shape, np.int32)
  np.put_along_axis(bits, best, 1, axis=1)
  return Votes(bits, scores)
