"""Pruning curves: experts kept against size, work, speed and accuracy."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

import numpy as np

from rsfm_jax.cli import frozen
from rsfm_jax.cli import measure
from rsfm_jax.cli import models
from rsfm_jax.cli import pruned
from rsfm_jax.core import files
from rsfm_jax.core import log
from rsfm_jax.core import trees
from rsfm_jax.data import store as stores
from rsfm_jax.models import accounting
from rsfm_jax.plots import pruning_curve
from rsfm_jax.plots import routing
from rsfm_jax.pruning import keep as keep_lib
from rsfm_jax.pruning import layout
from rsfm_jax.pruning import usage as usage_lib

POINTS = 'sweep.json'  # What the report reads.
COLUMNS = {
  'sensor': '{sensor}',
  'task': '{dataset}, {protocol}',
  'kept by': '{rule}',
  'experts': '{experts:.3g}',
  'parameters': '{parameters:,}',
  'FLOPs': '{flops:.3g}',
  'images/s': '{images_per_second:.0f}',
  'accuracy, %': '{percent:.1f}',
  '95 %': '{low_percent:.1f} to {high_percent:.1f}',
}


def run(
  opened: models.Opened,
  store: stores.Store,
  usage: usage_lib.Usage,
  out: pathlib.Path,
  *,
  counts: Sequence[int],
  sensors: Sequence[str],
  protocols: Sequence[str] = ('linear',),
  branches: tuple[str, ...] | None = None,
  seed: int = 0,
) -> dict[str, Any]:
  """Prunes to each task sensor and number of experts, probes, writes.

  Every number of experts is kept by use, at random, and the other way round.
  `out` gets sweep.json, sweep.md, the curve and the maps of use before and
  after. Only sensors that the labelled store holds are tasks.

  Raises:
    ValueError: a number below 1, no routers, or no sensor of the store.
  """
  layers = layout.layers(opened.model.spec, branches)
  tasks = pruned.fed(store, opened, sensors)
  if not layers or not tasks or min(counts) < 1:
    raise ValueError(
      f'--sweep {",".join(map(str, counts))}: needs numbers from 1, a model '
      f'with routers, and one of the sensors {list(sensors)} in {store.folder},'
      f' which has {sorted(store.sensors)}.'
    )
  points, after = [], {}
  for sensor in tasks:
    to = measure.target(store, sensor, opened)
    for (rule, number), kept in _kept(
      opened, usage, sensor, counts, branches, seed
    ).items():
      log.info('%s: %s experts kept by %s', sensor, number, rule)
      small = pruned.plan(opened, sensors=(sensor,), keep=kept, usage=usage)
      ready = pruned.as_opened(opened, small, opened.path)
      points += _points(
        ready, to, rule, branches, protocols=protocols, seed=seed
      )
      if rule == 'use':
        after[(sensor, number)] = kept
  found = {
    'parent': opened.path,
    'parent_hash': opened.content_hash,
    'points': points,
    'maps': _maps(opened.model.spec, usage, after, branches),
  }
  _write(out, found)
  return found


def _kept(
  opened: models.Opened,
  usage: usage_lib.Usage,
  sensor: str,
  counts: Sequence[int],
  branches: tuple[str, ...] | None,
  seed: int,
) -> dict[tuple[str, str], keep_lib.Keep]:
  """{(rule, number): keep set}; the unpruned model first."""
  spec = opened.model.spec
  out = {('all', 'all'): keep_lib.everything(spec, (sensor,))}
  for n in sorted(set(counts), reverse=True):
    kept = keep_lib.choose(
      f'top:{n}', spec, (sensor,), usage=usage, branches=branches
    )
    others = keep_lib.controls(kept, spec, (sensor,), usage, seed=seed)
    for rule, found in {'use': kept, **others}.items():
      out[rule, str(n)] = found
  return out


def _points(
  ready: models.Opened,
  to: measure.Target,
  rule: str,
  branches: tuple[str, ...] | None,
  **options: Any,
) -> list[dict[str, Any]]:
  """One point per protocol."""
  spec, sensor = ready.model.spec, to.sensor.name
  rows = frozen.model_rows(ready, to, name=rule, **options)
  of = branches or layout.of(spec).branches
  left = [x.experts for x in layout.of(spec).layers(spec) if x.branch in of]
  common = {
    'sensor': sensor,
    'rule': rule,
    # Layers without a router have one.
    'experts': float(np.mean(left)) if left else 1.0,
    'parameters': trees.count(ready.params),
    'flops': accounting.report(spec)['flops_per_image'][sensor],
    'images_per_second': measure.images_per_second(ready, to),
  }
  return [
    common
    | {
      'dataset': row.dataset,
      'protocol': row.protocol,
      'metric': row.metric,
      'accuracy': row.value,
      'low': row.low,
      'high': row.high,
    }
    for row in rows
  ]


def _maps(
  spec: Any,
  usage: usage_lib.Usage,
  after: Mapping[tuple[str, str], keep_lib.Keep],
  branches: tuple[str, ...] | None,
) -> dict[str, Any]:
  """Shares [L, M, E] before, and with what each sensor keeps of them."""
  layers = layout.layers(spec, branches or layout.of(spec).branches)
  width = max(layer.experts for layer in layers)
  rows = [s for s, n in zip(usage.sensors, usage.images, strict=True) if n]

  def shares(masks: Mapping[str, keep_lib.Keep] | None) -> list:
    out = np.zeros((len(layers), len(rows), width))
    for i, layer in enumerate(layers):
      for j, sensor in enumerate(rows):
        share = usage.pooled(layer.name, [sensor]).share[0]
        if masks is not None and sensor in masks:
          kept = np.zeros_like(share)
          kept[masks[sensor][layer.name][0]] = 1
          share = share * kept
        share = share / max(share.sum(), 1e-12)
        out[i, j, : layer.experts] = share
    return out.tolist()

  numbers = sorted({n for _, n in after}, key=int)
  return {
    'sensors': rows,
    'before': shares(None),
    'after': {
      n: shares({s: kept for (s, m), kept in after.items() if m == n})
      for n in numbers
    },
  }


def figures(found: Mapping[str, Any]) -> list[Any]:
  """The curve, and maps of use before and after, of a sweep."""
  maps = found['maps']
  out = [pruning_curve.sweep(found['points'])]
  titles = {'before pruning': maps['before']}
  titles |= {f'with {n} kept': v for n, v in maps['after'].items()}
  for title, values in titles.items():
    out.append(
      routing.load(
        np.array(values), sensors=maps['sensors'], title=f'use {title}'
      )
    )
  return out


def _write(out: pathlib.Path, found: dict[str, Any]) -> None:
  lines = [list(COLUMNS), ['---'] * len(COLUMNS)]
  for point in found['points']:
    shown = point | {
      'percent': 100 * point['accuracy'],
      'low_percent': 100 * point['low'],
      'high_percent': 100 * point['high'],
    }
    lines.append([text.format(**shown) for text in COLUMNS.values()])
  table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
  files.write_text(out / 'sweep.md', table + '\n')
  names = ['curve', 'use_before', *(f'use_{n}' for n in found['maps']['after'])]
  for name, figure in zip(names, figures(found), strict=True):
    figure.savefig(out / f'sweep_{name}.png')
  files.write_json(out / POINTS, found)
  print(table)
  print((out / POINTS).resolve())
