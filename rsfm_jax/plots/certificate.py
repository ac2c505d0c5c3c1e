"""Accuracy by which inputs are there, for each way to fit the probe."""

from collections.abc import Mapping, Sequence
from typing import Any

from rsfm_jax.plots import tables
from rsfm_jax.plots import theme

KEYS = ('subset', 'probe', 'protocol', 'metric', 'value', 'low', 'high')


def panels(
  rows: Sequence[Mapping[str, Any]],
) -> list[list[Mapping[str, Any]]]:
  """Rows that belong into one figure: of a model, protocol and metric."""
  shared = [
    dict(row) | {'name': str(row['name']).removesuffix(f', {row["probe"]}')}
    for row in rows
  ]
  found = tables.groups(shared, ('name', 'protocol', 'metric'))
  return [members for _, members in found]


@theme.styled
def figure(rows: Sequence[Mapping[str, Any]]) -> theme.Figure:
  """A line per subset, a colour per probe, whiskers for the intervals.

  Args:
    rows: dicts with `KEYS`, of one protocol and metric; subsets in the order
      from top to bottom.

  Raises:
    ValueError: no rows, or one that lacks a key.
  """
  if not rows:
    raise ValueError('a certificate needs at least one row.')
  for row in rows:
    if missing := [key for key in KEYS if key not in row]:
      raise ValueError(f'row {row.get("name")!r} lacks {missing}.')
  names = list(dict.fromkeys(row['subset'] for row in rows))
  probes = list(dict.fromkeys(row['probe'] for row in rows))
  out, grid = theme.panels(
    1, width=theme.WIDTH * 0.75, height=1.2 + 0.3 * len(names)
  )
  axes, colours = grid[0, 0], theme.colours(probes)
  for i, probe in enumerate(probes):
    members = [row for row in rows if row['probe'] == probe]
    shift = 0.24 * (i - (len(probes) - 1) / 2)
    places = [names.index(row['subset']) + shift for row in members]
    low, high = ([row[end] for row in members] for end in ('low', 'high'))
    axes.hlines(places, low, high, color=colours[probe], alpha=0.5)
    values = [row['value'] for row in members]
    axes.plot(
      values, places, 'o', markersize=4, color=colours[probe], label=probe
    )
  axes.set_yticks(range(len(names)), names)
  axes.invert_yaxis()
  axes.set_xlabel(rows[0]['metric'])
  axes.set_title(f'{rows[0].get("name", "")}: {rows[0]["protocol"]}')
  out.legend(loc='outside lower left', ncols=len(probes))
  return out
