"""The trained linear probe: BatchNorm + Linear by AdamW, a sweep at once.

Galileo and OlmoEarth train this head for a sweep of learning rates, and of
ways to pool and normalise, and keep the best on validation; several runs differ
by their seed. Here all of it is one vmapped program over V views of the
features, Z seeds and S rates. The statistics of the BatchNorm do not depend on
the rate, so a batch is normalised once for all rates, and its gain and offset
are folded into the linear map.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.train import optim

_EPSILON = 1e-5  # torch BatchNorm1d
_MOMENTUM = 0.1


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How the probe is trained.

  Source: `train_probe` of Galileo and OlmoEarth (evaluation protocols).

  Attributes:
    epochs: passes over the training features.
    batch_size: the last batch of a pass is smaller, as in the harnesses.
    warmup_share: of the epochs, rounded down to whole epochs.
    min_learning_rate: where the cosine ends.
    weight_decay: on every parameter, biases and BatchNorm included.
    evaluate_every: epochs between validations; None: at the end only. The
      best state of each rate is kept.
    reset_optimizer_every: epochs after which AdamW starts anew (moments and
      count). OlmoEarth's harness does this at each validation, by building a
      new optimiser; None trains cleanly but does not match its numbers.
    order: shuffled anew in each epoch, or as given.
    average: of the F1 of bits that validation goes by.
  """

  epochs: int = 50
  batch_size: int = 128
  warmup_share: float = 0.1
  min_learning_rate: float = 1e-5
  weight_decay: float = 0.01
  evaluate_every: int | None = None
  reset_optimizer_every: int | None = None
  order: Literal['shuffled', 'given'] = 'shuffled'
  average: Literal['micro', 'macro'] = 'micro'

  def __post_init__(self):
    choices.check(self.order, ('shuffled', 'given'), key='probe.order')
    choices.check(self.average, ('micro', 'macro'), key='probe.average')
    for name in ('evaluate_every', 'reset_optimizer_every'):
      value = getattr(self, name)
      if value is not None and (value < 1 or self.epochs % value):
        raise ValueError(
          f'probe.{name}={value} must divide probe.epochs={self.epochs}.'
        )


class Fit(NamedTuple):
  """Trained probes of V views, Z seeds and S learning rates.

  `params` and `statistics` are nested dicts with leading axes [V, Z, S];
  `validation` is f32[V, Z, S, R], the scores of R validations (0 without).
  """

  params: dict
  statistics: dict
  validation: np.ndarray


def initial(features: int, classes: int, *, seed: int = 0) -> dict:
  """torch's start of Linear: uniform within 1/sqrt(features)."""
  rng = np.random.default_rng(seed)
  bound = 1 / math.sqrt(features)
  return {
    'norm': {'scale': np.ones(features), 'bias': np.zeros(features)},
    'linear': {
      'kernel': rng.uniform(-bound, bound, (features, classes)),
      'bias': rng.uniform(-bound, bound, classes),
    },
  }


def _batches(size: int, recipe: Recipe, seed: int) -> np.ndarray:
  """Rows of every step, i32[epochs, steps, batch]; -1 fills the last batch."""
  steps = math.ceil(size / recipe.batch_size)
  rng = np.random.default_rng(seed)
  out = np.full((recipe.epochs, steps * recipe.batch_size), -1, np.int32)
  for row in out:
    shuffled = recipe.order == 'shuffled'
    row[:size] = rng.permutation(size) if shuffled else np.arange(size)
  return out.reshape(recipe.epochs, steps, recipe.batch_size)


def _head(params, x):
  """Logits of normalised x [B, F]; gain and offset folded into the map."""
  kernel = params['linear']['kernel']
  norm, high = params['norm'], jax.lax.Precision.HIGHEST
  offset = jnp.dot(norm['bias'], kernel, precision=high)
  logits = jnp.dot(x, norm['scale'][:, None] * kernel, precision=high)
  return logits + (params['linear']['bias'] + offset)[None]


def _loss(params, x, y, weight):
  """Mean over weighted rows; cross-entropy of classes, or mean BCE of bits."""
  logits = _head(params, x)
  if y.ndim == 1:
    picked = jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0]
    each = jax.nn.logsumexp(logits, axis=1) - picked
  else:
    each = jnp.mean(jax.nn.softplus(logits) - y * logits, axis=1)
  return jnp.sum(each * weight) / jnp.sum(weight)


def _normalise(x, mean, variance):
  return (x - mean[None]) * jax.lax.rsqrt(variance + _EPSILON)[None]


def _batch_norm(x, weight, statistics):
  """Normalises by the weighted rows; returns the moved running statistics."""
  count = jnp.sum(weight)
  mean = jnp.sum(x * weight[:, None], axis=0) / count
  square = (x - mean[None]) ** 2 * weight[:, None]
  variance = jnp.sum(square, axis=0) / count
  unbiased = variance * count / jnp.maximum(count - 1, 1)
  moved = {
    name: (1 - _MOMENTUM) * statistics[name] + _MOMENTUM * value
    for name, value in (('mean', mean), ('variance', unbiased))
  }
  return _normalise(x, mean, variance), moved


def _score(params, statistics, x, y, *, average: str):
  """Accuracy of classes, or F1 of bits at probability one half."""
  logits = _head(params, _normalise(x, **statistics))
  if y.ndim == 1:
    return jnp.mean(jnp.argmax(logits, axis=1) == y)
  bits, true = logits > 0, y > 0
  axis = None if average == 'micro' else 0
  hits = jnp.sum(bits & true, axis=axis)
  both = jnp.sum(bits, axis=axis) + jnp.sum(true, axis=axis)
  return jnp.mean(2 * hits / jnp.maximum(both, 1))


def _train_one(rate, params, rows, train, validation, *, recipe: Recipe):
  """One probe: best params and statistics, and its scores f32[R]."""
  x, y = train
  steps = rows.shape[1]
  every = recipe.evaluate_every or recipe.epochs
  reset = (recipe.reset_optimizer_every or recipe.epochs) * steps
  optimizer = optim.make(
    optim.OptimSpec(
      learning_rate=rate,
      total_steps=recipe.epochs * steps,
      decay_rules=(('.*', True),),
      min_learning_rate=recipe.min_learning_rate,
      warmup_steps=int(recipe.warmup_share * recipe.epochs) * steps,
      weight_decay=recipe.weight_decay,
      clip_norm=None,
    ),
    params,
  )

  def step(carry, row):
    count, params, statistics, moments = carry
    weight = (row >= 0).astype(x.dtype)
    batch, statistics = _batch_norm(x[row], weight, statistics)
    gradient = jax.grad(_loss)(params, batch, y[row], weight)
    moments = jax.tree.map(
      lambda m: jnp.where(count % reset == 0, jnp.zeros_like(m), m), moments
    )
    params, moments = optimizer.update(gradient, moments, params, count)
    return (count + 1, params, statistics, moments), None

  def validate(carry, rows):
    state, best = carry
    state, _ = jax.lax.scan(step, state, rows)
    now = {'params': state[1], 'statistics': state[2]}
    score = jnp.float32(0)
    if validation is not None:
      score = _score(state[1], state[2], *validation, average=recipe.average)
    # Without validation the score never grows, so keep the last state.
    better = True if validation is None else score > best[0]
    keep = functools.partial(jnp.where, better)
    best = keep(score, best[0]), jax.tree.map(keep, now, best[1])
    return (state, best), score

  zero = jnp.zeros_like(x[0])
  statistics = {'mean': zero, 'variance': zero + 1}
  start = (jnp.int32(0), params, statistics, optimizer.init(params))
  best = jnp.float32(-1), {'params': params, 'statistics': statistics}
  rounds = rows.reshape(recipe.epochs // every, every * steps, -1)
  (_, best), scores = jax.lax.scan(validate, (start, best), rounds)
  return best[1]['params'], best[1]['statistics'], scores


@functools.partial(jax.jit, static_argnames=('recipe',))
def _train(rates, params, rows, train, validation, *, recipe: Recipe):
  """All probes; see `Fit`.

  Args:
    rates: f32[S].
    params: leading axes [V, Z].
    rows: i32[Z, epochs, steps, batch].
    train: f32[V, N, F] and targets [N, ...].
    validation: the same of other samples, or None.
    recipe: of all.
  """
  pair = (0, None)
  of_validation = None if validation is None else pair
  run = functools.partial(_train_one, recipe=recipe)
  run = jax.vmap(run, (0, None, None, None, None))
  run = jax.vmap(run, (None, 0, 0, None, None))
  run = jax.vmap(run, (None, 0, None, pair, of_validation))
  return run(rates, params, rows, train, validation)


def _stack(views: Sequence[np.ndarray], width: int) -> jax.Array:
  """f32[V, N, width]; narrower views get columns of zeros.

  Exact: a column of zeros whose weights start at zero moves no logit and gets
  no gradient.
  """
  padded = [np.pad(v, ((0, 0), (0, width - v.shape[1]))) for v in views]
  return jnp.asarray(np.stack(padded), jnp.float32)


def _starts(views, width: int, classes: int, seeds: Sequence[int]) -> dict:
  """Starts [V, Z] of one width, each as `initial` gives it."""

  def one(view, seed):
    start = initial(view.shape[1], classes, seed=seed)
    more = width - view.shape[1]
    wide = lambda x: np.pad(x, [(0, more)] + [(0, 0)] * (x.ndim - 1))
    return {
      'norm': jax.tree.map(wide, start['norm']),
      'linear': start['linear'] | {'kernel': wide(start['linear']['kernel'])},
    }

  return jax.tree.map(
    lambda *leaves: np.reshape(
      leaves, (len(views), len(seeds), *leaves[0].shape)
    ),
    *(one(view, seed) for view in views for seed in seeds),
  )


def fit(
  views: Sequence[np.ndarray],
  targets: np.ndarray,
  *,
  classes: int,
  learning_rates: Sequence[float],
  recipe: Recipe = Recipe(),
  validation: tuple[Sequence[np.ndarray], np.ndarray] | None = None,
  init: dict | None = None,
  seeds: Sequence[int] = (0,),
) -> Fit:
  """Trains a probe of every view, seed and learning rate in one program.

  Args:
    views: V forms of the same N samples, f[N, F_v], finite: features under
      different scalings or poolings.
    targets: int[N] classes, or bits int[N, L].
    classes: K or L.
    learning_rates: S peaks of the schedule.
    recipe: see `Recipe`.
    validation: views and targets of other samples; each probe keeps its best
      state. Default: the last one.
    init: nested dict as `initial` returns it, instead of starts by seed; for
      views of one width.
    seeds: Z, each of a start and an order of samples.

  Raises:
    ValueError: shapes that do not fit, or features that are not finite.
  """
  views, targets = [np.asarray(view) for view in views], np.asarray(targets)
  for view in views:
    if len(view) != len(targets) or not len(view):
      raise ValueError(f'{len(view)} features, {len(targets)} targets.')
    if not np.isfinite(view).all():
      raise ValueError('features hold NaN or infinity.')
  width = max(view.shape[1] for view in views)
  if init is None:
    starts = _starts(views, width, classes, seeds)
  else:
    front = len(views), len(seeds)
    starts = jax.tree.map(
      lambda x: np.broadcast_to(x, (*front, *np.shape(x))), init
    )

  def pair(x, y):
    y = np.asarray(y)
    kind = jnp.int32 if y.ndim == 1 else jnp.float32
    return _stack([np.asarray(v) for v in x], width), jnp.asarray(y, kind)

  params, statistics, scores = jax.device_get(
    _train(
      jnp.asarray(learning_rates, jnp.float32),
      jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), starts),
      np.stack([_batches(len(targets), recipe, seed) for seed in seeds]),
      pair(views, targets),
      None if validation is None else pair(*validation),
      recipe=recipe,
    )
  )
  if validation is None:
    scores = scores[..., :0]
  return Fit(params, statistics, scores)


def logits(fitted: Fit, views: Sequence[np.ndarray]) -> np.ndarray:
  """Logits f32[V, Z, S, N, K] of V views f[N, F_v] as `fit` took them."""

  def one(params, statistics, x):
    return _head(params, _normalise(x, **statistics))

  run = jax.vmap(one, (0, 0, None))
  run = jax.vmap(run, (0, 0, None))
  run = jax.vmap(run, (0, 0, 0))
  width = fitted.params['norm']['scale'].shape[-1]
  x = _stack([np.asarray(view) for view in views], width)
  return np.asarray(run(fitted.params, fitted.statistics, x))


def only(fitted: Fit, *, view: int, seed: int, rate: int) -> Fit:
  """One of the probes, by its places; axes [1, 1, 1]."""
  cut = lambda x: x[view, None, seed, None, rate, None]
  return Fit(
    jax.tree.map(cut, fitted.params),
    jax.tree.map(cut, fitted.statistics),
    cut(fitted.validation),
  )
