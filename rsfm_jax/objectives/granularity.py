"""Contrast at pixel, object and image level: MGCL of SkySense V2 (Eq. 7-10).

Student and teacher come as vectors of the same points on the ground, so a pair
of views is one more row of a batch: all pairs (and dates) go through the heads
at once, and Sinkhorn balances the rows of all of them over all devices.

Keep the samples on the first axis, pairs and dates behind it: rows then merge
without moving between devices. Many rows are contrasted in chunks (`chunked`).
Under `jax.checkpoint` no logits or targets stay for the backward pass, only
features; heads then run forward twice.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rsfm_jax.core import choices
from rsfm_jax.objectives import chunked
from rsfm_jax.objectives import collapse
from rsfm_jax.objectives import dino
from rsfm_jax.objectives import sinkhorn

Array = jax.Array
Head = Callable[[Array], dino.Vectors]

LEVELS = ('pixel', 'object', 'image')
# Above any cosine: points that do not count are never chosen as centres.
_FAR = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterSpec:
  """How points of one image become objects; all values are DEFAULTs.

  Attributes:
    clusters: N_C (NOT FOUND in the paper).
    rounds: of assignment and new centres.
    temperature: of the cosines (SwAV's 0.05).
    iterations: of Sinkhorn.
  """

  clusters: int = 8
  rounds: int = 3
  temperature: float = 0.05
  iterations: int = 3

  def __post_init__(self):
    for name in ('clusters', 'iterations'):
      if getattr(self, name) < 1:
        raise ValueError(
          f'clusters.{name}={getattr(self, name)} must be at least 1.'
        )


class Heads(NamedTuple):
  """The same head twice: of the student and, moved slowly, of the teacher."""

  student: Head
  teacher: Head


class Losses(NamedTuple):
  """One scalar per level; what the next step and the log need.

  Attributes:
    pixel: f32[]; 0 for a level that is off.
    object: f32[].
    image: f32[].
    centres: f32[K] per level, for the next step; {} with Sinkhorn.
    watch: `collapse.monitor` at the image level; {} when that is off.
  """

  pixel: Array
  object: Array
  image: Array
  centres: dict[str, Array]
  watch: dict[str, Array]


class _Rows(NamedTuple):
  """Vectors [B, R, D] of the student and of the teacher; weights f32[B, R]."""

  student: Array
  teacher: Array
  weights: Array


def losses(
  student: Array | Sequence[Array],
  teacher: Array | Sequence[Array],
  weights: Array | Sequence[Array],
  *,
  pixel_heads: Heads,
  image_heads: Heads,
  teacher_temperature: Array | float,
  targets: dino.TargetSpec | None = None,
  clusters: ClusterSpec | None = None,
  levels: Sequence[str] = LEVELS,
  centres: Mapping[str, Array] | None = None,
) -> Losses:
  """The three losses of one kind of feature (one sensor, or the fused ones).

  Args:
    student: [B, ..., n, D]: n points of every image, pairs of views and dates
      between B and n. A sequence of such arrays where pairs have other n.
    teacher: the same points as the teacher sees them; no gradient.
    weights: bool or float [B, ..., n]; 0 outside the overlap, on invalid pixels
      and absent dates. What stands there has no effect.
    pixel_heads: for points and objects.
    image_heads: for images.
    teacher_temperature: of the targets, at this step.
    targets: Sinkhorn or centring; its defaults unless given.
    clusters: how objects are found; its defaults unless given.
    levels: those that are computed.
    centres: f32[K] per level, for centring.

  Returns:
    Means over all counted rows of all pairs.
  """
  targets = targets or dino.TargetSpec()
  clusters = clusters or ClusterSpec()
  centres = {} if centres is None else centres
  for level in levels:
    choices.check(level, LEVELS, key='granularity.levels')
  groups = []
  for group in zip(*map(_sequence, (student, teacher, weights))):
    groups.append(_cleaned(*group))
  found = dict.fromkeys(LEVELS, jnp.zeros(()))
  moved, watch = {}, {}
  for level in levels:
    heads = image_heads if level == 'image' else pixel_heads
    rows = _merge([_AT[level](group, clusters) for group in groups])
    out = chunked.contrast(
      heads.student(rows.student),
      heads.teacher(rows.teacher),
      weights=rows.weights,
      spec=targets,
      teacher_temperature=teacher_temperature,
      centre=centres.get(level),
    )
    found[level] = out.loss
    if out.centre is not None:
      moved[level] = out.centre
    if level == 'image':
      watch = collapse.numbers(
        rows.student.reshape(-1, rows.student.shape[-1]),
        rows.weights.reshape(-1),
        crossed=out.loss,
        entropy=out.entropy,
        target=out.target,
      )
  return Losses(**found, centres=moved, watch=watch)


def cluster(teacher: Array, weights: Array, spec: ClusterSpec) -> Array:
  """Soft assignment of the points of each image to its own clusters.

  Spherical k-means whose assignments Sinkhorn balances, so that no cluster is
  empty. It starts from the image's own vectors, chosen without randomness: the
  one nearest to their mean direction, then always the one farthest from those
  chosen (ties: the first). Points of weight 0 are not seen.

  Args:
    teacher: [..., n, D].
    weights: f32[..., n].
    spec: see `ClusterSpec`.

  Returns:
    f32[..., n, N_C], no gradient; rows sum to 1, 0 for points of weight 0.
  """
  teacher = jax.lax.stop_gradient(dino.weighted(teacher, weights))
  flat = teacher.reshape(-1, *teacher.shape[-2:])
  assign = jax.vmap(lambda x, w: _cluster_one(x, w, spec))
  shares = assign(dino.unit(flat), weights.reshape(len(flat), -1))
  return shares.reshape(*weights.shape, spec.clusters)


def pool(points: Array, shares: Array) -> Array:
  """Means of points, one per cluster: [..., n, D], [..., n, C] -> [..., C, D].

  `shares` f32 hold weight times assignment; clusters without any get 0.
  """
  total = shares.sum(-2)[..., None]
  summed = jnp.einsum('...nc,...nd->...cd', shares, points)
  return summed / jnp.where(total > 0, total, 1)


def _cluster_one(x: Array, weights: Array, spec: ClusterSpec) -> Array:
  """Unit vectors [n, D] of one image, weights [n] -> [n, N_C]."""

  def assigned(centres):
    return sinkhorn.sinkhorn(
      x @ centres.T,
      iterations=spec.iterations,
      temperature=spec.temperature,
      weights=weights,
    )

  def improved(_, centres):
    shares = weights[:, None] * dino.weighted(assigned(centres), weights)
    return dino.unit(pool(x, shares))

  start = _farthest_first(x, weights, spec.clusters)
  centres = jax.lax.fori_loop(0, spec.rounds, improved, start)
  return dino.weighted(assigned(centres), weights)


def _farthest_first(x: Array, weights: Array, count: int) -> Array:
  """[n, D] -> [count, D] of its rows."""
  typical = x @ dino.row_mean(x, weights)
  first = x[jnp.argmax(jnp.where(weights > 0, typical, -_FAR))]

  def choose(i, state):
    chosen, nearest = state
    nearest = jnp.maximum(nearest, x @ chosen[i - 1])
    far = jnp.argmin(jnp.where(weights > 0, nearest, _FAR))
    return chosen.at[i].set(x[far]), nearest

  chosen = jnp.zeros((count, x.shape[-1]), x.dtype).at[0].set(first)
  state = chosen, jnp.full(len(x), -_FAR, x.dtype)
  return jax.lax.fori_loop(1, count, choose, state)[0]


def _sequence(given: Array | Sequence[Array]) -> Sequence[Array]:
  return given if isinstance(given, tuple | list) else (given,)


def _cleaned(student: Array, teacher: Array, weights: Array) -> _Rows:
  """[B, P, n, D] twice in float32 and [B, P, n], zero where nothing counts."""
  if not student.shape == teacher.shape == (*weights.shape, student.shape[-1]):
    raise ValueError(
      f'student {student.shape}, teacher {teacher.shape} and weights '
      f'{weights.shape} must be [B, ..., n, D] twice and [B, ..., n].'
    )
  batch, points, dim = len(student), *student.shape[-2:]
  weights = weights.astype(jnp.float32).reshape(batch, -1, points)
  clean = lambda x: dino.weighted(
    x.reshape(batch, -1, points, dim), weights
  ).astype(jnp.float32)
  return _Rows(clean(student), jax.lax.stop_gradient(clean(teacher)), weights)


def _merge(groups: Sequence[_Rows]) -> _Rows:
  """[B, R, D] of every group, joined along the rows of a sample."""
  return _Rows(*(jnp.concatenate(parts, 1) for parts in zip(*groups)))


def _pixels(group: _Rows, spec: ClusterSpec) -> _Rows:
  del spec
  batch, _, _, dim = group.student.shape
  flat = lambda x: x.reshape(batch, -1, dim)
  return _Rows(
    flat(group.student), flat(group.teacher), group.weights.reshape(batch, -1)
  )


def _pooled(group: _Rows, shares: Array) -> _Rows:
  """Means by shares [B, P, n, C]; every cluster with points counts once."""
  batch, dim = len(shares), group.student.shape[-1]
  means = lambda x: pool(x, shares).reshape(batch, -1, dim)
  counts = (shares.sum(-2) > 0).astype(jnp.float32)
  return _Rows(
    means(group.student), means(group.teacher), counts.reshape(batch, -1)
  )


def _objects(group: _Rows, spec: ClusterSpec) -> _Rows:
  """Clusters of the teacher's points; the student's follow the same shares."""
  shares = cluster(group.teacher, group.weights, spec)
  return _pooled(group, shares * group.weights[..., None])


def _images(group: _Rows, spec: ClusterSpec) -> _Rows:
  """Means over the points that both see."""
  del spec
  return _pooled(group, group.weights[..., None])


_AT = {'pixel': _pixels, 'object': _objects, 'image': _images}
