"""Where learnt queries look, beside the image (SkySense V2, Figure 9)."""

import matplotlib
import numpy as np

from rsfm_jax.plots import display
from rsfm_jax.plots import reconstructions
from rsfm_jax.plots import theme
from rsfm_jax.sensors import contract


@theme.styled
def figure(
  images: np.ndarray,
  weights: np.ndarray,
  *,
  sensor: contract.Sensor,
  most: int = 8,
) -> theme.Figure:
  """The images, and below them a row for each of the first queries.

  Every map is brighter where its query looks more, from 0 to its own largest
  weight: an even map is bright all over.

  Args:
    images: [N, H, W, C] in the sensor's units.
    weights: f[N, m, h, w], what each query gives to each place.
    sensor: what the channels are.
    most: queries that are shown.

  Raises:
    ValueError: shapes that do not fit, or weights that are none.
  """
  weights = np.asarray(weights, np.float64)
  if weights.ndim != 4 or len(weights) != len(images):
    raise ValueError(
      f'weights of shape {weights.shape} are not [N, m, h, w] of the '
      f'{len(images)} images.'
    )
  if not (weights >= 0).all():  # False for NaN.
    raise ValueError('weights of queries must be numbers of at least 0.')
  shown = display.channels(np.asarray(images), sensor)
  size = shown.shape[1:3]
  rows = [np.stack([display.rgba(x, display.limits(x)) for x in shown])]
  top = weights.max((2, 3), keepdims=True)
  heat = matplotlib.colormaps[theme.HEAT](weights / np.maximum(top, 1e-300))
  count = min(most, weights.shape[1])
  rows += [display.enlarge(heat[:, q], size) for q in range(count)]
  return reconstructions.strip(
    rows,
    labels=(sensor.name, *(f'query {q + 1}' for q in range(count))),
    title=f'Where {count} of {weights.shape[1]} queries look',
  )
