"""Curves of a run from the rows of its `metrics.jsonl`."""

from collections.abc import Mapping, Sequence
import re
from typing import Any, Literal, NamedTuple

import numpy as np

from rsfm_jax.plots import theme

Rows = Sequence[Mapping[str, Any]]

# More points than this are drawn faintly, with their running mean on top.
SMOOTH_ABOVE = 120


class Panel(NamedTuple):
  """One axes: every metric whose whole name matches `pattern`.

  Attributes:
    title: what is drawn, with its unit if it has one.
    pattern: regex; a group names the line, else the metric's name does.
    scale: of the y axis, 'linear' or 'log'.
    parts: names of the last axis of metrics that are arrays; the other axes
      (layers, sensors) are averaged.
    line: 'smooth' puts a running mean over long noisy lines.
  """

  title: str
  pattern: str
  scale: Literal['linear', 'log'] = 'linear'
  parts: tuple[str, ...] = ()
  line: Literal['smooth', 'exact'] = 'smooth'


EXPERTS = ('specialised', 'collaborative')
TRAINING = (
  Panel('Loss per sensor', r'losses/(?!balance|z|importance|load)(.+)'),
  Panel('Total loss', 'loss'),
  Panel('Learning rate', 'lr', line='exact'),
  Panel('Gradient norm before clipping', 'grad_norm', 'log'),
  Panel('Images per second', 'examples_per_second'),
  Panel('Share of time waiting for data', 'wait_share'),
  Panel('Probes of frozen features', r'eval/(.+)', line='exact'),
)
DISTILLATION = (
  Panel('Losses', r'losses/(mgcl|qsacl|ita)'),
  Panel('Contrast of images', r'losses/(.+)_image'),
  Panel('Contrast of objects', r'losses/(.+)_object'),
  Panel('Contrast of pixels', r'losses/(.+)_pixel'),
  Panel(
    'Deviation of features (1: all directions)', r'monitor/(.+)/feature_std'
  ),
  Panel(
    "Entropy of the teacher's targets, nats", r'monitor/(.+)/teacher_entropy'
  ),
  Panel('KL of the student, nats', r'monitor/(.+)/kl'),
  *TRAINING[1:],
)
FINETUNING = (
  Panel('Loss', 'loss'),
  Panel('Of the training batch', r'train/(.+)'),
  Panel('Of the validation split', r'val/(.+)', line='exact'),
  *TRAINING[2:],
)
ROUTING = (
  Panel('Balance loss', 'losses/balance'),
  Panel('Importance and load losses', r'losses/(importance|load)'),
  Panel('Router z-loss', 'losses/z'),
  Panel('Share of choices dropped', 'routing/dropped', parts=EXPERTS),
  Panel('Router entropy, nats', 'routing/entropy', parts=EXPERTS),
  Panel('Share of choices dropped', 'routing/routed_dropped'),
  Panel('Router entropy, nats', 'routing/routed_entropy'),
  Panel('I(sensor; common expert), nats', 'routing/mutual_information'),
)


def series(rows: Rows, panel: Panel) -> dict[str, np.ndarray]:
  """The lines of a panel: name -> [n, 2] of step and value.

  Values that are null (not finite in the run) become NaN: a visible gap.
  """
  found: dict[str, list[tuple[float, float]]] = {}
  for row in rows:
    for name, value in row.items():
      match = re.fullmatch(panel.pattern, name)
      if not match:
        continue
      label = match.group(1) if match.groups() else name
      values = np.asarray(value, np.float64)
      if not panel.parts or not values.ndim:
        parts = {label: values.mean() if values.size else np.nan}
      else:
        means = values.reshape(-1, values.shape[-1]).mean(0)
        parts = dict(zip(panel.parts, means, strict=True))
      for part, number in parts.items():
        found.setdefault(part, []).append((row['step'], number))
  return {name: np.asarray(points) for name, points in found.items()}


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
  """Centred mean over `width` values (shorter at the ends); skips NaN."""
  kernel = np.ones(width)
  seen = np.isfinite(values)
  total = np.convolve(np.where(seen, values, 0), kernel, 'same')
  count = np.convolve(seen, kernel, 'same')
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


@theme.styled
def figure(
  rows: Rows, *, panels: Sequence[Panel] = TRAINING, columns: int = 3
) -> theme.Figure:
  """One axes per panel that has data.

  Raises:
    ValueError: no row has any of the metrics.
  """
  drawn = [(panel, lines) for panel in panels if (lines := series(rows, panel))]
  if not drawn:
    wanted = [panel.pattern for panel in panels]
    raise ValueError(f'{len(rows)} rows hold none of the metrics {wanted}.')
  columns = min(columns, len(drawn))
  out, grid = theme.panels(
    columns, rows=-(-len(drawn) // columns), width=theme.WIDTH * columns / 3
  )
  for axes in grid.flat[len(drawn) :]:
    axes.set_visible(False)
  for axes, (panel, lines) in zip(grid.flat, drawn, strict=False):
    _draw(axes, panel, lines)
  return out


def _draw(
  axes: theme.Axes, panel: Panel, lines: Mapping[str, np.ndarray]
) -> None:
  colours = theme.colours(list(lines))
  for name, points in lines.items():
    step, value = points.T
    style = {'color': colours[name], 'label': name}
    if panel.line == 'smooth' and len(step) > SMOOTH_ABOVE:
      axes.plot(step, value, color=colours[name], alpha=0.25, linewidth=0.8)
      value = running_mean(value, max(3, len(step) // 40))
    elif len(step) == 1:
      style['marker'] = 'o'
    axes.plot(step, value, **style)
  axes.set_title(panel.title)
  axes.set_xlabel('step')
  if panel.scale == 'log' and _positive(lines):
    theme.log_scale(axes, 'y')
  if len(lines) > 1:
    axes.legend(loc='best', handlelength=1.2)


def _positive(lines: Mapping[str, np.ndarray]) -> bool:
  values = np.concatenate([points[:, 1] for points in lines.values()])
  values = values[np.isfinite(values)]
  return bool(values.size and (values > 0).all())
