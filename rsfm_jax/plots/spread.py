"""One model under many protocols: how far the choice moves its number."""

from collections.abc import Mapping, Sequence
from typing import Any

from rsfm_jax.plots import theme

KEYS = ('name', 'dataset', 'protocol', 'value', 'low', 'high')


@theme.styled
def figure(
  rows: Sequence[Mapping[str, Any]], *, metric: str = 'accuracy'
) -> theme.Figure:
  """A line for each protocol, a point with its interval for each name.

  Args:
    rows: dicts with `KEYS`; a panel for each dataset; protocols and names in
      their order.
    metric: what `value` is, for the axis.

  Raises:
    ValueError: no rows, or a row that lacks a key.
  """
  if not rows:
    raise ValueError('a spread needs at least one row.')
  for row in rows:
    if missing := [key for key in KEYS if key not in row]:
      raise ValueError(f'spread row {row.get("name")!r} lacks {missing}.')
  names, datasets, protocols = (
    list(dict.fromkeys(row[key] for row in rows))
    for key in ('name', 'dataset', 'protocol')
  )
  height = 1.2 + 0.24 * len(protocols)
  out, grid = theme.panels(len(datasets), height=height)
  colours = theme.colours(names)
  for axes, dataset in zip(grid[0], datasets, strict=True):
    for row in rows:
      if row['dataset'] != dataset:
        continue
      place = protocols.index(row['protocol'])
      offset = (names.index(row['name']) / max(len(names) - 1, 1) - 0.5) / 2
      axes.errorbar(
        row['value'],
        place + offset,
        xerr=[[row['value'] - row['low']], [row['high'] - row['value']]],
        fmt='o',
        markersize=3,
        linewidth=1,
        color=colours[row['name']],
      )
    axes.set_yticks(range(len(protocols)), protocols)
    axes.invert_yaxis()
    axes.set_xlabel(metric)
    axes.set_title(dataset)
  for axes in grid[0, 1:]:
    axes.set_yticklabels([])
  for name in names:
    grid[0, 0].plot([], [], 'o', markersize=3, color=colours[name], label=name)
  handles, labels = grid[0, 0].get_legend_handles_labels()
  out.legend(handles, labels, loc='outside lower left', ncols=2)
  return out
