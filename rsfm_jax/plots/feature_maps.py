"""Dense features as colour: three principal components over all images."""

from collections.abc import Mapping

import numpy as np

from rsfm_jax.plots import components
from rsfm_jax.plots import display
from rsfm_jax.plots import reconstructions
from rsfm_jax.plots import theme
from rsfm_jax.sensors import contract


def pca_rgb(features: np.ndarray) -> np.ndarray:
  """[N, h, w, D] -> [N, h, w, 3] in 0..1; equal colours mean equal features.

  The components are shared by all images, so colours can be compared between
  them. Each component is stretched from its 1st to its 99th percentile, and
  its sign makes the largest loading positive, so that a rerun looks the same.

  Raises:
    ValueError: fewer than three feature dimensions.
  """
  features = np.asarray(features, np.float64)
  if features.shape[-1] < 3:
    raise ValueError(
      f'features have {features.shape[-1]} dimensions; colour needs 3.'
    )
  flat = features.reshape(-1, features.shape[-1])
  parts = components.principal(flat, 3).values
  low, high = np.percentile(parts, (1, 99), axis=0)
  colour = np.clip((parts - low) / np.maximum(high - low, 1e-12), 0, 1)
  return colour.reshape(*features.shape[:-1], 3)


@theme.styled
def figure(
  images: np.ndarray,
  features: Mapping[str, np.ndarray],
  *,
  sensor: contract.Sensor,
) -> theme.Figure:
  """The images, and below them one row of PCA maps per model.

  Args:
    images: [N, H, W, C] in the sensor's units.
    features: name of the model -> [N, h, w, D].
    sensor: what the channels are.
  """
  shown = display.channels(np.asarray(images), sensor)
  size = shown.shape[1:3]
  rows = [np.stack([display.rgba(x, display.limits(x)) for x in shown])]
  for values in features.values():
    colour = display.enlarge(pca_rgb(values), size)
    rows.append(np.insert(colour, 3, 1.0, axis=-1))
  return reconstructions.strip(
    rows, labels=('input', *features), title=f'{sensor.name}: PCA of features'
  )
