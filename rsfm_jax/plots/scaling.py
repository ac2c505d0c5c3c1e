"""How a step's estimated speed grows with the number of chips."""

from collections.abc import Mapping, Sequence
from typing import Any

from rsfm_jax.plots import theme

KEYS = ('series', 'chips', 'images_per_second', 'mfu')
TITLES = {
  'weak': 'weak: as many images a chip',
  'strong': 'strong: as many images a step',
}


@theme.styled
def figure(rows: Sequence[Mapping[str, Any]]) -> theme.Figure:
  """Images per second and MFU over chips, one line per series.

  Thin lines are proportional to the chips, from the smallest of a series.

  Args:
    rows: dicts with `series` ('weak' or 'strong'), `chips`,
      `images_per_second` and `mfu`; rows without an estimate are left out.

  Raises:
    ValueError: a row that lacks a key, or nothing to draw.
  """
  for row in rows:
    if missing := [key for key in KEYS if key not in row]:
      raise ValueError(f'scaling row {row.get("case")!r} lacks {missing}.')
  rows = [row for row in rows if row['images_per_second']]
  if not rows:
    raise ValueError('a scaling figure needs a row with an estimate.')
  out, grid = theme.panels(2, height=3.4)
  speed, use = grid[0, 0], grid[0, 1]
  for series, colour in zip(TITLES, theme.SERIES, strict=False):
    line = sorted(
      (r for r in rows if r['series'] == series), key=lambda r: r['chips']
    )
    if not line:
      continue
    chips = [row['chips'] for row in line]
    rate = [row['images_per_second'] for row in line]
    even = [rate[0] * n / chips[0] for n in chips]
    speed.plot(chips, even, color=colour, linewidth=0.6, linestyle=':')
    speed.plot(chips, rate, 'o-', color=colour, label=TITLES[series])
    use.plot(chips, [100 * row['mfu'] for row in line], 'o-', color=colour)
  for axes in (speed, use):
    theme.log_scale(axes, 'x')
    ticks = sorted({row['chips'] for row in rows})
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.set_xlabel('chips (log)')
    axes.minorticks_off()
  theme.log_scale(speed, 'y')
  use.set_ylim(bottom=0)
  speed.set_title('Images per second, estimated')
  use.set_title('MFU, estimated, %')
  speed.legend()
  return out
