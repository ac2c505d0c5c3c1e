"""Random erasing and mixup, on device, from the step's key."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rsfm_jax.core import rng

Array = jax.Array
_TRIES = 10  # As torchvision's RandomErasing.


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixingSpec:
  """Which images of a batch are changed, and how much.

  Attributes:
    erasing: probability that a rectangle of an image becomes 0, its mean
      (Zhong et al., "Random erasing data augmentation").
    erasing_area: range of the rectangle's share of the image.
    erasing_aspect: range of its height over its width.
    mixup: alpha of the Beta distribution of Zhang et al., "mixup"; 0 for none.
    mixup_probability: that a batch is mixed.
  """

  erasing: float = 0.0
  erasing_area: tuple[float, float] = (0.02, 1 / 3)
  erasing_aspect: tuple[float, float] = (0.3, 3.3)
  mixup: float = 0.0
  mixup_probability: float = 1.0

  def __post_init__(self):
    for name in ('erasing', 'mixup_probability'):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(
          f'mixing.{name}={getattr(self, name)} must be within 0..1.'
        )
    for name in ('erasing_area', 'erasing_aspect'):
      low, high = getattr(self, name)
      if not 0 < low <= high or (name == 'erasing_area' and high > 1):
        raise ValueError(
          f'mixing.{name}=({low}, {high}) must be a positive range, that of '
          'the area within 1.'
        )
    if self.mixup < 0:
      raise ValueError(f'mixing.mixup={self.mixup} must not be negative.')


class Mixed(NamedTuple):
  """A batch whose image i is share * i + (1 - share) * (its partner).

  Attributes:
    image: [B, ..., H, W, C].
    share: f32[].
  """

  image: Array
  share: Array


def erase(image: Array, spec: MixingSpec, *, key: Array) -> Array:
  """Zeros a random rectangle of some images; [B, (T,) H, W, C].

  Of ten rectangles drawn, the first that fits is taken; none may fit. All
  dates of a sample lose the same ground.
  """
  height, width = image.shape[-3:-1]
  low, high = (math.log(value) for value in spec.erasing_aspect)

  def rectangle(key: Array) -> Array:
    """bool[H, W], where pixels are lost."""
    keys = jax.random.split(key, 5)
    area = jax.random.uniform(
      keys[0],
      (_TRIES,),
      minval=spec.erasing_area[0],
      maxval=spec.erasing_area[1],
    )
    ratio = jnp.exp(
      jax.random.uniform(keys[1], (_TRIES,), minval=low, maxval=high)
    )
    h = jnp.round(jnp.sqrt(area * height * width * ratio)).astype(jnp.int32)
    w = jnp.round(jnp.sqrt(area * height * width / ratio)).astype(jnp.int32)
    fits = (h < height) & (w < width)
    first = jnp.argmax(fits)
    h, w = h[first], w[first]
    top = jax.random.randint(keys[2], (), 0, jnp.maximum(height - h, 0) + 1)
    left = jax.random.randint(keys[3], (), 0, jnp.maximum(width - w, 0) + 1)
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None]
    inside = (rows >= top) & (rows < top + h)
    inside = inside & (columns >= left) & (columns < left + w)
    chosen = jax.random.uniform(keys[4]) < spec.erasing
    return inside & chosen & fits.any()

  lost = jax.vmap(rectangle)(jax.random.split(key, len(image)))
  shape = (len(image), *(1,) * (image.ndim - 4), height, width, 1)
  return jnp.where(lost.reshape(shape), 0, image).astype(image.dtype)


def partners(x: Array) -> Array:
  """Sample i meets sample B - 1 - i, as in timm."""
  return x[::-1]


def mix(image: Array, spec: MixingSpec, *, key: Array) -> Mixed:
  """Blends every image with its partner by one share for the batch."""
  share = jax.random.beta(rng.named(key, 'share'), spec.mixup, spec.mixup)
  mixed = jax.random.uniform(rng.named(key, 'whether'))
  share = jnp.where(mixed < spec.mixup_probability, share, 1.0)
  share = share.astype(image.dtype)
  image = share * image + (1 - share) * partners(image)
  return Mixed(image, share.astype(jnp.float32))
