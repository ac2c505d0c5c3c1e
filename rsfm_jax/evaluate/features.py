"""Frozen features: pools of named maps over a stream of batches.

Batches are plain dicts {'image': f32[B, H, W, C], 'valid': bool[B], 'label':
int[B] or bits [B, L]}; B must stay the same so that one program serves all. An
encoder of several sensors takes a tree of arrays [B, ...] for the image.
Rows with `valid` False are dropped here, so nothing downstream knows padding.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.core import progress

Encode = Callable[[Any, jax.Array], Mapping[str, jax.Array]]
Views = Literal['identity', 'd4']

POOLS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'mean': lambda x: jnp.mean(x, axis=(1, 2)),
  'std': lambda x: jnp.std(x, axis=(1, 2)),
  'max': lambda x: jnp.max(x, axis=(1, 2)),
}


class Features(NamedTuple):
  values: np.ndarray  # f32[N, F]
  labels: np.ndarray | None  # int[N] or [N, L]; None if no batch has labels


def pool(
  maps: Mapping[str, jax.Array],
  *,
  stages: Sequence[str],
  pools: Sequence[str] = ('mean', 'std'),
) -> jax.Array:
  """Concatenates pools of named maps: {stage: [B, h, w, D]} -> f32[B, F].

  The order is by pool, then by stage, as given, so that every pool fills an
  equal share of the columns; see `of_pool`.

  Raises:
    ValueError: a stage or pool that does not exist.
  """
  out = []
  for name in pools:
    choices.check(name, POOLS, key='features.pools')
    for stage in stages:
      choices.check(stage, maps, key='features.stages')
      out.append(POOLS[name](maps[stage].astype(jnp.float32)))
  return jnp.concatenate(out, axis=-1)


def of_pool(
  values: np.ndarray, name: str, *, pools: Sequence[str]
) -> np.ndarray:
  """The columns of one pool, of features [N, F] of several.

  Raises:
    ValueError: it is none of them.
  """
  choices.check(name, pools, key='features.pools')
  return np.split(values, len(pools), axis=1)[list(pools).index(name)]


def d4(image: jax.Array) -> list[jax.Array]:
  """The eight flips and rotations of square images [B, H, W, C]."""
  if image.shape[1] != image.shape[2]:
    raise ValueError(
      f"views='d4' needs square images, not {image.shape[1]} x "
      f'{image.shape[2]}; crop them or use views=identity.'
    )
  turned = [jnp.rot90(image, k, axes=(1, 2)) for k in range(4)]
  return turned + [jnp.flip(view, axis=2) for view in turned]


def collect(
  describe: Callable[[np.ndarray], jax.Array | np.ndarray],
  batches: Iterable[Mapping[str, Any]],
  *,
  what: str = 'features',
  total: int | None = None,
) -> Features:
  """Runs `describe` over batches and keeps the valid rows.

  Args:
    describe: of an image, or a tree, to f32[B, F]; compiled by the caller or
      NumPy.
    batches: see the module; `valid` and `label` may be absent.
    what: the name of the progress bar.
    total: batches to come, for the time that is left.

  Raises:
    ValueError: no valid sample, or features that are not finite.
  """
  values, labels, kept = [], [], []
  for batch in progress.bar(batches, total=total, what=what, unit='batch'):
    image = jax.tree.map(_single, batch['image'])
    rows = len(jax.tree.leaves(image)[0])
    valid = np.asarray(batch.get('valid', np.ones(rows, bool)))
    if not valid.all():  # No encoder, however it mixes rows, sees padding.
      image = jax.tree.map(functools.partial(_emptied, valid=valid), image)
    values.append(describe(image))
    kept.append(valid)
    if batch.get('label') is not None:
      labels.append(np.asarray(batch['label'])[kept[-1]])
    if len(values) > 1:  # One batch computes while the last one is fetched.
      values[-2] = np.asarray(values[-2])[kept[-2]]
  if not any(rows.any() for rows in kept):
    raise ValueError(f'{what}: the batches hold no valid sample.')
  values[-1] = np.asarray(values[-1])[kept[-1]]
  out = np.concatenate(values)
  bad = ~np.isfinite(out).all(1)
  if bad.any():
    raise ValueError(
      f'{what}: the features of {bad.sum()} of {len(out)} valid samples are '
      f'not finite; the first is sample {bad.argmax()}.'
    )
  if labels and len(labels) != len(values):
    raise ValueError(f'{what}: some batches have labels and some have none.')
  return Features(out, np.concatenate(labels) if labels else None)


def _single(array: Any) -> np.ndarray:
  array = np.asarray(array)
  return (
    array.astype(np.float32, copy=False) if array.dtype.kind == 'f' else array
  )


def _emptied(array: np.ndarray, valid: np.ndarray) -> np.ndarray:
  """[B, ...] with zeros in rows that are not valid."""
  rows = valid.reshape(-1, *(1,) * (array.ndim - 1))
  return np.where(rows, array, array.dtype.type(0))


class Extractor:
  """Frozen features of an encoder: pools of stages, averaged over views."""

  def __init__(
    self,
    encode: Encode,
    stages: Sequence[str],
    *,
    pools: Sequence[str] = ('mean', 'std'),
    views: Views = 'identity',
  ):
    """Compiles on first use.

    Args:
      encode: `(params, image f32[B, H, W, C]) -> {stage: [B, h, w, D]}`, or of
        a tree.
      stages: which maps, in order.
      pools: names of `POOLS`.
      views: `d4` averages the pools of all eight flips and rotations.
    """
    choices.check(views, ('identity', 'd4'), key='features.views')

    def describe(params, image):
      images = d4(image) if views == 'd4' else [image]
      pooled = [
        pool(encode(params, view), stages=stages, pools=pools)
        for view in images
      ]
      return sum(pooled) / len(pooled)

    self.describe = jax.jit(describe)

  def __call__(
    self,
    params: Any,
    batches: Iterable[Mapping[str, Any]],
    *,
    what: str = 'features',
    total: int | None = None,
  ) -> Features:
    """Features of all valid samples; see `collect`."""
    return collect(
      lambda image: self.describe(params, image),
      batches,
      what=what,
      total=total,
    )


@dataclasses.dataclass(frozen=True)
class Scaler:
  """The affine map `(x - shift) @ basis * scale`, learnt on training rows."""

  shift: np.ndarray  # f64[F]
  scale: np.ndarray  # f64[G]
  basis: np.ndarray | None = None  # f64[F, G]; None is the identity

  def __call__(self, x: np.ndarray) -> np.ndarray:
    """[N, F] -> f32[N, G]."""
    x = np.asarray(x, np.float64) - self.shift
    x = x if self.basis is None else x @ self.basis
    return (x * self.scale).astype(np.float32)


SCALINGS = ('none', 'standardise', 'whiten')


def _inverse(deviation: np.ndarray) -> np.ndarray:
  """1 / deviation, and 0 for directions that do not vary."""
  floor = 1e-7 * deviation.max(initial=0.0)
  varies = deviation > floor
  return np.where(varies, 1 / np.where(varies, deviation, 1.0), 0.0)


def scaler(
  train: np.ndarray,
  *,
  scaling: Literal['none', 'standardise', 'whiten'],
  components: int | None = None,
) -> Scaler:
  """Learns a scaling from training features [N, F].

  Args:
    train: finite.
    scaling: `standardise` to mean 0 and deviation 1 of each feature; `whiten`
      to uncorrelated principal components of deviation 1, after
      standardising; constant features become 0.
    components: how many principal components `whiten` keeps; default all.
  """
  choices.check(scaling, SCALINGS, key='scaling')
  train = np.asarray(train, np.float64)
  width = train.shape[1]
  if scaling == 'none':
    return Scaler(np.zeros(width), np.ones(width))
  mean = train.mean(0)
  scale = _inverse(train.std(0))
  if scaling == 'standardise':
    return Scaler(mean, scale)
  x = (train - mean) * scale
  power, axes = np.linalg.eigh(x.T @ x / len(x))
  keep = slice(None, None, -1)
  power, axes = np.maximum(power[keep], 0), axes[:, keep]
  deviation = np.sqrt(power)[:components]
  return Scaler(
    mean, _inverse(deviation), scale[:, None] * axes[:, :components]
  )
