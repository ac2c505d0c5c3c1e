"""Figures and tables of E003, from its results alone."""

from collections.abc import Iterator, Mapping, Sequence
import pathlib
from typing import Any

import numpy as np

from rsfm_jax.plots import progress
from rsfm_jax.plots import routing

# Of Student's distribution: 97.5 % points by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
WORDS = {'bias': 'told of the sensor (bias)', 'none': 'not told'}


def draw(found: Mapping[str, Any], to: pathlib.Path, prefix: str = '') -> None:
  """Curves of I(sensor; expert), maps of use, and the table, printed."""
  rows = [
    {
      'run': WORDS.get(conditioning, conditioning),
      'seed': seed,
      'step': int(step),
      'accuracy': float(np.mean(layers)),
    }
    for conditioning, seed, of in _stage(found, 'routing')
    for step, layers in of['information'].items()
  ]
  drawn = progress.figure(
    rows,
    metric='I(sensor; expert), nats, mean over layers',
    title='MAPEX-style tiny, routed as in evaluation',
  )
  drawn.savefig(to / f'{prefix}information.png', dpi=110)
  for conditioning, seed, of in _stage(found, 'routing'):
    if seed == 0:
      _maps(conditioning, of, to, prefix)
  print(table(found))


def _maps(
  conditioning: str, of: Mapping[str, Any], to: pathlib.Path, prefix: str
) -> None:
  """Before and after pre-training, and what pruning leaves of that."""
  who, sensors = WORDS.get(conditioning, conditioning), of['sensors']
  drawn = {
    'init': ('at initialisation', of['shares_at_init'], sensors),
    'trained': ('pre-trained', of['shares'], sensors),
  }
  for number, (task, kept) in enumerate(of['kept'].items(), 1):
    names = task.split(' + ')
    share = np.array(of['shares'])[:, [sensors.index(s) for s in names]]
    mask = np.zeros(share.shape)
    for layer, experts in enumerate(kept):
      mask[layer, :, experts] = 1
    left = share * mask
    left = left / np.maximum(left.sum(-1, keepdims=True), 1e-12)
    drawn[f'pruned_{number}'] = (f'pruned to {task}', left, names)
  for name, (words, share, names) in drawn.items():
    figure = routing.load(
      np.array(share), sensors=names, title=f'MAPEX-style, {who}, {words}'
    )
    figure.savefig(to / f'{prefix}use_{conditioning}_{name}.png', dpi=110)


def table(found: Mapping[str, Any]) -> str:
  """Means over seeds with 95 % intervals of the mean, in Markdown."""
  lines = [
    '| read | routers | model | encoder parameters | what is measured | '
    'accuracy, % | seeds |',
    '| --- | --- | --- | --: | --- | --: | --- |',
  ]
  cells: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
  for stage in ('raw', 'frozen', 'tuned'):
    for conditioning, _, rows in _stage(found, stage):
      for row in rows:
        key = (row['task'], conditioning, row['model'], row['protocol'])
        cells.setdefault(key, []).append(row)
  for (task, conditioning, model, protocol), rows in cells.items():
    values = [100 * row['accuracy'] for row in rows]
    sizes = sorted({row['parameters'] for row in rows if 'parameters' in row})
    size = ' to '.join(f'{n:,}' for n in sizes[:: max(1, len(sizes) - 1)])
    each = ', '.join(f'{v:.1f}' for v in values)
    lines.append(
      f'| {task} | {conditioning} | {model} | {size or "-"} | {protocol} | '
      f'{interval(values)} | {each} |'
    )
  return '\n'.join(lines)


def interval(values: Sequence[float]) -> str:
  """'mean ± half width' of Student's 95 % interval of the mean."""
  mean, number = np.mean(values), len(values)
  if number < 2:
    return f'{mean:.1f}'
  error = np.std(values, ddof=1) / np.sqrt(number)
  return f'{mean:.1f} ± {STUDENT[number - 1] * error:.1f}'


def _stage(
  found: Mapping[str, Any], stage: str
) -> Iterator[tuple[str, int, Any]]:
  for key, value in found.get(stage, {}).items():
    conditioning, seed, *_ = key.split('/')
    yield conditioning, int(seed), value
