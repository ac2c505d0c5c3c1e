"""What a smaller model costs and what it saves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsfm_jax.plots import theme

KEYS = ('name', 'parameters', 'accuracy', 'images_per_second')


def unbeaten(points: Sequence[tuple[float, float]]) -> list[int]:
  """Indices of (cost, value) that no point of at most that cost reaches."""
  order = sorted(
    range(len(points)), key=lambda i: (points[i][0], -points[i][1])
  )
  front: list[int] = []
  for i in order:
    if not front or points[i][1] > points[front[-1]][1]:
      front.append(i)
  return front


@theme.styled
def figure(
  rows: Sequence[Mapping[str, Any]], *, metric: str = 'accuracy'
) -> theme.Figure:
  """Accuracy over parameters, and over throughput; one point per model.

  A line joins the models that no cheaper one equals.

  Args:
    rows: dicts with `name`, `parameters`, `accuracy`, `images_per_second`,
      and `low`, `high` where the interval is known.
    metric: what `accuracy` is, for the axis.

  Raises:
    ValueError: no rows, or a row that lacks a key.
  """
  if not rows:
    raise ValueError('a pruning curve needs at least one model.')
  for row in rows:
    if missing := [key for key in KEYS if key not in row]:
      raise ValueError(f'pruning row {row.get("name")!r} lacks {missing}.')
  out, grid = theme.panels(2, height=2.6 + 0.1 * len(rows))
  colours = theme.colours([row['name'] for row in rows])
  for axes, key, label, sign in (
    (grid[0, 0], 'parameters', 'parameters (log)', 1),
    (grid[0, 1], 'images_per_second', 'images per second (log)', -1),
  ):
    front = unbeaten([(sign * row[key], row['accuracy']) for row in rows])
    axes.plot(
      [rows[i][key] for i in front],
      [rows[i]['accuracy'] for i in front],
      color=theme.LINE,
      zorder=1,
    )
    for row in rows:
      _point(axes, row, x=row[key], colour=colours[row['name']])
    theme.log_scale(axes, 'x')
    axes.margins(0.12, 0.15)
    axes.set_xlabel(label)
  grid[0, 1].sharey(grid[0, 0])
  grid[0, 0].set_ylabel(metric)
  grid[0, 0].set_title('Size')
  grid[0, 1].set_title('Speed')
  handles, labels = grid[0, 0].get_legend_handles_labels()
  out.legend(handles, labels, loc='outside lower left', ncols=2)
  return out


@theme.styled
def sweep(points: Sequence[Mapping[str, Any]]) -> theme.Figure:
  """Accuracy over the number of kept experts; a line for each way to choose.

  Args:
    points: dicts with `sensor`, `dataset`, `protocol`, `rule`, `experts`,
      `accuracy`, `low`, `high`. A panel for each sensor, task and protocol.

  Raises:
    ValueError: no points.
  """
  if not points:
    raise ValueError('a pruning sweep needs at least one point.')
  panels: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
  for point in points:
    key = tuple(point[k] for k in ('sensor', 'dataset', 'protocol'))
    panels.setdefault(key, []).append(point)
  rules = list(dict.fromkeys(point['rule'] for point in points))
  colours = theme.colours(rules)
  width = theme.WIDTH * min(1.0, len(panels) / 2)
  out, grid = theme.panels(len(panels), width=width, height=3.0)
  for axes, (key, own) in zip(grid[0], panels.items(), strict=True):
    for rule in rules:
      line = sorted(
        (p for p in own if p['rule'] == rule), key=lambda p: p['experts']
      )
      value = np.array([p['accuracy'] for p in line])
      low = np.array([p['low'] for p in line])
      high = np.array([p['high'] for p in line])
      axes.errorbar(
        [p['experts'] for p in line], value, [value - low, high - value],
        fmt='o-', color=colours[rule], capsize=2.5, elinewidth=1.2, label=rule,
      )  # fmt: skip
    axes.set_title(', '.join(key))
    axes.set_xlabel('experts kept')
    axes.xaxis.get_major_locator().set_params(integer=True)
  grid[0, 0].set_ylabel('accuracy')
  grid[0, 0].legend(loc='best', handlelength=1.2)
  return out


def _point(
  axes: theme.Axes, row: Mapping[str, Any], *, x: float, colour: str
) -> None:
  value = row['accuracy']
  low, high = (
    value if row.get(side) is None else row[side] for side in ('low', 'high')
  )
  error = np.abs([[value - low], [high - value]])
  label = (
    f'{row["name"]} ({theme.quantity(row["parameters"])}, '
    f'{theme.quantity(row["images_per_second"])} images/s)'
  )
  axes.errorbar(
    x, value, error, fmt='o', color=colour, markersize=6, capsize=2.5,
    elinewidth=1.2, label=label, zorder=2,
  )  # fmt: skip
