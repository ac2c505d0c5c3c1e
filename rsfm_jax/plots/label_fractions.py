"""Accuracy over how many labels there were to learn from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsfm_jax.plots import tables
from rsfm_jax.plots import theme

KEYS = ('dataset', 'protocol', 'metric')


def figures(rows: Sequence[Mapping[str, Any]]) -> list[theme.Figure]:
  """One for each data set, protocol and metric that has several fractions.

  Args:
    rows: dicts with `name`, `label_fraction`, `value`, `low`, `high` and
      `KEYS`, as `cli.sweep_tables.summary` gives them.
  """
  found = tables.groups(rows, (*KEYS, 'label_fraction'))
  groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
  for (*key, _), members in found:
    groups.setdefault(tuple(key), []).extend(members)
  return [
    figure(members, title=', '.join(key[:2]))
    for key, members in groups.items()
    if len({row['label_fraction'] for row in members}) > 1
  ]


@theme.styled
def figure(
  rows: Sequence[Mapping[str, Any]], *, title: str = ''
) -> theme.Figure:
  """A line per name, its band the intervals of the rows."""
  names = list(dict.fromkeys(row['name'] for row in rows))
  out, grid = theme.panels(1, width=7.0, height=3.6)
  axes, colours = grid[0, 0], theme.colours(names)
  for name in names:
    members = sorted(
      (row for row in rows if row['name'] == name),
      key=lambda row: row['label_fraction'],
    )
    share = [100 * row['label_fraction'] for row in members]
    value, low, high = (
      np.array([row[key] for row in members], np.float64)
      for key in ('value', 'low', 'high')
    )
    style = {'color': colours[name], 'marker': 'o', 'markersize': 3}
    axes.plot(share, value, label=name, **style)
    axes.fill_between(
      share, low, high, color=colours[name], alpha=0.18, linewidth=0
    )
  theme.log_scale(axes, 'x')
  axes.set_title(title)
  axes.set_xlabel('labels, % of the training split')
  axes.set_ylabel(rows[0]['metric'])
  out.legend(loc='outside lower left', ncols=3)
  return out
