"""Sinkhorn-Knopp: soft assignments of rows that use all columns alike.

What SwAV (arXiv 2006.09882) assigns features to prototypes with and DINOv2
makes its targets with: one iteration scales the columns of exp(logits / t) to
equal sums, then the rows. Their codes differ in constants that cancel.
"""

import jax
import jax.numpy as jnp

Array = jax.Array

ITERATIONS = 3  # SwAV's and DINOv2's.
EPSILON = 0.05  # SwAV's temperature, where one is not given by a schedule.


def sinkhorn(
  logits: Array,
  *,
  iterations: int = ITERATIONS,
  temperature: float | Array = EPSILON,
  weights: Array | None = None,
) -> Array:
  """Assigns N rows to K columns; float32 inside, no gradient.

  Works on logarithms, so that no size of the logits overflows. Sums over rows
  run over the whole axis, which under `jit` is the batch of all devices.

  Args:
    logits: [..., N, K]; leading dimensions are problems of their own.
    iterations: how often columns and rows are scaled; at least 1.
    temperature: logits are divided by it; may be traced.
    weights: bool or float [..., N], how much a row counts in the sums of the
      columns. Rows of weight 0 may hold anything, NaN included; they are
      assigned as a row of zeros would be.

  Returns:
    f32[..., N, K]; every row sums to 1.

  Raises:
    ValueError: fewer iterations than one.
  """
  check(iterations)
  logits = jax.lax.stop_gradient(logits).astype(jnp.float32)
  if weights is None:
    weights = jnp.ones(logits.shape[:-1], jnp.float32)
  weights = jax.lax.stop_gradient(weights).astype(jnp.float32)[..., None]
  logits = jnp.where(weights > 0, logits, 0) / temperature
  mass = jnp.log(jnp.maximum(weights, 0))  # -inf: not in any sum of columns.
  rows = jnp.zeros_like(mass)
  for _ in range(iterations):
    total = _logsumexp(logits + rows + mass, -2)
    # No row counts: columns stay as they are, instead of -inf - -inf.
    columns = jnp.where(jnp.isfinite(total), -total, 0)
    rows = -_logsumexp(logits + columns, -1)
  return jnp.exp(logits + columns + rows)


def check(iterations: int) -> None:
  """Raises ValueError for fewer iterations than one."""
  if iterations < 1:
    raise ValueError(f'iterations={iterations} of Sinkhorn must be at least 1.')


def columns_to_one(assignment: Array, weights: Array | None = None) -> Array:
  """Rows' shares in each column: [..., N, K], every column sums to 1.

  SkySense V2's new prototypes are means of features under these shares. Its
  Eq. 14 prints sums, whose size would depend on N; DEFAULT: means.

  Args:
    assignment: f32[..., N, K], of `sinkhorn`.
    weights: as given to `sinkhorn`; rows of weight 0 have no share.

  Returns:
    f32[..., N, K]; zeros where no row counts.
  """
  if weights is not None:
    weights = weights.astype(jnp.float32)[..., None]
    assignment = jnp.where(weights > 0, assignment * weights, 0)
  total = assignment.sum(-2, keepdims=True)
  return assignment / jnp.maximum(total, jnp.finfo(jnp.float32).tiny)


def _logsumexp(x: Array, axis: int) -> Array:
  return jax.scipy.special.logsumexp(x, axis=axis, keepdims=True)
