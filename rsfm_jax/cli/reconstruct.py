"""What a model makes of masked images, for pictures."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.cli import models
from rsfm_jax.core import once
from rsfm_jax.core import rng
from rsfm_jax.models import mapex_spec
from rsfm_jax.nn import patches
from rsfm_jax.objectives import mae
from rsfm_jax.objectives import masks as masks_lib

Images = Mapping[str, np.ndarray]
_RATIO = 0.6  # Of what SimMIM hides in pictures.


class Masked(NamedTuple):
  """Of one sensor.

  Attributes:
    mask: bool[N, h, w], True where hidden.
    prediction: f32[N, H, W, C'].
  """

  mask: np.ndarray
  prediction: np.ndarray


def masked(
  opened: models.Opened, images: Images, *, objective: Mapping[str, Any]
) -> dict[str, Masked]:
  """Hides parts of images and predicts them; {} of a model without decoder.

  Args:
    opened: the model.
    images: {sensor: f32[N, H, W, C]}, normalised; of a MAPEX-style model all
      sensors are taken for the same N samples.
    objective: that section of the run's config.
  """
  spec = opened.model.spec
  if not images:
    return {}
  if isinstance(spec, mapex_spec.MapexSpec):
    return _autoencoded(opened, images, objective) if spec.decoder_depth else {}
  return _filled(opened, images) if getattr(spec, 'decoders', False) else {}


def _filled(opened: models.Opened, images: Images) -> dict[str, Masked]:
  """SimMIM: every sensor by itself."""
  side = opened.model.spec.image_size // opened.model.spec.stride
  masks = {
    sensor: masks_lib.random_masks(
      rng.named(rng.key_for(0), 'report', sensor),
      len(shown),
      side=side,
      ratio=_RATIO,
    )
    for sensor, shown in images.items()
  }
  predict = once.jit(
    lambda p, x, m: opened.model.apply(p, x, masks=m).reconstruction
  )
  made = predict(opened.params, dict(images), masks)
  return {s: Masked(np.asarray(masks[s]), np.asarray(made[s])) for s in images}


def _autoencoded(
  opened: models.Opened, images: Images, objective: Mapping[str, Any]
) -> dict[str, Masked]:
  """MAE over the union of all sensors' tokens.

  Predictions of normalised patches get back the mean and the deviation of the
  true patch, as MAE's figures do.
  """
  spec, block = mae.MAESpec(**objective), opened.model.spec.patch_size
  task = mae.MAE(
    mae.MAESpec(**(objective | {'sensor_dropout': 'none'})),
    opened.model.apply,
    opened.model.spec,
  )

  def predict(params, images):
    cut = {s: patches.space_to_depth(x, block) for s, x in images.items()}
    counts = {
      s: jnp.ones(cut[s].shape, bool)
      for s in opened.model.spec.sensors
      if s in cut
    }
    drawn = task.draw(counts, rng.named(rng.key_for(0), 'report'))
    made = opened.model.apply(params, images, masking=drawn.masking)
    out = {}
    for sensor, guess in made.reconstruction.items():
      if spec.target == 'normalised':
        true = cut[sensor].astype(jnp.float32)
        deviation = jnp.sqrt(
          true.var(-1, ddof=1, keepdims=True) + mae.VARIANCE_EPS
        )
        guess = guess * deviation + true.mean(-1, keepdims=True)
      pixels = patches.depth_to_space(guess, block)
      out[sensor] = Masked(drawn.removed[sensor], pixels)
    return out

  return jax.device_get(once.jit(predict)(opened.params, dict(images)))
