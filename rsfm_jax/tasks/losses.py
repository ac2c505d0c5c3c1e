"""Losses against classes, bits and values; what is not labelled is left out.

All are means in float32, so that gradients of microbatches average to those
of the batch where every sample has equally many labels.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from rsfm_jax.core import choices

Array = jax.Array
UNLABELLED = 255
Over = Literal['labelled', 'all']


def cross_entropy(
  logits: Array,
  labels: Array,
  *,
  weights: Sequence[float] | None = None,
  smoothing: float = 0.0,
  over: Over = 'labelled',
) -> Array:
  """Mean of -log softmax(logits)[label], f32[].

  Args:
    logits: [..., K].
    labels: int[...]; whatever is `UNLABELLED` does not count.
    weights: of the K classes; the mean is then divided by the sum of the
      labels' weights, as torch does.
    smoothing: share of the target that is spread over all classes.
    over: 'labelled' divides by the labelled places, as torch does; 'all' by
      all places, mmsegmentation's default (1.x, avg_non_ignore=False).
  """
  choices.check(over, ('labelled', 'all'), key='task.over')
  counts = labels != UNLABELLED
  logs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
  chosen = jnp.where(counts, labels, 0).astype(jnp.int32)
  picked = jnp.take_along_axis(logs, chosen[..., None], -1)[..., 0]
  share = counts.astype(jnp.float32)
  if weights is not None:
    of_class = jnp.asarray(weights, jnp.float32)
    share = share * of_class[chosen]
    spread = (logs * of_class.reshape((1,) * (logs.ndim - 1) + (-1,))).sum(-1)
  else:
    spread = logs.sum(-1)
  spread = jnp.where(counts, spread, 0) / logits.shape[-1]
  total = share.size if over == 'all' else share.sum()
  loss = (1 - smoothing) * share * picked + smoothing * spread
  return -loss.sum() / jnp.maximum(total, 1e-12)


def soft_margin(logits: Array, bits: Array) -> Array:
  """Mean of -[y log s(x) + (1 - y) log s(-x)] over all entries, f32[].

  That is binary cross-entropy and, of [B, L], torch's multi-label soft margin.

  Args:
    logits: [...].
    bits: 0 or 1 (or a share between) of the same shape; `UNLABELLED` does not
      count.
  """
  logits = logits.astype(jnp.float32)
  counts = bits != UNLABELLED
  y = jnp.where(counts, bits, 0).astype(jnp.float32)
  loss = y * jax.nn.log_sigmoid(logits)
  loss += (1 - y) * jax.nn.log_sigmoid(-logits)
  total = counts.sum(dtype=jnp.float32)
  return -jnp.where(counts, loss, 0).sum() / jnp.maximum(total, 1)


def error(values: Array, targets: Array, *, order: int) -> Array:
  """Mean of |value - target|^order over targets that are not NaN, f32[]."""
  counts = ~jnp.isnan(targets)
  # Zeros before the difference: a NaN would come back in the gradient.
  gap = jnp.where(counts, values.astype(jnp.float32), 0)
  gap = jnp.abs(gap - jnp.where(counts, targets, 0))
  total = counts.sum(dtype=jnp.float32)
  return (gap**order).sum() / jnp.maximum(total, 1)


def smooth_l1(values: Array, targets: Array, *, beta: float) -> Array:
  """|x| - beta / 2 of the difference x, x^2 / (2 beta) within beta, f32[...].

  Of Fast R-CNN (Girshick) with beta 1; beta 0 is |x|.
  """
  gap = jnp.abs(values.astype(jnp.float32) - targets)
  if not beta:
    return gap
  return jnp.where(gap < beta, gap**2 / (2 * beta), gap - beta / 2)
