"""Images, what should be mapped in them, and what a model maps."""

from collections.abc import Sequence

from matplotlib import patches
import numpy as np

from rsfm_jax.plots import display
from rsfm_jax.plots import reconstructions
from rsfm_jax.plots import theme
from rsfm_jax.sensors import contract

UNLABELLED = 255
_NAMED = 24  # Classes that a legend has place for.


@theme.styled
def figure(
  images: np.ndarray,
  targets: np.ndarray,
  found: np.ndarray,
  *,
  sensor: contract.Sensor,
  classes: Sequence[str],
) -> theme.Figure:
  """Rows of examples: image (of changes before and after), target, prediction.

  Pixels without a label are transparent.

  Args:
    images: [N, (2,) H, W, C] in the sensor's units.
    targets: u8[N, H, W], 255 without a label.
    found: u8[N, H, W].
    sensor: what the channels are.
    classes: K names.

  Raises:
    ValueError: shapes or codes that do not fit.
  """
  images, targets, found = map(np.asarray, (images, targets, found))
  size = images.shape[-3:-1]
  if not len(images) or targets.shape != (len(images), *size):
    raise ValueError(
      f'targets {targets.shape} do not fit images {images.shape}.'
    )
  if found.shape != targets.shape:
    raise ValueError(f'predictions {found.shape}, targets {targets.shape}.')
  for codes in (targets, found):
    if (wrong := codes[(codes >= len(classes)) & (codes != UNLABELLED)]).size:
      raise ValueError(f'code {wrong[0]} is none of {len(classes)} classes.')
  shown = display.channels(images, sensor)
  dates = shown[:, None] if images.ndim == 4 else shown
  limits = [display.limits(example) for example in dates]
  rows = [
    np.stack([display.rgba(x, to) for x, to in zip(dates[:, t], limits)])
    for t in range(dates.shape[1])
  ]
  labels = ('image',) if images.ndim == 4 else ('before', 'after')
  colours = np.array(display.class_colours(len(classes))) / 255
  rows += [_coloured(codes, colours) for codes in (targets, found)]
  out = reconstructions.strip(
    rows,
    labels=(*labels, 'target', 'prediction'),
    title=f'{sensor.name} ({display.caption(sensor)})',
  )
  if len(classes) <= _NAMED:
    handles = [
      patches.Patch(color=colour, label=name)
      for name, colour in zip(classes, colours)
    ]
    out.legend(handles=handles, loc='outside lower left', ncols=6)
  return out


def _coloured(codes: np.ndarray, colours: np.ndarray) -> np.ndarray:
  """[N, H, W] -> RGBA [N, H, W, 4]."""
  seen = codes != UNLABELLED
  rgb = colours[np.where(seen, codes, 0)]
  return np.concatenate([rgb, seen[..., None].astype(rgb.dtype)], -1)
