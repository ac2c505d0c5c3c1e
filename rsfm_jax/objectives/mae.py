"""Masked autoencoding over the union of several sensors' tokens.

MAPEX-style: what MAPEX (arXiv 2507.07527) is pre-trained with is NOT FOUND.
DEFAULT: MAE. A quarter of the tokens of an image, drawn from all sensors
alike, passes the encoder; one decoder predicts the pixels of the others, each
patch normalised by its own mean and deviation. How many and which sensors an
image has is drawn too (DEFAULT: 1..M uniformly), so that a model of few sensors
meets what it was trained on. Balance counts over the mixed batch: balance
inside each sensor would fight their parting.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rsfm_jax.core import choices
from rsfm_jax.core import rng
from rsfm_jax.models import clean
from rsfm_jax.models import mapex
from rsfm_jax.models import mapex_spec
from rsfm_jax.moe import balance
from rsfm_jax.nn import patches
from rsfm_jax.objectives import routed

Array = jax.Array
Arrays = Mapping[str, Array]
Tree = Any
Batch = Mapping[str, Mapping[str, Array]]

VARIANCE_EPS = 1e-6  # MAE's code.


class Encoder(Protocol):
  """`(params, images, *, tokens_valid, masking, mode, key) -> mapex.Output`."""

  def __call__(self, params: Tree, images: Arrays, **kw: Any): ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAESpec:
  """What is left out and how losses are weighed; all values are DEFAULTs.

  Attributes:
    keep_ratio: share of an image's tokens that the encoder sees.
    sensor_dropout: 'uniform' keeps 1..M of an image's sensors, each number
      alike; 'none' keeps all.
    target: 'normalised' by the patch's mean and unbiased variance, or 'pixels'.
    importance_weight, load_weight: of the experts' balance, the squared
      coefficients of variation, means over the layers (V-MoE: 0.005 each).
    z_weight: of the router z-losses, means over tokens and layers.
  """

  keep_ratio: float = 0.25
  sensor_dropout: Literal['uniform', 'none'] = 'uniform'
  target: Literal['normalised', 'pixels'] = 'normalised'
  importance_weight: float = 0.005
  load_weight: float = 0.005
  z_weight: float = 0.0

  def __post_init__(self):
    if not 0 < self.keep_ratio < 1:
      raise ValueError(
        f'objective.keep_ratio={self.keep_ratio} must be inside (0, 1).'
      )
    for name, allowed in (
      ('sensor_dropout', ('uniform', 'none')),
      ('target', ('normalised', 'pixels')),
    ):
      choices.check(getattr(self, name), allowed, key=f'objective.{name}')


class Drawn(NamedTuple):
  """What a step encodes and what it has to predict.

  Attributes:
    present: {sensor: bool[B, h, w]}, tokens of the sensors that were kept.
    masking: see `mapex.Masking`.
    removed: {sensor: bool[B, h, w]}, tokens to predict.
  """

  present: dict[str, Array]
  masking: mapex.Masking
  removed: dict[str, Array]


def kept_sensors(there: Array, key: Array) -> Array:
  """1..n of each image's n sensors, numbers and subsets uniform.

  there: bool[B, M] -> bool[B, M].
  """
  k_number, k_order = jax.random.split(key)
  available = there.sum(1)
  number = jax.random.uniform(k_number, available.shape) * available
  number = jnp.floor(number).astype(jnp.int32) + 1
  order = jax.random.uniform(k_order, there.shape)
  rank = jnp.argsort(jnp.argsort(jnp.where(there, order, 2.0), 1), 1)
  return there & (rank < number[:, None])


def mask(noise: Array, present: Array, ratio: float) -> mapex.Masking:
  """Keeps the tokens of the least noise, floor(n ratio) of an image's n.

  At least one, where there is any (MAE: int(n (1 - mask ratio)), and kept
  tokens in the order of the noise).

  Args:
    noise: f32[B, T] in [0, 1).
    present: bool[B, T].
    ratio: of those that are present.
  """
  order = jnp.argsort(jnp.where(present, noise, 2.0), 1)
  number = present.sum(1)
  kept = jnp.floor(number * ratio + 1e-6).astype(jnp.int32)
  kept = jnp.minimum(jnp.maximum(kept, 1), number)
  most = max(1, int(noise.shape[1] * ratio + 1e-6))
  slots = jnp.arange(most, dtype=jnp.int32)
  return mapex.Masking(order, slots[None] < kept[:, None])


def normalised(pixels: Array, counts: Array) -> Array:
  """Patches less their mean, over their deviation, of the values that count.

  pixels, counts: [..., P] -> f32[..., P]; the variance is unbiased and has an
  epsilon of 1e-6, as in MAE's code.
  """
  pixels = jnp.where(counts, pixels, 0).astype(jnp.float32)
  number = counts.sum(-1, keepdims=True)
  mean = pixels.sum(-1, keepdims=True) / jnp.maximum(number, 1)
  away = jnp.where(counts, pixels - mean, 0)
  variance = jnp.square(away).sum(-1, keepdims=True)
  variance = variance / jnp.maximum(number - 1, 1)
  return away / jnp.sqrt(variance + VARIANCE_EPS)


def patch_errors(prediction: Array, target: Array, counts: Array) -> Array:
  """Mean squared error of every patch, over the values that count.

  All [..., P] -> f32[...]; 0 where nothing counts, whatever stands there.
  """
  away = jnp.where(counts, prediction.astype(jnp.float32) - target, 0)
  number = jnp.maximum(counts.sum(-1), 1)
  return jnp.square(away).sum(-1) / number


@dataclasses.dataclass(frozen=True)
class MAE:
  """The objective; `encode` is a model's `apply`, `model` its spec.

  Batches: {sensor: {'image' [B, H, W, C] normalised, 'band_valid' [B, C],
  'pixel_valid' [B, H, W], 'valid' [B]}}; all sensors of a sample show the same
  ground, and B is theirs all.
  """

  spec: MAESpec
  encode: Encoder
  model: mapex_spec.MapexSpec

  def init(self, key: Array) -> tuple[Tree, Tree]:
    """Neither parameters nor state beside the model's."""
    del key
    return {}, {}

  def after_update(
    self, params: Tree, extra: Tree, aux: Tree, step: Array
  ) -> Tree:
    del params, aux, step
    return extra

  def warnings(self, metrics: Mapping[str, Any]) -> dict[str, str]:
    """Reconstruction cannot collapse as self-distillation can."""
    del metrics
    return {}

  def counts(self, batch: Batch) -> dict[str, Array]:
    """bool[B, h, w, p * p * C]: pixels of patches that were measured."""
    # In the order of the model: a jitted dict is sorted by name.
    sensors = [s for s in self.model.sensors if s in batch]
    return {
      s: patches.space_to_depth(clean.counts(batch[s]), self.model.patch_size)
      for s in sensors
    }

  def draw(self, counts: Arrays, key: Array) -> Drawn:
    """Sensors and tokens of a step, by its key.

    A token is there where any of its pixels counts. The noise of a sensor
    does not depend on which others are in the batch.
    """
    there = {s: c.any(-1) for s, c in counts.items()}
    if self.spec.sensor_dropout == 'uniform':
      any_there = jnp.stack([t.any((1, 2)) for t in there.values()], 1)
      kept = kept_sensors(any_there, rng.named(key, 'sensors'))
      there = {
        s: t & kept[:, i, None, None] for i, (s, t) in enumerate(there.items())
      }
    flat = lambda x: x.reshape(len(x), -1)
    noise = [
      flat(jax.random.uniform(rng.named(key, 'mask', s), t.shape))
      for s, t in there.items()
    ]
    present = jnp.concatenate([flat(t) for t in there.values()], 1)
    masking = mask(jnp.concatenate(noise, 1), present, self.spec.keep_ratio)
    place = jnp.argsort(masking.order, 1)
    # Those that are present come first in the order.
    removed = present & (place >= masking.kept.sum(1)[:, None])
    out, start = {}, 0
    for sensor, tokens in there.items():
      stop = start + tokens[0].size
      out[sensor] = removed[:, start:stop].reshape(tokens.shape)
      start = stop
    return Drawn(there, masking, out)

  def loss(
    self, params: Tree, extra: Tree, batch: Batch, key: Array
  ) -> tuple[Array, dict[str, dict[str, Array]]]:
    """(scalar, {'losses': scalars, 'routing': small arrays per layer}).

    The scalar's main part is the mean over all removed patches of all
    sensors; `losses/<sensor>` are the sensors' own means. `extra` is unused.
    """
    del extra
    counts = self.counts(batch)
    images = {s: clean.series(batch[s]) for s in counts}
    drawn = self.draw(counts, rng.named(key, 'masking'))
    out = self.encode(
      params,
      images,
      tokens_valid=drawn.present,
      masking=drawn.masking,
      mode='train',
      key=rng.named(key, 'encoder'),
    )
    errors, numbers = {}, {}
    for sensor, image in images.items():
      pixels = patches.space_to_depth(image, self.model.patch_size)
      target = pixels.astype(jnp.float32)
      if self.spec.target == 'normalised':
        target = normalised(pixels, counts[sensor])
      each = patch_errors(out.reconstruction[sensor], target, counts[sensor])
      removed = drawn.removed[sensor]
      errors[sensor] = jnp.where(removed, each, 0).sum()
      numbers[sensor] = removed.sum()
    total = sum(errors.values()) / jnp.maximum(sum(numbers.values()), 1)
    losses = {s: e / jnp.maximum(numbers[s], 1) for s, e in errors.items()}
    if out.aux is None:
      return total, {'losses': losses, 'routing': {}}
    added, parts = self._balance(out.aux)
    aux = {'losses': losses | parts, 'routing': routed.metrics(out.aux)}
    return total + added, aux

  def _balance(
    self, by_sensor: routed.BySensor
  ) -> tuple[Array, dict[str, Array]]:
    """Of the mixed batch: the weighted sum, and its parts by name."""
    sums = routed.total(by_sensor)
    experts = [number for number in self.model.experts if number > 1]

    def mean(rows: Array) -> Array:  # Padded with experts that are not there.
      pairs = zip(rows, experts, strict=True)
      each = [balance.variation(row[:number]) for row, number in pairs]
      return sum(each) / len(each)

    parts = {
      'importance': mean(sums.demand.importance),
      'load': mean(sums.demand.load),
      'z': (sums.z / jnp.maximum(sums.tokens, 1)).mean(),
    }
    spec = self.spec
    weights = (spec.importance_weight, spec.load_weight, spec.z_weight)
    added = sum(w * v for w, v in zip(weights, parts.values(), strict=True))
    return added, parts
