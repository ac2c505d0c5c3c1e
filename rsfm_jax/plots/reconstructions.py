"""What went in, what was hidden, what the model made of it."""

import numpy as np

from rsfm_jax.plots import display
from rsfm_jax.plots import theme
from rsfm_jax.sensors import contract

GAP = 3  # Pixels between pictures.


def patches_to_pixels(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """bool [N, h, w] -> bool [N, H, W]."""
  return display.enlarge(np.asarray(mask, bool)[..., None], size)[..., 0]


@theme.styled
def figure(
  images: np.ndarray,
  masks: np.ndarray,
  predictions: np.ndarray,
  *,
  sensor: contract.Sensor,
) -> theme.Figure:
  """Three rows of one sensor: input, masked, reconstructed.

  Hidden patches are transparent in the second row. The third shows the
  prediction in hidden patches and the input elsewhere, on the input's scale.

  Args:
    images: [N, H, W, C] in the sensor's units (denormalised).
    masks: bool [N, h, w], True where hidden.
    predictions: [N, H, W, C]; for complex SAR also power, [N, H, W, 1].
    sensor: what the channels are.

  Raises:
    ValueError: the numbers of examples differ.
  """
  if not len(images) == len(masks) == len(predictions):
    raise ValueError(
      f'{sensor.name}: {len(images)} images, {len(masks)} masks and '
      f'{len(predictions)} predictions; they must be as many.'
    )
  shown = display.channels(np.asarray(images), sensor)
  predicted = display.channels(np.asarray(predictions), sensor)
  hidden = patches_to_pixels(masks, shown.shape[1:3])[..., None]
  rows = np.stack(
    [
      shown,
      np.where(hidden, np.nan, shown),
      np.where(hidden, predicted, shown),
    ]
  )
  # Each example has its own scale: scenes differ more than their errors.
  pictures = [
    display.rgba(rows[:, i], display.limits(shown[i]))
    for i in range(len(shown))
  ]
  return strip(
    list(np.stack(pictures, 1)),
    labels=('input', 'masked', 'reconstructed'),
    title=f'{sensor.name} ({display.caption(sensor)})',
  )


@theme.styled
def strip(
  rows: list[np.ndarray], *, labels: tuple[str, ...], title: str
) -> theme.Figure:
  """Rows of pictures [N, H, W, 4], one label per row, under a title."""
  count, height, width, _ = rows[0].shape
  sheet = display.sheet(rows, gap=GAP)
  # One inch for the labels; few pictures do not grow beyond 1.5 inches.
  side = min(1.5, (theme.WIDTH - 1.0) / count)
  size = (count * side + 1.0, len(rows) * side * height / width + 0.35)
  figure = theme.Figure(figsize=size, layout='constrained')
  axes = figure.subplots()
  axes.imshow(sheet)
  axes.set_title(title)
  axes.set_xticks([])
  centres = [height / 2 + i * (height + GAP) for i in range(len(rows))]
  axes.set_yticks(centres, labels)
  axes.grid(visible=False)
  axes.spines[:].set_visible(False)
  return figure
