"""Logistic regression for a whole sweep as one compiled program.

All problems of a sweep (values of C, label fractions, bootstraps) advance
together, so that one matrix product serves them all. The features are centred
and rotated onto their principal axes first. Neither changes the optimum (the
penalty does not see a rotation, the free bias absorbs the shift), but there
the curvature is close to diagonal, so that L-BFGS with that diagonal as its
start converges from tiny to huge C. A step costs two products with the
features; the line search costs none, since logits are linear in the step.
"""

from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.core import choices

_MEMORY = 10  # Pairs kept; on EuroSAT 5 got less far and 20 ran slower.
_SEARCHES = 10
_SLOPE = 0.5  # A step ends where the slope has at most this share left.
PRECISIONS = ('float32', 'float64')


class Fit(NamedTuple):
  """S fitted problems; logits of problem s are x @ weights[s] + bias[s]."""

  weights: np.ndarray  # [S, F, K]
  bias: np.ndarray  # [S, K]
  gradient: np.ndarray  # [S], largest entry of the gradient that is left
  steps: int


class _Problem(NamedTuple):
  x: jax.Array  # [N, D], centred and rotated, last column ones (the bias)
  y: jax.Array  # [N, K], one-hot classes or bits
  share: jax.Array  # [N, S], weight of a sample, sums to 1 over N
  penalty: jax.Array  # [D, S], 1 / (C * total weight), 0 for the bias


def _forward(x, w):
  """[N, D] x [D, S, K] -> [N, S, K] as one matrix product."""
  out = jnp.dot(x, w.reshape(len(w), -1), precision=jax.lax.Precision.HIGHEST)
  return out.reshape(len(x), *w.shape[1:])


def _dots(a, b):
  """[.., S, K] x [.., S, K] -> [S]."""
  return jnp.einsum('dsk,dsk->s', a, b, precision=jax.lax.Precision.HIGHEST)


def _wide(per_problem):
  return per_problem[None, :, None]


def _probabilities(logits, link):
  if link == 'softmax':
    return jax.nn.softmax(logits, axis=-1)
  return jax.nn.sigmoid(logits)


def _gradient(problem, w, logits, link):
  """The gradient [D, S, K] and the diagonal of the start metric."""
  p = _probabilities(logits, link)
  error = (p - problem.y[:, None, :]) * problem.share[:, :, None]
  penalty = problem.penalty[:, :, None]
  gradient = _forward(problem.x.T, error) + penalty * w
  spread = jnp.einsum('nsk,ns->sk', p * (1 - p), problem.share)
  power = jnp.mean(problem.x * problem.x, axis=0)[:, None, None]
  return gradient, power * spread[None] + penalty


def _search(problem, w, logits, step, gradient, live, link):
  """Step lengths [S]: safeguarded Newton on the slope along the step."""
  along = _forward(problem.x, step)
  wide_share = problem.share[:, :, None]
  fixed = _dots(problem.penalty[:, :, None] * w, step) - _dots(
    problem.y[:, None, :] * wide_share, along
  )
  bend = _dots(problem.penalty[:, :, None] * step, step)
  start = jnp.abs(_dots(gradient, step))

  def slope_and_curve(t):
    p = _probabilities(logits + _wide(t) * along, link)
    pull = p * along
    curve = jnp.einsum('nsk,ns->s', pull * along, problem.share)
    if link == 'softmax':
      curve -= jnp.einsum('ns,ns->s', pull.sum(-1) ** 2, problem.share)
    else:
      curve -= jnp.einsum('nsk,ns->s', pull * pull, problem.share)
    slope = jnp.einsum('nsk,ns->s', pull, problem.share)
    return slope + fixed + t * bend, jnp.maximum(curve + bend, 1e-30)

  def refine(carry):
    i, t, low, high, done = carry
    slope, curve = slope_and_curve(t)
    found = done | (jnp.abs(slope) <= _SLOPE * start)
    low = jnp.where(slope < 0, t, low)
    high = jnp.where(slope < 0, high, t)
    newton = jnp.minimum(t - slope / curve, 4 * t)
    middle = jnp.where(jnp.isinf(high), 2 * t, (low + high) / 2)
    inside = (newton > low) & (newton < high)
    t = jnp.where(found, t, jnp.where(inside, newton, middle))
    return i + 1, t, low, high, found

  ones = jnp.ones_like(start)
  _, t, low, _, found = jax.lax.while_loop(
    lambda carry: (carry[0] < _SEARCHES) & ~jnp.all(carry[-1]),
    refine,
    (0, ones, 0 * ones, jnp.inf * ones, ~live),
  )
  # By convexity the loss at `low`, where the slope still falls, is no higher.
  t = jnp.where(live, jnp.where(found, t, low), 0.0)
  return t, along


def _direction(gradient, metric, moves, changes, weight, newest):
  """The two-loop recursion of L-BFGS over a ring of _MEMORY pairs."""

  def backward(j, carry):
    q, alphas = carry
    k = (newest - j) % _MEMORY
    alpha = weight[k] * _dots(moves[k], q)
    return q - _wide(alpha) * changes[k], alphas.at[k].set(alpha)

  def forward(j, q):
    k = (newest + 1 + j) % _MEMORY
    beta = weight[k] * _dots(changes[k], q)
    return q + _wide(alphas[k] - beta) * moves[k]

  q, alphas = jax.lax.fori_loop(
    0, _MEMORY, backward, (gradient, jnp.zeros_like(weight))
  )
  q = jax.lax.fori_loop(0, _MEMORY, forward, q / metric)
  return -q


@functools.partial(jax.jit, static_argnames=('link', 'max_steps'))
def _minimise(problem: _Problem, tolerance, *, link: str, max_steps: int):
  """L-BFGS over all problems: w [D, S, K], gradient left [S], steps."""
  shape = (problem.x.shape[1], problem.share.shape[1], problem.y.shape[1])
  w = jnp.zeros(shape, problem.x.dtype)
  logits = jnp.zeros((len(problem.x), *shape[1:]), w.dtype)
  gradient, metric = _gradient(problem, w, logits, link)
  ring = jnp.zeros((_MEMORY, *shape), w.dtype)

  def left(gradient):
    return jnp.max(jnp.abs(gradient), axis=(0, 2))

  def proceed(carry):
    return (carry[0] < max_steps) & jnp.any(left(carry[3]) > tolerance)

  def advance(carry):
    i, w, logits, gradient, metric, moves, changes, weight = carry
    live = left(gradient) > tolerance
    step = _direction(
      gradient, metric, moves, changes, weight, (i - 1) % _MEMORY
    )
    t, along = _search(problem, w, logits, step, gradient, live, link)
    move = _wide(t) * step
    w, logits = w + move, logits + _wide(t) * along
    fresh, metric = _gradient(problem, w, logits, link)
    change = fresh - gradient
    bend = _dots(move, change)
    usable = bend > 1e-30
    bend = jnp.where(usable, 1 / jnp.where(usable, bend, 1.0), 0.0)
    k = i % _MEMORY
    return (
      i + 1,
      w,
      logits,
      fresh,
      metric,
      moves.at[k].set(move),
      changes.at[k].set(change),
      weight.at[k].set(bend),
    )

  carry = (
    0,
    w,
    logits,
    gradient,
    metric,
    ring,
    ring,
    jnp.zeros((_MEMORY, shape[1]), w.dtype),
  )
  steps, w, _, gradient, *_ = jax.lax.while_loop(proceed, advance, carry)
  return w, left(gradient), steps


class _Frame(NamedTuple):
  """Where the problem is solved: `(x - centre) @ axes`."""

  centre: np.ndarray  # f64[F]
  axes: np.ndarray  # f64[F, D], orthogonal columns of length 1 / scale
  scale: float  # of the features, so that tolerance means the same for all


def _frame(x: np.ndarray) -> _Frame:
  """The principal axes of features f64[N, F]; D = min(N, F)."""
  centre = x.mean(0)
  x = x - centre
  scale = float(np.sqrt(np.mean(x * x))) or 1.0
  if len(x) < x.shape[1]:
    axes = np.linalg.svd(x, full_matrices=False)[2].T
  else:
    axes = np.linalg.eigh(x.T @ x)[1]
  return _Frame(centre, axes / scale, scale)


def _checked_weights(sample_weights, rows: int, problems: int) -> np.ndarray:
  """Weights f64[S, N]; see `fit`."""
  weights = np.ones(rows) if sample_weights is None else sample_weights
  weights = np.broadcast_to(np.asarray(weights, np.float64), (problems, rows))
  if (weights < 0).any() or not (weights.sum(1) > 0).all():
    raise ValueError('sample_weights must be >= 0 with a positive sum.')
  return weights


def fit(
  features: np.ndarray,
  targets: np.ndarray,
  *,
  classes: int,
  C: Sequence[float],
  sample_weights: np.ndarray | None = None,
  max_steps: int = 1000,
  tolerance: float = 1e-5,
  precision: str = 'float32',
) -> Fit:
  """Minimises, for every s, the mean loss + |W|^2 / (2 C_s n_s), bias free.

  This is scikit-learn's objective (n_s: total weight). The loss is the
  cross-entropy of classes, or for bits the sum over labels of the binary
  cross-entropy, which is one separate scikit-learn problem a label.

  Args:
    features: f[N, F], finite where a weight is positive.
    targets: int[N] classes, or bits int[N, L].
    classes: K or L.
    C: S inverse penalties.
    sample_weights: f[N], or f[S, N] for one row a problem (a label fraction,
      a bootstrap); rows without weight never matter. Default: all 1.
    max_steps: a bound for problems that hardly converge (large C on separable
      data); `gradient` then tells what is left.
    tolerance: stop when no entry of the gradient is larger, for features of
      unit variance (scikit-learn: 1e-4 in the units of the features).
    precision: 'float32', or 'float64' (twice the time on CPU).

  Raises:
    ValueError: shapes that do not fit, a weight that is negative or sums to 0,
      C <= 0, or features that are not finite.
  """
  choices.check(precision, PRECISIONS, key='precision')
  features, targets = np.asarray(features), np.asarray(targets)
  c = np.asarray(C, np.float64)
  if c.ndim != 1 or not c.size or not (c > 0).all():
    raise ValueError(f'C must be a list of positive numbers, not {C}.')
  if len(features) != len(targets):
    raise ValueError(f'{len(features)} features, {len(targets)} targets.')
  weights = _checked_weights(sample_weights, len(features), len(c))
  used = weights.any(0)
  x, y = features[used].astype(np.float64), targets[used]
  if not np.isfinite(x).all():
    raise ValueError('features hold NaN or infinity in rows with weight.')
  frame = _frame(x)
  x = np.pad((x - frame.centre) @ frame.axes, ((0, 0), (0, 1)))
  x[:, -1] = 1.0
  total = weights.sum(1)
  penalty = np.tile(1 / (c * total * frame.scale**2), (x.shape[1], 1))
  penalty[-1] = 0.0
  link = 'sigmoid' if y.ndim == 2 else 'softmax'
  y = y if y.ndim == 2 else y[:, None] == np.arange(classes)
  share = (weights / total[:, None])[:, used].T
  with jax.enable_x64(precision == 'float64'):
    arrays = [jnp.asarray(a, precision) for a in (x, y, share, penalty)]
    w, left, steps = jax.device_get(
      _minimise(_Problem(*arrays), tolerance, link=link, max_steps=max_steps)
    )
  w = w.astype(np.float64)
  turned = np.einsum('fd,dsk->sfk', frame.axes, w[:-1], optimize=True)
  bias = w[-1] - np.einsum('f,sfk->sk', frame.centre, turned)
  return Fit(turned, bias, left, int(steps))


def logits(fitted: Fit, features: np.ndarray) -> np.ndarray:
  """Logits f64[S, N, K] of features [N, F]."""
  return (
    np.asarray(features, np.float64) @ fitted.weights + (fitted.bias[:, None])
  )


def probabilities(
  fitted: Fit, features: np.ndarray, *, link: str = 'softmax'
) -> np.ndarray:
  """Probabilities f64[S, N, K]; `link` is softmax, or sigmoid for bits."""
  choices.check(link, ('softmax', 'sigmoid'), key='link')
  values = logits(fitted, features)
  if link == 'sigmoid':
    return 1 / (1 + np.exp(-values))
  values = np.exp(values - values.max(-1, keepdims=True))
  return values / values.sum(-1, keepdims=True)
