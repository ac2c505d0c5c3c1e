"""Who uses which expert, layer by layer."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import numpy as np

from rsfm_jax.plots import theme

# Numbers inside cells stay readable up to this many layers and experts.
ANNOTATE_LAYERS, ANNOTATE_EXPERTS = 12, 8


def recent(
  rows: Sequence[Mapping[str, Any]], *, last: int = 20
) -> dict[str, np.ndarray]:
  """Means of the `routing/...` metrics over the last rows that have them.

  Returns:
    Name without 'routing/' -> array, e.g. 'specialised_load' [L, M, E],
    'entropy' [L, M, 2], 'mutual_information' [L]; empty for a dense model.
  """
  rows = [r for r in rows if any(n.startswith('routing/') for n in r)][-last:]
  names = {n for row in rows for n in row if n.startswith('routing/')}
  return {
    name.removeprefix('routing/'): np.mean(
      [np.asarray(row[name], np.float64) for row in rows if name in row], 0
    )
    for name in sorted(names)
  }


@theme.styled
def load(
  values: np.ndarray, *, sensors: Sequence[str], title: str
) -> theme.Figure:
  """One heat map per sensor: share of its choices by layer and expert.

  Args:
    values: [L, M, E], rows sum to 1 over E.
    sensors: M names.
    title: which experts these are.

  Raises:
    ValueError: shapes that do not fit the sensors.
  """
  values = np.asarray(values)
  if values.ndim != 3 or values.shape[1] != len(sensors):
    raise ValueError(
      f'load has shape {values.shape}, not [L, M, E] with '
      f'M={len(sensors)} sensors {tuple(sensors)}.'
    )
  layers, _, experts = values.shape
  height = min(0.9 + 0.26 * layers, 6.0)
  width = 0.8 + (theme.WIDTH - 0.8) * min(1.0, len(sensors) / 4)
  figure, grid = theme.panels(len(sensors), width=width, height=height)
  top = max(float(values.max()), 1.5 / experts)
  for axes, sensor, share in zip(
    grid[0], sensors, values.swapaxes(0, 1), strict=True
  ):
    shown = axes.imshow(share, cmap=theme.HEAT, vmin=0, vmax=top, aspect='auto')
    _cells(axes, share, top=top)
    axes.set_title(sensor)
    axes.set_xlabel('expert')
    axes.set_xticks(range(experts))
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
  grid[0, 0].set_ylabel('layer')
  grid[0, 0].set_yticks(range(0, layers, max(1, layers // 12)))
  bar = figure.colorbar(shown, ax=grid[0].tolist(), shrink=0.9, pad=0.01)
  bar.outline.set_visible(False)
  bar.ax.yaxis.set_major_formatter(lambda value, _: f'{100 * value:.3g}')
  figure.suptitle(
    f'{title}: share of choices, % (uniform: {100 / experts:.3g})',
    x=0.005,
    ha='left',
    fontweight='bold',
  )
  return figure


def _cells(axes: theme.Axes, share: np.ndarray, *, top: float) -> None:
  """Percentages in the cells, if they fit."""
  layers, experts = share.shape
  if layers > ANNOTATE_LAYERS or experts > ANNOTATE_EXPERTS:
    return
  for (layer, expert), value in np.ndenumerate(share):
    # Independent of the page's theme: the cell's own colour is the ground.
    ink = 'black' if value > 0.6 * top else 'white'
    text = f'{100 * value:.0f}'
    axes.text(
      expert, layer, text, color=ink, ha='center', va='center', fontsize=7.5
    )


@theme.styled
def by_layer(
  entropy: np.ndarray,
  *,
  sensors: Sequence[str],
  experts: int,
  mutual_information: np.ndarray | None = None,
) -> theme.Figure:
  """Router entropy per sensor, and how much an expert tells of the sensor.

  Args:
    entropy: [L, M] mean entropy of a token's routing distribution, nats.
    sensors: M names.
    experts: E; ln E is the entropy of a router that does not choose.
    mutual_information: [L] I(sensor; collaborative expert) in nats, or None.
  """
  count = 1 if mutual_information is None else 2
  figure, grid = theme.panels(count, width=theme.WIDTH * count / 2)
  layers = np.arange(len(entropy))
  axes = grid[0, 0]
  colours = theme.colours(sensors)
  for sensor, values in zip(sensors, np.asarray(entropy).T, strict=True):
    axes.plot(
      layers, values, marker='o', markersize=3, label=sensor,
      color=colours[sensor],
    )  # fmt: skip
  _bound(axes, math.log(experts), f'uniform, ln {experts}')
  axes.set_title('Router entropy, nats')
  axes.legend(loc='best', handlelength=1.2)
  if mutual_information is not None:
    axes = grid[0, 1]
    axes.bar(layers, mutual_information, color=theme.SERIES[5], width=0.7)
    most = math.log(min(experts, len(sensors)))
    _bound(axes, most, 'largest possible')
    axes.set_title('I(sensor; collaborative expert), nats')
  for axes in grid.flat:
    axes.set_xlabel('layer')
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
  return figure


def _bound(axes: theme.Axes, value: float, label: str) -> None:
  """A dashed line at a theoretical limit, named on the line."""
  axes.axhline(value, color=theme.MUTED, linewidth=1, linestyle=(0, (4, 3)))
  axes.annotate(
    label,
    (1, value),
    xycoords=('axes fraction', 'data'),
    xytext=(0, 2),
    textcoords='offset points',
    ha='right',
    color=theme.MUTED,
    fontsize=8,
  )
  axes.set_ylim(top=value * 1.15)
