"""One look for all figures: legible in light and dark, on paper and inline.

Figures are drawn in the light theme, so that `figure.savefig('a.png')` works
anywhere. `svg` swaps every theme colour for a CSS variable, and the page then
decides. No pyplot, hence no global state and no display.
"""

from collections.abc import Sequence
import io
import itertools
import re
from typing import Literal

import matplotlib
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import ticker
import numpy as np

Figure = mpl_figure.Figure
Axes = mpl_axes.Axes

# Name -> (light, dark). No two light colours are equal: `svg` finds them.
COLOURS = {
  'ink': ('#1b2129', '#e6e9ee'),
  'muted': ('#5b6675', '#9aa5b4'),
  'line': ('#d5dae1', '#39424f'),
  'paper': ('#fefefe', '#171c23'),
  'series-0': ('#2563c4', '#7fabf7'),
  'series-1': ('#bb530a', '#f2a065'),
  'series-2': ('#8a3fb3', '#c99af2'),
  'series-3': ('#147d4f', '#5cc794'),
  'series-4': ('#bd2f4b', '#f28296'),
  'series-5': ('#0c7c97', '#5fc3de'),
}
INK, MUTED, LINE, PAPER = (
  COLOURS[name][0] for name in ('ink', 'muted', 'line', 'paper')
)
SERIES = tuple(
  light for name, (light, _) in COLOURS.items() if name.startswith('series')
)
# A sensor keeps its colour from figure to figure.
SENSORS = ('opt', 'sar_l1', 'sar_l2', 'ms')
HEAT = 'viridis'
WIDTH = 11.0  # Inches; what the report's column shows without scaling.

_RC = {
  'axes.axisbelow': True,
  'axes.edgecolor': LINE,
  'axes.facecolor': 'none',
  'axes.grid': True,
  'axes.labelcolor': MUTED,
  'axes.labelsize': 9,
  'axes.prop_cycle': matplotlib.cycler(color=SERIES),
  'axes.spines.right': False,
  'axes.spines.top': False,
  'axes.titlecolor': INK,
  'axes.titlelocation': 'left',
  'axes.titlesize': 10,
  'axes.titleweight': 'bold',
  'figure.dpi': 96,
  'figure.facecolor': PAPER,
  'figure.titlesize': 11,
  'font.size': 9,
  'grid.color': LINE,
  'grid.linewidth': 0.6,
  'image.interpolation': 'none',
  'legend.fontsize': 8.5,
  'legend.frameon': False,
  'legend.labelcolor': INK,
  'lines.linewidth': 1.6,
  'savefig.dpi': 160,
  'text.color': INK,
  'xtick.color': MUTED,
  'xtick.labelsize': 8.5,
  'xtick.major.size': 0,
  'xtick.minor.size': 0,
  'ytick.color': MUTED,
  'ytick.labelsize': 8.5,
  'ytick.major.size': 0,
  'ytick.minor.size': 0,
}
# Artists read these settings when they are made: decorate what makes them.
styled = matplotlib.rc_context(_RC)


def panels(
  columns: int, *, rows: int = 1, width: float = WIDTH, height: float = 2.6
) -> tuple[Figure, np.ndarray]:
  """A figure of `rows` x `columns` axes; sizes in inches, height per row."""
  figure = Figure(figsize=(width, height * rows), layout='constrained')
  return figure, figure.subplots(rows, columns, squeeze=False)


def colours(names: Sequence[str]) -> dict[str, str]:
  """A colour per name; sensors first take their own."""
  taken = {name: SERIES[i] for i, name in enumerate(SENSORS) if name in names}
  free = itertools.cycle(
    [colour for colour in SERIES if colour not in taken.values()] or SERIES
  )
  return {name: taken.get(name) or next(free) for name in names}


def quantity(value: float) -> str:
  """1234567 -> '1.23M', three significant digits."""
  for power, suffix in ((9, 'B'), (6, 'M'), (3, 'k')):
    if abs(value) >= 10**power:
      return f'{value / 10**power:.3g}{suffix}'
  return f'{value:.3g}'


def log_scale(axes: Axes, which: Literal['x', 'y']) -> None:
  """A logarithmic axis with ticks at 1, 2 and 5, in plain numbers."""
  axes.set(**{f'{which}scale': 'log'})
  axis = getattr(axes, f'{which}axis')
  axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
  axis.set_major_formatter(lambda value, _: quantity(value))
  axis.set_minor_locator(ticker.NullLocator())


def svg(figure: Figure, *, label: str = '', prefix: str = '') -> str:
  """The figure as an inline `<svg>` whose colours are CSS variables.

  Args:
    figure: any figure drawn by this room.
    label: what it shows, for readers who do not see it.
    prefix: of the ids inside; figures of one page need different ones.
  """
  buffer = io.StringIO()
  with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'rsfm'}):
    figure.savefig(
      buffer, format='svg', transparent=True, metadata={'Date': None}
    )
  text = buffer.getvalue()
  text = text[text.index('<svg') :]
  text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
  for name, (light, _) in COLOURS.items():
    text = text.replace(light, f'var(--{name})')
  text = re.sub(r'(\bid="|href="#|url\(#)', rf'\g<1>{prefix}', text)
  width = figure.get_figwidth() * 96
  size = f'style="width:100%;max-width:{width:.0f}px;height:auto"'
  label = label.replace('&', '&amp;').replace('"', '&quot;')
  head = f'{size} role="img" aria-label="{label}"'
  return re.sub(r'width="[^"]*" height="[^"]*"', lambda _: head, text, count=1)


def css() -> str:
  """The variables that `svg` refers to, for a light and a dark page."""

  def block(index: int) -> str:
    return ''.join(f'--{name}:{pair[index]};' for name, pair in COLOURS.items())

  return (
    f':root{{color-scheme:light dark;{block(0)}}}\n'
    f'@media (prefers-color-scheme:dark){{:root{{{block(1)}}}}}\n'
    f'@media print{{:root{{{block(0)}}}}}\n'
  )
