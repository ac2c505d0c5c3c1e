"""Prunes, probes and reports a pre-trained run.

Leaves pruned models, `rows.jsonl` and `pruned.json` in the run's workdir, and
`report.html` and `summary.json` in --out.
"""

import argparse
import pathlib
import time
from typing import Any

from rsfm_jax.cli import frozen
from rsfm_jax.cli import measure
from rsfm_jax.cli import models
from rsfm_jax.cli import pruned
from rsfm_jax.cli import report
from rsfm_jax.cli import task_report
from rsfm_jax.core import files
from rsfm_jax.core import log
from rsfm_jax.core import memory
from rsfm_jax.core import trees
from rsfm_jax.data import store as stores
from rsfm_jax.evaluate import metrics
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.export import folder as folders
from rsfm_jax.models import ringmoe
from rsfm_jax.pruning import layout

HELP = 'prune, probe and report a pre-trained run'

PROTOCOLS = ('linear', 'dinov2_knn20')
# What is kept of a pre-trained model for one sensor, by name of the row.
RINGMOE: dict[str, dict[str, Any]] = {
  'pruned: extract': {},
  'pruned: EP, 1 of 4': {'keep': 'pooled:1'},
  'pruned: dense SVD': {'keep': 'pooled:1', 'dense': 'svd'},
}
# Table 17 of SkySense V2 keeps one random expert.
ONE_SET: dict[str, dict[str, Any]] = {
  'pruned: extract': {},
  'pruned: 90 % of use': {'keep': 'mass:0.9'},
  'pruned: 1 expert': {'keep': 'top:1'},
  'pruned: 1 random expert': {'keep': 'random:1'},
  'pruned: dense': {'dense': 'mean'},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--workdir', required=True, help='of a pre-training run')
  add('--store', required=True, help='labelled store: probes, calibration')
  add('--sensor', default='opt')
  add(
    '--protocols',
    type=lambda t: tuple(t.split(',')),
    default=PROTOCOLS,
    metavar='A,B',
    help='the first one decides; see rsfm evaluate --help',
  )
  add(
    '--pictures',
    action='append',
    default=[],
    metavar='SENSOR=STORE',
    help='more stores to show reconstructions of',
  )
  add('--seed', type=int, default=0)
  add('--out', help='folder; default: the workdir')


def run(args: argparse.Namespace) -> int:
  start = time.monotonic()
  trained = pathlib.Path(args.workdir)
  labelled = stores.Store(args.store)
  pictures = {args.sensor: labelled} | report.stores_of(args.pictures)
  rows = main_job(
    trained,
    labelled,
    sensor=args.sensor,
    protocols=args.protocols,
    seed=args.seed,
  )
  summarise(
    pathlib.Path(args.out or trained),
    trained,
    rows,
    start=start,
    pictures=pictures,
  )
  return 0


def main_job(
  trained: pathlib.Path,
  labelled: stores.Store,
  *,
  sensor: str,
  protocols: tuple[str, ...] = PROTOCOLS,
  seed: int = 0,
) -> list[rows_lib.Row]:
  """Prunes and probes a pre-trained run; leaves rows and curve beside it."""
  log.info('peak memory so far %.1f GiB', memory.peak_bytes() / 2**30)
  opened = models.open_model(trained)
  to = measure.target(labelled, sensor, opened)
  options = {'protocols': protocols, 'seed': seed}
  rows = frozen.baseline_rows(to, protocols=protocols, seed=seed)
  random = measure.random_init(opened, seed=seed)
  rows += frozen.model_rows(random, to, name='random init', **options)
  found = frozen.model_rows(opened, to, name='pre-trained', **options)
  _keep_table(trained, labelled, found[0])
  rows += found
  points = [_point(opened, to, rows, 'pre-trained')]
  ways, usage = variants(opened.model.spec), None
  if ways:
    usage = pruned.calibrate(opened, labelled, sensors=(sensor,))
  for name, how in ways.items():
    log.info('%s', name)
    small = pruned.plan(opened, sensors=(sensor,), usage=usage, **how)
    words = name.partition(': ')[2].replace(',', '').replace('%', '').split()
    folder = trained / 'pruned' / '_'.join([sensor, *words])
    if not folders.is_model(folder):
      pruned.write_whole(folder, opened, small, usage)
    ready = pruned.as_opened(opened, small, str(folder))
    rows += frozen.model_rows(ready, to, name=name, **options)
    points.append(_point(ready, to, rows, name))
  (trained / report.ROWS).unlink(missing_ok=True)
  rows_lib.append(trained / report.ROWS, rows)
  files.write_json(trained / report.PRUNED, points)
  return rows


def _keep_table(
  trained: pathlib.Path, store: stores.Store, row: rows_lib.Row
) -> None:
  """The confusion of a row on the test split, for the page."""
  labels, found = store.labels('test'), row.predictions
  count = len(store.classes or ())
  if labels.ndim == 2:
    count = labels.shape[1]
  elif not count:
    count = 1 + int(max(labels.max(), found.max()))
  task_report.save_table(
    trained,
    metrics.confusion(found, labels, classes=count),
    classes=store.classes,
    title=f'{row.name}, {row.dataset}, {row.protocol}',
  )


def variants(spec: Any) -> dict[str, dict[str, Any]]:
  """Ways to cut a model of this spec; none without routers."""
  if not layout.layers(spec):
    return {}
  return RINGMOE if isinstance(spec, ringmoe.RingMoESpec) else ONE_SET


def _point(
  opened: models.Opened,
  to: measure.Target,
  rows: list[rows_lib.Row],
  name: str,
) -> dict[str, Any]:
  """A point of the pruning curve, by the first protocol."""
  row = next(r for r in rows if r.name == name)
  return {
    'name': name,
    'parameters': trees.count(opened.params),
    'accuracy': row.value,
    'low': row.low,
    'high': row.high,
    'images_per_second': measure.images_per_second(opened, to),
  }


def verdict(rows: list[rows_lib.Row]) -> str:
  """Whether pre-training beat random initialisation, in one sentence."""
  of = lambda name: next(r for r in rows if r.name == name)
  trained, random = of('pre-trained'), of('random init')
  words = (
    f'Pre-trained {100 * trained.value:.1f} % '
    f'[{100 * trained.low:.1f}, {100 * trained.high:.1f}], random init '
    f'{100 * random.value:.1f} % [{100 * random.low:.1f}, '
    f'{100 * random.high:.1f}] ({trained.protocol}, {trained.dataset}): '
  )
  if trained.low > random.high:
    return words + 'pre-training wins beyond the intervals.'
  return words + 'pre-training does NOT win beyond the intervals.'


def summarise(
  out: pathlib.Path,
  trained: pathlib.Path,
  rows: list[rows_lib.Row],
  *,
  start: float,
  pictures: dict[str, stores.Store],
) -> None:
  """report.html, summary.json and a short text that ends with the paths."""
  said = verdict(rows)
  opened = models.open_model(trained)
  seconds = time.monotonic() - start
  facts = {
    'Parameters': f'{trees.count(opened.params):,}',
    'Steps': str(opened.step),
    'Minutes': f'{seconds / 60:.1f}',
    'Peak memory': f'{memory.peak_bytes() / 2**30:.1f} GiB',
  }
  report.write(
    out / 'report.html', trained, opened, pictures, summary=said, facts=facts
  )
  seconds = time.monotonic() - start
  summary = {
    'rows': [row.to_json() for row in rows],
    'seconds': round(seconds, 1),
    'peak_bytes': memory.peak_bytes(),
    'verdict': said,
  }
  files.write_json(out / 'summary.json', summary)
  print(rows_lib.markdown(rows))
  print(f'{said}\n{seconds:.0f} s, {memory.peak_bytes() / 2**30:.1f} GiB peak')
  for name in ('report.html', 'summary.json'):
    print((out / name).resolve())
