"""What probes say while a model trains: several runs, bands over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsfm_jax.plots import theme

KEYS = ('run', 'seed', 'step', 'accuracy')


@theme.styled
def figure(
  rows: Sequence[Mapping[str, Any]],
  *,
  metric: str = '20-NN accuracy',
  title: str = '',
) -> theme.Figure:
  """Accuracy over steps of pre-training, as SkySense V2's Figure 7.

  A line is the mean over the seeds of a run, its band goes from the lowest to
  the highest of them.

  Args:
    rows: dicts with `run`, `seed`, `step` and `accuracy`; runs in their order.
    metric: what `accuracy` is, for the axis.
    title: e.g. the dataset.

  Raises:
    ValueError: no rows, a row that lacks a key, or a point twice.
  """
  if not rows:
    raise ValueError('progress needs at least one row.')
  points: dict[str, dict[int, dict[Any, float]]] = {}
  for row in rows:
    if missing := [key for key in KEYS if key not in row]:
      raise ValueError(f'progress row {row.get("run")!r} lacks {missing}.')
    run, seed, step, accuracy = (row[key] for key in KEYS)
    seeds = points.setdefault(run, {}).setdefault(step, {})
    if seed in seeds:
      raise ValueError(f'{run}, seed {seed}, step {step} is there twice.')
    seeds[seed] = accuracy
  out, grid = theme.panels(1, width=7.0, height=3.6)
  axes, colours = grid[0, 0], theme.colours(list(points))
  most = 0
  for run, by_step in points.items():
    steps = sorted(by_step)
    values = [list(by_step[step].values()) for step in steps]
    seeds = max(map(len, values))
    most = max(most, seeds)
    axes.plot(
      steps,
      [np.mean(v) for v in values],
      marker='o',
      markersize=3,
      color=colours[run],
      label=run if seeds == 1 else f'{run} ({seeds} seeds)',
    )
    low, high = [min(v) for v in values], [max(v) for v in values]
    axes.fill_between(
      steps, low, high, color=colours[run], alpha=0.18, linewidth=0
    )
  words = ' (bands: lowest to highest seed)' if most > 1 else ''
  axes.set_title(title + words if title else words.strip(' ()'))
  axes.set_xlabel('steps of pre-training')
  axes.set_ylabel(metric)
  axes.xaxis.set_major_formatter(lambda value, _: theme.quantity(value))
  handles, names = axes.get_legend_handles_labels()
  out.legend(handles, names, loc='outside lower left', ncols=3)
  return out
