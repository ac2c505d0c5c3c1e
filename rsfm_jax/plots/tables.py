"""Rows of results, with their intervals, as HTML, Markdown or CSV.

A row is a dict with `name`, `dataset`, `protocol`, `metric`, `value`, and
`low`, `high` where an interval is known.
"""

from collections.abc import Mapping, Sequence
import csv as csv_lib
import html
import io
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


def groups(
  rows: Sequence[Row], keys: Sequence[str] = GROUP
) -> list[tuple[tuple[str, ...], list[Row]]]:
  """Rows that may be compared: one dataset, protocol and metric.

  Raises:
    ValueError: a row without one of the keys.
  """
  for row in rows:
    if missing := [key for key in ('name', *keys, 'value') if key not in row]:
      raise ValueError(f'row {row.get("name")!r} lacks {missing}.')

  def key(row: Row) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in keys)

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
    best = _best(key[-1], [row['value'] for row in members])
    for row in members:
      ends = interval(row)
      shown = f'{ends[0]:.3f} to {ends[1]:.3f}' if ends else 'not measured'
      value = f'{row["value"]:.3f}'
      if row['value'] == best:
        value = f'**{value}**'
      lines.append([str(row['name']), *key, value, shown])
  return markdown_of(lines)


def markdown_of(lines: Sequence[Sequence[str]]) -> str:
  """An aligned Markdown table of cells; the first line is the heading."""
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  ruled = [lines[0], ['-' * width for width in widths], *lines[1:]]
  return ''.join(
    f'| {" | ".join(map(str.ljust, line, widths))} |\n' for line in ruled
  )


def html_of(lines: Sequence[Sequence[str]]) -> str:
  """A plain HTML table of cells; **stressed** ones are those of the best."""
  head, *body = (list(map(html.escape, line)) for line in lines)
  heading = ''.join(f'<th>{cell}</th>' for cell in head)
  rows = ''.join(
    f'<tr><th>{first}</th>{"".join(map(_html_cell, rest))}</tr>'
    for first, *rest in body
  )
  return (
    f'<div class="scroll"><table class="results"><thead><tr>{heading}</tr>'
    f'</thead><tbody>{rows}</tbody></table></div>'
  )


def _html_cell(cell: str) -> str:
  bare = cell.removeprefix('**').removesuffix('**')
  inside = f'<strong>{bare}</strong>' if bare != cell else cell
  return f'<td class="number">{inside}</td>'


def csv(
  rows: Sequence[Row],
  *,
  keys: Sequence[str] = GROUP,
  extra: Sequence[str] = (),
) -> str:
  """All digits, one line a row; `best` is 1 for the best of its group.

  Args:
    rows: as above.
    keys: what rows of a group share; `metric` is among them.
    extra: more keys of rows, as columns.
  """
  out = io.StringIO()
  columns = ('name', *keys, 'value', 'low', 'high', *extra)
  writer = csv_lib.writer(out, lineterminator='\n')
  writer.writerow([*columns, 'best'])
  for shared, members in groups(rows, keys):
    metric = shared[list(keys).index('metric')]
    best = _best(metric, [row['value'] for row in members])
    for row in members:
      cells = ['' if row.get(key) is None else row[key] for key in columns]
      writer.writerow([*cells, int(row['value'] == best)])
  return out.getvalue()
