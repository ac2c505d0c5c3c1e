"""Self-distillation: the head, the teacher's targets, their cross-entropy.

The L_CL of SkySense V2 (Eq. 4 refers to DINO). The equation prints student and
teacher in swapped roles; this is DINO's direction, -sum p_teacher log p_student
with a gradient through the student alone. Head, temperatures, centring and
Sinkhorn are NOT FOUND in the paper; DEFAULT DINOv2's ViT-L recipe.

Memory: at K = 65,536 a float32 [N, K] decides what fits. Teacher logits and
targets are one array where XLA may work in place; the cross-entropy has a
written VJP that keeps student logits, targets and a logarithm per row, so its
gradient is the only other array of that size. No log-probabilities and no
probabilities of the student are kept. Where even these do not fit, `chunked`
makes the same loss from bottlenecks and directions.
"""

import dataclasses
from typing import Literal, NamedTuple, get_args

from flax import nnx
import jax
import jax.numpy as jnp

from rsfm_jax.core import choices
from rsfm_jax.core import rng
from rsfm_jax.nn import linear
from rsfm_jax.objectives import sinkhorn

Array = jax.Array
Kind = Literal['sinkhorn', 'centring']

# Lengths below it count as this length (DINOv2's head).
LENGTH_EPS = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadSpec:
  """Sizes of a head; the defaults are DINOv2's.

  Attributes:
    dim_in: features D.
    hidden: F of the hidden layers.
    bottleneck: what is L2-normalised.
    outputs: K.
    layers: dense layers up to the bottleneck, at least 1.
  """

  dim_in: int
  hidden: int = 2048
  bottleneck: int = 256
  outputs: int = 65536
  layers: int = 3

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value < 1:
        raise ValueError(f'head.{field.name}={value} must be at least 1.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetSpec:
  """How logits of the teacher become targets, and the student's softmax.

  Attributes:
    kind: 'sinkhorn' over all rows of the global batch, or 'centring'.
    iterations: of Sinkhorn.
    student_temperature: 0.1.
    centre_momentum: of the centre, which only 'centring' has.
    chunk: rows of every sample whose logits exist at once, at least 1; None
      for as many as fit (`chunked.rows_at_once`).
  """

  kind: Kind = 'sinkhorn'
  iterations: int = 3
  student_temperature: float = 0.1
  centre_momentum: float = 0.9
  chunk: int | None = None

  def __post_init__(self):
    choices.check(self.kind, get_args(Kind), key='targets.kind')
    if self.chunk is not None and self.chunk < 1:
      raise ValueError(f'targets.chunk={self.chunk} must be at least 1.')
    if self.student_temperature <= 0:
      raise ValueError(
        f'targets.student_temperature={self.student_temperature} must be '
        'above 0.'
      )


class Vectors(NamedTuple):
  """What logits are products of: z [..., b] and directions f32[b, K]."""

  z: Array
  directions: Array


class Contrast(NamedTuple):
  """A scalar, the teacher's targets [N, K], the next centre [K] or None."""

  loss: Array
  targets: Array
  centre: Array | None


class Head(nnx.Module):
  """MLP with GELUs, L2-normalised bottleneck, cosines to K directions.

  Source: facebookresearch/dinov2 layers/dino_head.py, without batch norm. Its
  weight norm has a gain fixed at 1, so the gain is no parameter here.
  """

  def __init__(
    self, spec: HeadSpec, *, key: Array, std: float | None = linear.DEFAULT_STD
  ):
    inner = [spec.hidden] * (spec.layers - 1)
    sizes = [spec.dim_in, *inner, spec.bottleneck]
    self.layers = spec.layers
    for i, (d_in, d_out) in enumerate(zip(sizes[:-1], sizes[1:])):
      name = f'layer_{i}'
      dense = linear.Dense(d_in, d_out, key=rng.named(key, name), std=std)
      setattr(self, name, dense)
    self.directions = nnx.Param(
      linear.truncated_normal(
        rng.named(key, 'directions'),
        (spec.bottleneck, spec.outputs),
        None,
      )
    )

  def bottleneck(self, x: Array) -> Array:
    """x: [..., D] -> unit vectors [..., bottleneck], in the dtype of `x`."""
    for i in range(self.layers):
      x = x if i == 0 else jax.nn.gelu(x, approximate=False)
      x = getattr(self, f'layer_{i}')(x)
    return unit(x).astype(x.dtype)

  def vectors(self, x: Array, *, last_layer: Array | float = 1.0) -> Vectors:
    """The two factors of the logits, of length 1.

    Args:
      x: [..., D].
      last_layer: factor on the gradient of the directions, such as
        `last_layer_factor(step, ...)`; 0 freezes them.
    """
    directions = scale_gradient(self.directions[...], last_layer)
    return Vectors(self.bottleneck(x), unit(directions, 0))

  def __call__(self, x: Array, *, last_layer: Array | float = 1.0) -> Array:
    """Logits [..., K] in [-1, 1], as `logits`; see `vectors`."""
    return logits(self.vectors(x, last_layer=last_layer))


def logits(vectors: Vectors) -> Array:
  """Products [..., K], accumulated and returned in float32."""
  z, directions = vectors
  return jnp.einsum(
    '...d,dk->...k',
    z,
    directions.astype(z.dtype),
    preferred_element_type=jnp.float32,
  )


def unit(x: Array, axis: int = -1) -> Array:
  """Vectors of length 1 in float32; the zero vector stays, without NaN."""
  x = x.astype(jnp.float32)
  square = jnp.square(x).sum(axis, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, LENGTH_EPS**2))


@jax.custom_vjp
def scale_gradient(x: Array, factor: Array | float) -> Array:
  """`x` forward; its gradient times `factor` backward."""
  del factor
  return x


def _scale_gradient_backward(factor, dx):
  # A frozen layer stays frozen whatever the gradient is.
  return jnp.where(factor == 0, 0, dx * factor).astype(dx.dtype), None


scale_gradient.defvjp(
  lambda x, factor: (x, jnp.asarray(factor, jnp.float32)),
  _scale_gradient_backward,
)


def last_layer_factor(step: Array | int, frozen_steps: int) -> Array:
  """0 during the first `frozen_steps` steps, then 1 (DEFAULT 1 % of all)."""
  return jnp.where(jnp.asarray(step) < frozen_steps, 0.0, 1.0)


def teacher_temperature(
  step: Array | int,
  *,
  warmup_steps: int,
  start: float = 0.04,
  end: float = 0.07,
) -> Array:
  """Linear from `start` to `end`, which the last step of the warm-up has.

  DEFAULT of SkySense V2: 6 % of all steps (DINOv2's 30 of 500 epochs).
  """
  step = jnp.asarray(step, jnp.float32)
  done = step / max(warmup_steps - 1, 1)
  return jnp.where(step < warmup_steps, start + (end - start) * done, end)


def weighted(x: Array, weights: Array) -> Array:
  """`x` where the weight is above 0, else 0: [..., D] and [...]."""
  return jnp.where((weights > 0)[..., None], x, 0)


def row_mean(rows: Array, weights: Array) -> Array:
  """Weighted mean over the first axis in float32; 0 when nothing counts."""
  shape = (-1,) + (1,) * (rows.ndim - 1)
  weights = weights.astype(jnp.float32)
  rows = jnp.where((weights > 0).reshape(shape), rows, 0)
  total = weights.sum()
  summed = (weights.reshape(shape) * rows.astype(jnp.float32)).sum(0)
  return summed / jnp.where(total > 0, total, 1)


def entropy(chances: Array) -> Array:
  """Of the last axis, in nats; 0 ln 0 = 0."""
  positive = jnp.where(chances > 0, chances, 1)
  return -(chances * jnp.log(positive)).sum(-1)


def targets(
  teacher_logits: Array,
  *,
  weights: Array,
  temperature: Array | float,
  kind: Kind = 'sinkhorn',
  centre: Array | None = None,
  iterations: int = 3,
) -> Array:
  """What the student has to predict; no gradient passes.

  Args:
    teacher_logits: [N, K], all rows of the global batch.
    weights: bool or float [N]; rows with 0 are not seen by the others.
    temperature: of the teacher.
    kind: 'sinkhorn' (DINOv2) or 'centring', softmax((t - centre) / T).
    centre: f32[K], for 'centring'.
    iterations: of Sinkhorn.

  Returns:
    f32[N, K], rows sum to 1; 0 where the weight is 0.

  Raises:
    ValueError: an unknown kind, or 'centring' without a centre.
  """
  choices.check(kind, get_args(Kind), key='targets.kind')
  logits = jax.lax.stop_gradient(teacher_logits).astype(jnp.float32)
  if kind == 'sinkhorn':
    found = sinkhorn.sinkhorn(
      logits, iterations=iterations, temperature=temperature, weights=weights
    )
  else:
    found = (logits - checked_centre(centre)[None]) / temperature
    found = jax.nn.softmax(found)
  return jax.lax.stop_gradient(weighted(found, weights))


def checked_centre(centre: Array | None) -> Array:
  """Raises ValueError where 'centring' has no centre."""
  if centre is None:
    raise ValueError("targets.kind='centring' needs a centre f32[K].")
  return centre


def new_centre(
  centre: Array, teacher_logits: Array, weights: Array, momentum: float = 0.9
) -> Array:
  """The moving mean of teacher logits: f32[K]; unmoved when no row counts."""
  mean = row_mean(jax.lax.stop_gradient(teacher_logits), weights)
  moved = momentum * centre + (1 - momentum) * mean
  return jnp.where((weights > 0).any(), moved, centre)


def cross_entropy(
  student_logits: Array,
  targets: Array,
  *,
  weights: Array,
  temperature: Array | float = 0.1,
) -> Array:
  """Weighted mean over rows of -sum_k targets_k log softmax(student / T)_k.

  Args:
    student_logits: [N, K].
    targets: f32[N, K]; no gradient.
    weights: bool or float [N]; what stands in rows of weight 0 has no effect.
    temperature: of the student.

  Returns:
    f32[]; 0 when no row counts.
  """
  weights = weights.astype(jnp.float32)
  total = weights.sum()
  share = weights / jnp.where(total > 0, total, 1)
  temperature = jnp.asarray(temperature, jnp.float32)
  return _cross_entropy(student_logits, targets, share, temperature)


@jax.custom_vjp
def _cross_entropy(student, targets, share, temperature):
  return _cross_entropy_forward(student, targets, share, temperature)[0]


def _cross_entropy_forward(student, targets, share, temperature):
  logits = weighted(student, share).astype(jnp.float32) / temperature
  wanted = weighted(targets, share).astype(jnp.float32)
  log_total = jax.nn.logsumexp(logits, -1)
  mass = wanted.sum(-1)
  rows = log_total * mass - (wanted * logits).sum(-1)
  saved = (student, targets, share, temperature, log_total, mass)
  return (share * rows).sum(), saved


def _cross_entropy_backward(saved, dy):
  student, targets, share, temperature, log_total, mass = saved
  logits = weighted(student, share).astype(jnp.float32) / temperature
  chance = jnp.exp(logits - log_total[:, None]) * mass[:, None]
  factor = dy * share / temperature
  gradient = (chance - weighted(targets, share)) * factor[:, None]
  return gradient.astype(student.dtype), None, None, None


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def contrast(
  student_logits: Array,
  teacher_logits: Array,
  *,
  weights: Array,
  spec: TargetSpec,
  teacher_temperature: Array | float,
  centre: Array | None = None,
) -> Contrast:
  """L_CL of rows that show the same thing: [N, K] and [N, K], weights [N].

  The centre that is returned is the one for the next step, as in DINO.
  """
  wanted = targets(
    teacher_logits,
    weights=weights,
    temperature=teacher_temperature,
    kind=spec.kind,
    centre=centre,
    iterations=spec.iterations,
  )
  loss = cross_entropy(
    student_logits,
    wanted,
    weights=weights,
    temperature=spec.student_temperature,
  )
  if spec.kind == 'centring':
    centre = new_centre(centre, teacher_logits, weights, spec.centre_momentum)
  return Contrast(loss, wanted, centre)
