"""Whether a teacher and its student still say anything.

Self-distillation fails silently in three ways: all features become one vector,
they differ in few directions only, or all targets become one distribution (one
output wins, or all are equal). The loss can look well in each.
"""

from collections.abc import Mapping
import math

import jax
import jax.numpy as jnp

from rsfm_jax.objectives import dino

Array = jax.Array

# Scaled deviations of features below it: 1 is spread in all directions.
LEAST_STD = 0.05
# Directions that hold the features' variance; fewer rows can't tell.
LEAST_DIMENSIONS = 3.0
ENOUGH_ROWS = 16
# Shares of ln(K).
LEAST_SPREAD = 0.02
MOST_ENTROPY = 0.995


def monitor(
  student_features: Array,
  student_logits: Array,
  targets: Array,
  *,
  weights: Array,
  student_temperature: float = 0.1,
) -> dict[str, Array]:
  """Scalars to log; no gradient.

  Args:
    student_features: [N, D], what goes into the head.
    student_logits: [N, K].
    targets: f32[N, K] of the teacher.
    weights: bool or float [N], rows that count.
    student_temperature: as in the loss.

  Returns:
    'rows': how many count. 'feature_std': deviation over rows of L2-normalised
    features, mean over D, times sqrt(D): 1 when they fill all directions, 0
    when they are one vector. 'dimensions': in how many directions these vary,
    tr(C)^2 / tr(C^2) of their covariance C; 1 when they lie on a line, D when
    all directions are alike. 'teacher_entropy': of a target, in nats, ln(K) at
    most. 'target_spread': entropy of the mean target; 0 when one output wins.
    'kl': of the student from the targets, in nats.
  """
  given = (student_features, student_logits, targets)
  features, logits, wanted = map(jax.lax.stop_gradient, given)
  crossed = dino.cross_entropy(
    logits, wanted, weights=weights, temperature=student_temperature
  )
  return numbers(
    features,
    weights,
    crossed=crossed,
    entropy=dino.row_mean(dino.entropy(wanted), weights),
    target=dino.row_mean(wanted, weights),
  )


def numbers(
  student_features: Array,
  weights: Array,
  *,
  crossed: Array,
  entropy: Array,
  target: Array,
) -> dict[str, Array]:
  """What `monitor` gives, from means that the loss has found already.

  Args:
    student_features: [N, D], what goes into the head.
    weights: bool or float [N], rows that count.
    crossed: f32[], the cross-entropy.
    entropy: f32[], mean over counted rows of the targets' entropy.
    target: f32[K], their mean.
  """
  given = (student_features, crossed, entropy, target)
  features, crossed, entropy, target = jax.lax.stop_gradient(given)
  vectors = dino.unit(features)
  mean = dino.row_mean(vectors, weights)
  spread = vectors - mean[None]
  variance = dino.row_mean(jnp.square(spread), weights)
  return {
    'rows': (weights > 0).sum().astype(jnp.float32),
    'feature_std': jnp.sqrt(variance).mean() * math.sqrt(vectors.shape[-1]),
    'dimensions': _dimensions(spread, weights),
    'teacher_entropy': entropy,
    'target_spread': dino.entropy(target),
    'kl': crossed - entropy,
  }


def _dimensions(spread: Array, weights: Array) -> Array:
  """Participation ratio of the covariance of centred rows [N, D]; 0 if none."""
  rows = dino.weighted(spread, weights)
  # As large as the smaller side of the rows: both have the same eigenvalues.
  gram = rows @ rows.T if len(rows) < rows.shape[-1] else rows.T @ rows
  square = jnp.square(gram).sum()
  return jnp.square(jnp.trace(gram)) / jnp.where(square > 0, square, 1)


def warning(values: Mapping[str, float], outputs: int) -> str | None:
  """A sentence when `monitor`'s numbers look like a collapse, else None.

  Args:
    values: as `monitor` gives them, read by the host.
    outputs: K of the head.
  """
  values = {name: float(value) for name, value in values.items()}
  if values['rows'] < 2:
    return None  # One row says nothing about spread.
  most = math.log(outputs)
  if values['feature_std'] < LEAST_STD:
    return (
      f'Collapse: feature_std={values["feature_std"]:.3g} is below '
      f'{LEAST_STD}; the features of all samples are nearly one vector.'
    )
  if values['rows'] >= ENOUGH_ROWS and values['dimensions'] < LEAST_DIMENSIONS:
    return (
      f'Collapse: dimensions={values["dimensions"]:.3g} is below '
      f'{LEAST_DIMENSIONS:g}; the features differ in hardly more than '
      f'{max(round(values["dimensions"]), 1)} directions.'
    )
  if values['target_spread'] < LEAST_SPREAD * most:
    return (
      f'Collapse: target_spread={values["target_spread"]:.3g} nats of '
      f'{most:.3g}; one output of the teacher takes every sample.'
    )
  if values['teacher_entropy'] > MOST_ENTROPY * most:
    return (
      f'Collapse: teacher_entropy={values["teacher_entropy"]:.4g} nats of '
      f'{most:.4g}; targets are uniform and teach nothing.'
    )
  return None
