"""What a store holds, on one sheet: chips, histograms, the band verdict."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rsfm_jax.plots import display
from rsfm_jax.plots import theme
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import fingerprint

_TILE = 96  # Pixels of a chip on the sheet.
_BINS = 64
_COLUMNS = 4  # Histograms in a row.


class View(NamedTuple):
  """One way to look at the chips; `values`: [H, W, 1 or 3] each."""

  title: str
  values: list[np.ndarray]


def views(
  images: Sequence[np.ndarray], sensor: contract.Sensor
) -> Iterator[View]:
  """True colour or power in dB, then false colour where there is an infrared.

  Args:
    images: [H, W, C] each, nodata as NaN; complex SAR divided by its scale.
    sensor: their contract.
  """
  yield View(
    display.caption(sensor), [display.channels(i, sensor) for i in images]
  )
  index = {band.common_name: i for i, band in enumerate(sensor.bands)}
  order = ['nir' if 'nir' in index else 'nir08', 'red', 'green']
  if set(order) <= index.keys():
    pick = [index[name] for name in order]
    title = f'false colour: {", ".join(order)}'
    yield View(title, [image[..., pick] for image in images])


@theme.styled
def draw(
  images: Sequence[np.ndarray],
  sensor: contract.Sensor,
  *,
  title: str,
  verdict: fingerprint.Verdict,
  columns: int = 12,
) -> theme.Figure:
  """A sheet of chips above a histogram per band.

  Args:
    images: see `views`.
    sensor: their contract.
    title: e.g. the store and how many of its chips are shown.
    verdict: of the band fingerprint.
    columns: chips in a row.
  """
  shown = list(views(images, sensor))
  rows = -(-len(images) // columns)
  bands = -(-len(sensor.bands) // _COLUMNS)
  chip = theme.WIDTH / columns
  heights = [rows * chip + 0.3] * len(shown) + [1.7] * bands
  figure = theme.Figure(
    figsize=(theme.WIDTH, sum(heights) + 0.7), layout='constrained'
  )
  figure.suptitle(f'{title}\n{summary(verdict)}', ha='left', x=0.01)
  parts = figure.subfigures(len(heights), 1, height_ratios=heights)
  parts = np.atleast_1d(parts)
  for part, view in zip(parts, shown):
    _draw_chips(part.subplots(), view, columns)
  _draw_histograms(parts[len(shown) :], images, sensor)
  return figure


def summary(verdict: fingerprint.Verdict) -> str:
  """The verdict in words: 'bands: as named' or what looks wrong."""
  word = {True: 'as named', False: 'NOT as named', None: 'not compared'}
  findings = '; '.join(verdict.findings)
  return f'bands {word[verdict.ok]}{": " if findings else ""}{findings}'


def _draw_chips(axes: theme.Axes, view: View, columns: int) -> None:
  to = display.limits(np.concatenate([v.ravel() for v in view.values]))
  tiles = [
    display.enlarge(display.rgba(v, to), (_TILE, _TILE)) for v in view.values
  ]
  blank = np.zeros((_TILE, _TILE, 4))
  tiles += [blank] * (-len(tiles) % columns)
  rows = [
    np.stack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)
  ]
  axes.imshow(display.sheet(rows))
  axes.set_axis_off()
  axes.set_title(f'{view.title} ({to.low:.3g} to {to.high:.3g})')


def _draw_histograms(parts, images, sensor: contract.Sensor) -> None:
  for row, part in enumerate(parts):
    for column, axes in enumerate(part.subplots(1, _COLUMNS)):
      c = row * _COLUMNS + column
      if c >= len(sensor.bands):
        axes.set_axis_off()
        continue
      band = sensor.bands[c]
      values = np.concatenate([image[..., c].ravel() for image in images])
      values = values[np.isfinite(values)]
      axes.set_title(f'{band.name}, {band.units}')
      axes.set_yticks([])
      if not values.size:
        axes.set_xticks([])
        axes.text(0.5, 0.5, 'absent', ha='center', transform=axes.transAxes)
        continue
      low, high = np.percentile(values, (0.1, 99.9))
      axes.hist(
        values,
        _BINS,
        range=(low, max(high, low + 1e-6)),
        histtype='stepfilled',
      )
