"""The contrast of many rows against many outputs, some rows at a time.

Float32 logits [N, K] of all pixels do not fit beside a large network, so what
is compared are the heads' bottlenecks [B, R, b] and directions [b, K]: logits
of a chunk of rows are made, used and dropped, in each iteration of Sinkhorn, in
the loss and again in its written VJP. Memory is O(chunk x K), for one more
product of teacher logits per iteration and two in the backward pass.

Both kinds of targets are softmax(teacher / T + bias) with a bias [K]: the
centre's for 'centring', Sinkhorn's scales of the columns for 'sinkhorn'. So
one pass finds the bias and one the loss.

Samples stay on the first axis, which devices share; a chunk takes some rows of
every sample, so no row moves between devices. What is summed over rows stays
apart by sample until the last chunk, but for the gradient of the directions.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rsfm_jax.objectives import dino
from rsfm_jax.objectives import sinkhorn

Array = jax.Array
logsumexp = jax.scipy.special.logsumexp

# Float32 logits of all devices up to it are made at once.
WHOLE_BYTES = 256 * 2**20
# Of the logits of one sample's rows in a chunk; with eight samples on a device
# an array of them has 256 MiB there.
SAMPLE_BYTES = 32 * 2**20


class Contrast(NamedTuple):
  """f32[] loss; the next centre or None; for `collapse.numbers`.

  Attributes:
    loss: with a gradient for the student.
    centre: f32[K], or None with Sinkhorn.
    entropy: f32[], mean over counted rows of the targets' entropy, in nats.
    target: f32[K], mean over counted rows.
  """

  loss: Array
  centre: Array | None
  entropy: Array
  target: Array


class _Taught(NamedTuple):
  """What makes targets; no gradient. [c, B, r, b], [b, K], [K], f32[]."""

  z: Array
  directions: Array
  bias: Array
  temperature: Array


def rows_at_once(samples: int, rows: int, outputs: int) -> int:
  """Rows of every sample in a chunk; all where their logits are small.

  It follows from the sizes of the whole batch, so that the number of devices
  changes no value.
  """
  if samples * rows * outputs * 4 <= WHOLE_BYTES:
    return rows
  return min(rows, max(1, SAMPLE_BYTES // (outputs * 4)))


def contrast(
  student: dino.Vectors,
  teacher: dino.Vectors,
  *,
  weights: Array,
  spec: dino.TargetSpec,
  teacher_temperature: Array | float,
  centre: Array | None = None,
) -> Contrast:
  """`dino.contrast` of rows whose logits need not exist at once.

  Args:
    student: z [B, R, b] and directions [b, K]; samples on the first axis.
    teacher: the same rows; no gradient.
    weights: bool or float [B, R]; what stands in rows of weight 0 has no
      effect.
    spec: its `chunk` is the number of rows of every sample at once; None for
      `rows_at_once`.
    teacher_temperature: of the targets, at this step.
    centre: f32[K], for 'centring'.

  Returns:
    The loss, 0 when no row counts, and what the log needs.

  Raises:
    ValueError: 'centring' without a centre.
  """
  samples, rows = weights.shape
  outputs = student.directions.shape[-1]
  chunk = spec.chunk or rows_at_once(samples, rows, outputs)
  run = _whole if chunk >= rows else functools.partial(_by_chunks, chunk)
  return run(
    student,
    jax.lax.stop_gradient(teacher),
    weights.astype(jnp.float32),
    spec,
    jnp.asarray(teacher_temperature, jnp.float32),
    centre,
  )


def _whole(student, teacher, weights, spec, temperature, centre) -> Contrast:
  flat = lambda v: dino.Vectors(v.z.reshape(-1, v.z.shape[-1]), v.directions)
  weights = weights.reshape(-1)
  out = dino.contrast(
    dino.logits(flat(student)),
    dino.logits(flat(teacher)),
    weights=weights,
    spec=spec,
    teacher_temperature=temperature,
    centre=centre,
  )
  entropy = dino.row_mean(dino.entropy(out.targets), weights)
  target = dino.row_mean(out.targets, weights)
  return Contrast(out.loss, out.centre, entropy, target)


def _by_chunks(
  chunk, student, teacher, weights, spec, temperature, centre
) -> Contrast:
  rows = functools.partial(cut, chunk=chunk)
  total = weights.sum()
  share = rows(weights / jnp.where(total > 0, total, 1))
  z, taught_z = (dino.weighted(v.z, weights) for v in (student, teacher))
  taught = _Taught(
    rows(taught_z),
    teacher.directions,
    jnp.zeros(teacher.directions.shape[-1]),
    temperature,
  )
  if spec.kind == 'sinkhorn':
    bias = sinkhorn_bias(taught, rows(weights), spec.iterations)
  else:
    bias = -dino.checked_centre(centre) / temperature
    # The mean of logits is the logit of the mean.
    flat = taught_z.reshape(-1, taught_z.shape[-1])
    mean = dino.row_mean(flat, weights.reshape(-1))[None]
    centre = dino.new_centre(
      centre,
      dino.logits(dino.Vectors(mean, teacher.directions)),
      (weights > 0).any()[None],
      spec.centre_momentum,
    )
  loss, entropy, target = _crossed(
    rows(z),
    student.directions,
    jax.lax.stop_gradient(taught._replace(bias=bias)),
    share,
    jnp.asarray(spec.student_temperature, jnp.float32),
  )
  return Contrast(loss, centre, *jax.lax.stop_gradient((entropy, target)))


def cut(x: Array, chunk: int) -> Array:
  """[B, R, ...] -> [chunks, B, chunk, ...]; zeros fill up the last one."""
  samples, rows = x.shape[:2]
  count = -(-rows // chunk)
  fill = [(0, 0), (0, count * chunk - rows)] + [(0, 0)] * (x.ndim - 2)
  x = jnp.pad(x, fill)
  return x.reshape(samples, count, chunk, *x.shape[2:]).swapaxes(0, 1)


def sinkhorn_bias(taught: _Taught, weights: Array, iterations: int) -> Array:
  """Sinkhorn's scales of the columns over all rows: f32[K].

  The same iterations as `sinkhorn.sinkhorn`, each a scan over chunks: rows are
  scaled by the columns of the iteration before and added to the new columns.

  Args:
    taught: teacher's rows; its bias is not read.
    weights: f32[chunks, B, chunk].
    iterations: at least 1.
  """
  sinkhorn.check(iterations)
  samples, outputs = weights.shape[1], taught.directions.shape[-1]

  def iterate(columns, first):
    def add(total, given):
      z, mass = given
      logits = _products(z, taught.directions) / taught.temperature
      scaled = -logsumexp(logits + columns[None, None], axis=-1)
      rows = jnp.where(first, 0, scaled) + jnp.log(mass)
      return jnp.logaddexp(total, logsumexp(logits + rows[..., None], 1)), None

    empty = jnp.full((samples, outputs), -jnp.inf)
    total = jax.lax.scan(add, empty, (taught.z, weights))[0]
    total = logsumexp(total, 0)
    # No row counts: columns stay as they are.
    return jnp.where(jnp.isfinite(total), -total, 0), None

  first = jnp.arange(iterations) == 0
  return jax.lax.scan(iterate, jnp.zeros(outputs), first)[0]


def _products(z: Array, directions: Array) -> Array:
  """f32[B, r, K]."""
  return dino.logits(dino.Vectors(z, directions))


@jax.custom_vjp
def _crossed(z, directions, taught, share, temperature):
  """Cross-entropy, mean entropy of the targets, mean target [K]."""
  return _crossed_forward(z, directions, taught, share, temperature)[0]


def _crossed_forward(z, directions, taught, share, temperature):
  def add(sums, given):
    z, taught_z, share = given
    wanted = _products(taught_z, taught.directions) / taught.temperature
    wanted += taught.bias[None, None]
    log_taught = logsumexp(wanted, -1)
    log_wanted = wanted - log_taught[..., None]
    chance = jnp.exp(log_wanted)
    logits = _products(z, directions) / temperature
    log_total = logsumexp(logits, -1)
    crossed = log_total - (chance * logits).sum(-1)
    entropy = -(chance * log_wanted).sum(-1)
    found = (
      (share * crossed).sum(1),
      (share * entropy).sum(1),
      (share[..., None] * chance).sum(1),
    )
    return jax.tree.map(jnp.add, sums, found), (log_taught, log_total)

  samples = z.shape[1]
  empty = (jnp.zeros(samples),) * 2
  empty += (jnp.zeros((samples, directions.shape[-1])),)
  sums, logs = jax.lax.scan(add, empty, (z, taught.z, share))
  saved = (z, directions, taught, share, temperature, logs)
  return tuple(x.sum(0) for x in sums), saved


def _crossed_backward(saved, dy):
  z, directions, taught, share, temperature, logs = saved
  factor = dy[0] * share / temperature

  def add(total, given):
    z, taught_z, factor, (log_taught, log_total) = given
    wanted = _products(taught_z, taught.directions) / taught.temperature
    wanted = jnp.exp(wanted + taught.bias[None, None] - log_taught[..., None])
    logits = _products(z, directions) / temperature
    chance = jnp.exp(logits - log_total[..., None])
    gradient = (chance - wanted) * factor[..., None]
    dz = jnp.einsum('brk,dk->brd', gradient, directions.astype(jnp.float32))
    moved = jnp.einsum('brd,brk->dk', z.astype(jnp.float32), gradient)
    return total + moved, dz.astype(z.dtype)

  empty = jnp.zeros(directions.shape, jnp.float32)
  given = (z, taught.z, factor, logs)
  total, dz = jax.lax.scan(add, empty, given)
  return dz, total.astype(directions.dtype), None, None, None


_crossed.defvjp(_crossed_forward, _crossed_backward)
