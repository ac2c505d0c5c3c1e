"""Rows of results, with their intervals, as HTML or Markdown.

A row is a dict with `name`, `dataset`, `protocol`, `metric`, `value`, and
`low`, `high` where an interval is known.
"""

from collections.abc import Mapping, Sequence
import html
import itertools
from typing import Any, NamedTuple

Row = Mapping[str, Any]

LOWER_IS_BETTER = ('loss', 'rmse', 'mae', 'mse', 'nll', 'ece', 'error')
GROUP = ('dataset', 'protocol', 'metric')
WIDTH, HEIGHT = 340, 14  # Of the interval drawing, in CSS pixels.


class Span(NamedTuple):
  """The common axis of the interval drawings of one group."""

  low: float
  high: float

  def at(self, value: float) -> float:
    """Pixels from the left; a small margin keeps whiskers inside."""
    share = (value - self.low) / max(self.high - self.low, 1e-9)
    return 5 + share * (WIDTH - 10)


def groups(rows: Sequence[Row]) -> list[tuple[tuple[str, ...], list[Row]]]:
  """Rows that may be compared: one dataset, protocol and metric.

  Raises:
    ValueError: a row without one of the keys.
  """
  for row in rows:
    if missing := [key for key in ('name', *GROUP, 'value') if key not in row]:
      raise ValueError(f'row {row.get("name")!r} lacks {missing}.')

  def key(row: Row) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in GROUP)

  # Groups keep the order in which they first appear.
  order = {key(row): i for i, row in reversed(list(enumerate(rows)))}
  ordered = sorted(rows, key=lambda row: order[key(row)])
  return [(k, list(g)) for k, g in itertools.groupby(ordered, key)]


def interval(row: Row) -> tuple[float, float] | None:
  """(low, high), or None when the row has no interval."""
  if row.get('low') is None or row.get('high') is None:
    return None
  return row['low'], row['high']


def html_table(rows: Sequence[Row]) -> str:
  """One table; each group has a heading and one axis for its intervals."""
  body = []
  for (dataset, protocol, metric), members in groups(rows):
    ends = [x for row in members for x in interval(row) or (row['value'],)]
    span = Span(min(ends), max(ends))
    best = _best(metric, [row['value'] for row in members])
    heading = ' &middot; '.join(map(html.escape, (dataset, protocol, metric)))
    axis = f'{span.low:.3f}<span>{span.high:.3f}</span>'
    body.append(
      f'<tbody><tr class="group"><th colspan="3">{heading}</th>'
      f'<td class="axis">{axis if span.low < span.high else ""}</td></tr>'
    )
    body += [_html_row(row, span, best=best) for row in members]
    body.append('</tbody>')
  return (
    '<div class="scroll"><table class="results"><thead><tr><th>Features</th>'
    '<th class="number">Value</th><th class="number">95&thinsp;% interval</th>'
    f'<th></th></tr></thead>{"".join(body)}</table></div>'
  )


def _best(metric: str, values: Sequence[float]) -> float | None:
  """The value to stress; nothing when there is nothing to compare."""
  if len(values) < 2:
    return None
  return min(values) if metric.lower() in LOWER_IS_BETTER else max(values)


def _html_row(row: Row, span: Span, *, best: float | None) -> str:
  ends = interval(row)
  shown = f'{ends[0]:.3f} to {ends[1]:.3f}' if ends else 'not measured'
  style = ' class="best"' if row['value'] == best else ''
  return (
    f'<tr{style}><th>{html.escape(str(row["name"]))}</th>'
    f'<td class="number">{row["value"]:.3f}</td>'
    f'<td class="number muted">{shown}</td>'
    f'<td>{_whisker(row["value"], ends, span)}</td></tr>'
  )


def _whisker(value: float, ends: tuple[float, float] | None, span: Span) -> str:
  """A dot on its interval, drawn to the scale of the group."""
  middle = HEIGHT / 2
  line = ''
  if ends:
    left, right = map(span.at, ends)
    line = (
      f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{middle}" y2="{middle}"/>'
    )
  return (
    f'<svg class="whisker" width="{WIDTH}" height="{HEIGHT}" '
    f'aria-hidden="true">{line}'
    f'<circle cx="{span.at(value):.1f}" cy="{middle}" r="3.5"/></svg>'
  )


def markdown(rows: Sequence[Row]) -> str:
  """The same as an aligned Markdown table, legible as plain text too."""
  lines = [['name', *GROUP, 'value', '95 % interval']]
  for key, members in groups(rows):
    for row in members:
      ends = interval(row)
      shown = f'{ends[0]:.3f} to {ends[1]:.3f}' if ends else 'not measured'
      lines.append([str(row['name']), *key, f'{row["value"]:.3f}', shown])
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  lines.insert(1, ['-' * width for width in widths])
  return ''.join(
    f'| {" | ".join(map(str.ljust, line, widths))} |\n' for line in lines
  )
