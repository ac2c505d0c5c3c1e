"""Global and local views of a batch of tiles: cut, then lit anew."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.core import rng
from rsfm_jax.models import clean
from rsfm_jax.objectives import photometric as photometric_lib
from rsfm_jax.objectives import views as views_lib

Array = jax.Array
Batch = Mapping[str, Mapping[str, Array]]
KINDS = ('global', 'local')
# DINOv2's second and further global views.
_SELDOM = 0.1


class Looks(NamedTuple):
  """What views may look like.

  Attributes:
    views: how many, and of which size.
    photometric: changes of light; None for none.
    colours: {sensor: (mean, deviation) f32[3]} that normalised intensities in
      [0, 1]; these sensors see changes of light.
  """

  views: views_lib.ViewSpec
  photometric: photometric_lib.PhotometricSpec | None
  colours: Mapping[str, tuple[np.ndarray, np.ndarray]]


class Views(NamedTuple):
  """Of one size: where they lie; {sensor: [B V, T, h, w, C]}."""

  windows: views_lib.Windows
  images: dict[str, Array]


def views(
  batch: Batch, sensors: Sequence[str], looks: Looks, key: Array
) -> dict[str, Views]:
  """{'global', 'local'} views of tiles; the same ground for all sensors.

  Args:
    batch: see `objectives.skysense_v2`.
    sensors: of the batch.
    looks: what views may look like.
    key: of the step.

  Raises:
    ValueError: a view that is no whole number of pixels of every sensor, or
      larger than a tile, by its config key.
  """
  sides = [batch[s]['image'].shape[2] for s in sensors]
  finest, coarsest = max(sides), min(sides)
  cleaned = {s: clean.series(batch[s]) for s in sensors}
  out = {}
  for kind in KINDS:
    count = getattr(looks.views, f'{kind}_views')
    if not count:
      continue
    size = views_lib.cells(
      getattr(looks.views, f'{kind}_size'),
      finest=finest,
      coarsest=coarsest,
      key=f'objective.views.{kind}_size',
    )
    windows = views_lib.draw(
      rng.named(key, 'views', kind),
      tiles=len(cleaned[sensors[0]]),
      views=count,
      size=size,
      tile=coarsest,
      symmetry=looks.views.symmetry,
    )
    images = {s: views_lib.cut(cleaned[s], windows) for s in sensors}
    for s in sensors:
      if looks.photometric is not None and s in looks.colours:
        light = rng.named(key, 'light', kind, s)
        seen = _lit(light, images[s], looks, s, kind)
        counts = views_lib.cut(clean.counts(batch[s]), windows)
        images[s] = jnp.where(counts, seen, 0)
    out[kind] = Views(windows, images)
  return out


def _lit(
  key: Array, image: Array, looks: Looks, sensor: str, kind: str
) -> Array:
  """Another light on normalised colours; DINOv2's mix of views."""
  mean, deviation = (
    jnp.asarray(v, jnp.float32).reshape(1, 1, 1, 1, -1)
    for v in looks.colours[sensor]
  )
  spec, count = looks.photometric, getattr(looks.views, f'{kind}_views')
  first = np.arange(count) == 0
  if kind == 'global':
    blur = np.where(first, 1.0, _SELDOM)
    solarise = np.where(first, 0.0, spec.solarise)
  else:
    blur, solarise = np.full(count, spec.blur), np.zeros(count)
  of_row = lambda x: jnp.asarray(np.tile(x, len(image) // count), jnp.float32)
  seen = photometric_lib.augment(
    key,
    jnp.clip(image * deviation + mean, 0, 1),
    spec,
    blur=of_row(blur),
    solarise=of_row(solarise),
  )
  return (seen - mean) / deviation
