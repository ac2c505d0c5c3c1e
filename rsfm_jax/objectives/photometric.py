"""Colour jitter, greyscale, blur and solarisation of optical views, on device.

SkySense V2 names blur, solarisation, colour jitter, flips and rotations; the
strengths are NOT FOUND. DEFAULT: those of DINOv2's augmentation, in its order
(flips and rotations are `views`'). Works on intensities in [0, 1]; normalised
images are brought there by the mean and deviation that normalised them.
Letters: N views, T dates, C = 3 colours.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.core import rng

Array = jax.Array

# Luma of ITU-R BT.601, as torchvision's greyscale.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# RGB to YIQ; a turn in the IQ plane changes the hue.
_YIQ = np.array(
  [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]],
  np.float32,
)
_RADIUS = 4  # Of the blur: 9 x 9, DINOv2's kernel.


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotometricSpec:
  """Strengths and probabilities; the defaults are DINOv2's.

  Attributes:
    jitter: probability of the colour jitter.
    brightness, contrast, saturation, hue: its largest changes.
    grey: probability of greyscale.
    blur: probability for local views; global views take it always and, from
      the second on, one time in ten.
    sigma: range of the blur's deviation in pixels.
    solarise: probability for global views from the second on.
    threshold: intensities above it are inverted by solarisation.
  """

  jitter: float = 0.8
  brightness: float = 0.4
  contrast: float = 0.4
  saturation: float = 0.2
  hue: float = 0.1
  grey: float = 0.2
  blur: float = 0.5
  sigma: tuple[float, float] = (0.1, 2.0)
  solarise: float = 0.2
  threshold: float = 0.5

  def __post_init__(self):
    for name in ('jitter', 'grey', 'blur', 'solarise', 'threshold'):
      value = getattr(self, name)
      if not 0 <= value <= 1:
        raise ValueError(
          f'objective.photometric.{name}={value} must be in [0, 1].'
        )
    if not 0 < self.sigma[0] <= self.sigma[1]:
      raise ValueError(
        f'objective.photometric.sigma={self.sigma} must be a range above 0.'
      )


def augment(
  key: Array,
  image: Array,
  spec: PhotometricSpec,
  *,
  blur: Array | float,
  solarise: Array | float = 0.0,
) -> Array:
  """Another look of every view; its dates change alike.

  Args:
    key: of the step.
    image: f32[N, T, H, W, 3] in [0, 1].
    spec: strengths.
    blur: probability of the blur, scalar or f32[N].
    solarise: probability of the solarisation, scalar or f32[N].

  Returns:
    The same shape, in [0, 1].
  """
  count = image.shape[0]

  def uniform(name: str, low: float = 0.0, high: float = 1.0) -> Array:
    drawn = jax.random.uniform(rng.named(key, name), (count,), jnp.float32)
    return _column(low + (high - low) * drawn)

  def chosen(name: str, probability: Array | float, new: Array, old: Array):
    at = jnp.broadcast_to(jnp.asarray(probability, jnp.float32), (count,))
    return jnp.where(uniform(name) < _column(at), new, old)

  jittered = _jitter(image, spec, uniform)
  image = chosen('jitter', spec.jitter, jittered, image)
  image = chosen(
    'grey', spec.grey, jnp.broadcast_to(_grey(image), image.shape), image
  )
  sigma = uniform('sigma', *spec.sigma)[:, 0, 0, 0, 0]
  image = chosen('blur', blur, blurred(image, sigma), image)
  inverted = jnp.where(image > spec.threshold, 1 - image, image)
  return chosen('solarise', solarise, inverted, image)


def _jitter(image, spec, uniform):
  """Brightness, contrast, saturation, then hue; each clips to [0, 1]."""
  clip = lambda x: jnp.clip(x, 0.0, 1.0)
  around = lambda name: uniform(
    name, 1 - getattr(spec, name), 1 + getattr(spec, name)
  )
  image = clip(image * around('brightness'))
  mean = _grey(image).mean((1, 2, 3, 4), keepdims=True)
  image = clip(mean + (image - mean) * around('contrast'))
  grey = _grey(image)
  image = clip(grey + (image - grey) * around('saturation'))
  angle = 2 * jnp.pi * uniform('hue', -spec.hue, spec.hue)[:, 0, 0, 0, 0]
  return clip(jnp.einsum('nthwc,ndc->nthwd', image, _hue(angle)))


def _hue(angle: Array) -> Array:
  """f32[N] -> [N, 3, 3]: to YIQ, a turn of the colour plane, and back."""
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  zero, one = jnp.zeros_like(angle), jnp.ones_like(angle)
  turn = jnp.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], -1)
  back = jnp.asarray(np.linalg.inv(_YIQ))
  return jnp.einsum(
    'ij,njk,kl->nil', back, turn.reshape(-1, 3, 3), jnp.asarray(_YIQ)
  )


def blurred(image: Array, sigma: Array) -> Array:
  """Gaussian blur of [N, T, H, W, C] by a deviation in pixels each, f32[N]."""
  offsets = np.arange(-_RADIUS, _RADIUS + 1, dtype=np.float32)
  kernel = jnp.exp(-0.5 * jnp.square(offsets[None] / sigma[:, None]))
  kernel /= kernel.sum(1, keepdims=True)
  for axis in (2, 3):
    pad = [(0, 0)] * image.ndim
    # Reflection needs more pixels than the smallest views have.
    pad[axis] = (_RADIUS, _RADIUS)
    padded = jnp.pad(image, pad, mode='edge')
    size = image.shape[axis]
    image = sum(
      _column(kernel[:, i])
      * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
      for i in range(2 * _RADIUS + 1)
    )
  return image


def _grey(image: Array) -> Array:
  return (image * _LUMA.reshape(1, 1, 1, 1, 3)).sum(-1, keepdims=True)


def _column(values: Array) -> Array:
  return values.reshape(-1, 1, 1, 1, 1)
