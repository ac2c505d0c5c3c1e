"""Query-based semantic aggregation: QSACL of SkySense V2 (section 3.2, Eq. 3).

Learnt queries read the fused tokens of all global views, and of all local
views. What a query finds in the one is compared with what the same query of the
teacher finds in the other, so the teacher encodes local views too.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from rsfm_jax.core import rng
from rsfm_jax.nn import decoder
from rsfm_jax.nn import linear
from rsfm_jax.objectives import chunked
from rsfm_jax.objectives import collapse
from rsfm_jax.objectives import dino

Array = jax.Array
Head = Callable[[Array], dino.Vectors]


class Aggregated(NamedTuple):
  """What the queries found: [B, m, D] in global and in local views."""

  of_global: Array
  of_local: Array


class Loss(NamedTuple):
  """f32[]; the next centre f32[K] or None; numbers of `collapse.monitor`."""

  value: Array
  centre: Array | None
  watch: dict[str, Array]


class Queries(nnx.Module):
  """m learnt queries and the decoder layers that let them read tokens.

  The paper has m = 16 and one layer; DEFAULT width 1024 and 16 heads.
  """

  def __init__(
    self,
    m: int,
    dim: int,
    heads: int,
    *,
    key: Array,
    depth: int = 1,
    std: float | None = linear.DEFAULT_STD,
  ):
    if m < 1 or depth < 1:
      raise ValueError(
        f'queries.m={m} and queries.depth={depth} must be at least 1.'
      )
    self.queries = nnx.Param(
      linear.truncated_normal(rng.named(key, 'queries'), (m, dim))
    )
    self.depth = depth
    for i in range(depth):
      name = f'layer_{i}'
      layer = decoder.DecoderLayer(
        dim, heads, key=rng.named(key, name), std=std
      )
      setattr(self, name, layer)

  def __call__(self, tokens: Array, valid: Array | None = None) -> Array:
    """Reads all views of a kind at once, joined along the tokens.

    Args:
      tokens: [B, S, D].
      valid: bool[B, S], which of them count; all unless given. What stands in
        the others has no effect.

    Returns:
      [B, m, D] in the dtype of `tokens`; finite where no token counts.
    """
    z = self.start(tokens)
    for i in range(self.depth):
      z = getattr(self, f'layer_{i}')(z, tokens, valid)
    return z

  def maps(self, tokens: Array, valid: Array | None = None) -> Array:
    """Where each query looks in the last layer: f32[B, N, m, S]."""
    z = self.start(tokens)
    for i in range(self.depth - 1):
      z = getattr(self, f'layer_{i}')(z, tokens, valid)
    return getattr(self, f'layer_{self.depth - 1}').maps(z, tokens, valid)

  def start(self, tokens: Array) -> Array:
    """The queries of every sample, in the tokens' dtype: [B, m, D]."""
    queries = self.queries[...].astype(tokens.dtype)
    return jnp.broadcast_to(queries[None], (len(tokens), *queries.shape))


def looks(
  params: Any, tokens: Array, *, heads: int, valid: Array | None = None
) -> Array:
  """Where trained queries look, from their parameters: f32[B, m, S].

  Means over the attention heads of the last layer; rows sum to 1.

  Args:
    params: nested dict of a `Queries`.
    tokens: [B, S, D].
    heads: attention heads, `objective.query_heads` of their run.
    valid: bool[B, S], which of the tokens count.
  """
  m, dim = params['queries'].shape
  depth = sum(name.startswith('layer_') for name in params)
  made = nnx.eval_shape(
    lambda: Queries(m, dim, heads, key=jax.random.key(0), depth=depth)
  )
  queries = nnx.merge(nnx.split(made)[0], params)
  return queries.maps(tokens, valid).mean(1)


def loss(
  student: Aggregated,
  teacher: Aggregated,
  *,
  weights: Array,
  student_head: Head,
  teacher_head: Head,
  teacher_temperature: Array | float,
  targets: dino.TargetSpec | None = None,
  centre: Array | None = None,
) -> Loss:
  """Mean over queries of [CL(z^g, z^l') + CL(z^l, z^g')] / 2.

  Both directions, all queries and all samples are rows of one batch: one call
  of each head, one Sinkhorn (NOT FOUND; DEFAULT so that different queries are
  pushed to different outputs).

  Args:
    student: [B, m, D] of global and of local views.
    teacher: the same; no gradient.
    weights: bool or float [B], samples that count.
    student_head: [B, 2 m, D] -> its factors of the logits.
    teacher_head: its moving average.
    teacher_temperature: of the targets, at this step.
    targets: Sinkhorn or centring; its defaults unless given.
    centre: f32[K], for centring.

  Returns:
    The loss, 0 when no sample counts; centre and numbers to log.
  """
  targets = targets or dino.TargetSpec()
  count = 2 * student.of_global.shape[1]
  rows = jnp.broadcast_to(
    weights.astype(jnp.float32)[:, None], (len(weights), count)
  )

  def joined(first, second):
    return dino.weighted(jnp.concatenate([first, second], 1), rows)

  features = joined(student.of_global, student.of_local)
  teacher = jax.lax.stop_gradient(teacher)
  out = chunked.contrast(
    student_head(features),
    teacher_head(joined(teacher.of_local, teacher.of_global)),
    weights=rows,
    spec=targets,
    teacher_temperature=teacher_temperature,
    centre=centre,
  )
  watch = collapse.numbers(
    features.reshape(-1, features.shape[-1]),
    rows.reshape(-1),
    crossed=out.loss,
    entropy=out.entropy,
    target=out.target,
  )
  return Loss(out.loss, out.centre, watch)
