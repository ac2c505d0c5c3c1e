"""The main job on synthetic scenes: pre-train, prune, probe, report.

Synthesizes four-sensor landscapes, pre-trains a tiny RingMoE on them, prunes
it to the optical sensor, probes raw statistics, random initialisation, the
pre-trained and the pruned models, and writes one HTML report. Running it
again in the same workdir continues where it stopped.
"""

import argparse
from collections.abc import Callable
import pathlib
import time
from typing import Any

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import measure
from rsfm_jax.cli import models
from rsfm_jax.cli import pretrain
from rsfm_jax.cli import prune
from rsfm_jax.cli import report
from rsfm_jax.core import files
from rsfm_jax.core import log
from rsfm_jax.core import memory
from rsfm_jax.core import trees
from rsfm_jax.data import store as stores
from rsfm_jax.data.synthetic import samples
from rsfm_jax.data.synthetic import writing
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.export import folder as folders
from rsfm_jax.models import ringmoe
from rsfm_jax.sensors import catalogue

HELP = 'the main job on synthetic scenes, five minutes on two cores'
TAKES_OVERRIDES = True

SENSOR = 'opt'
PROTOCOLS = ('linear', 'dinov2_knn20')
# What is kept of the pre-trained model, by name of the row.
VARIANTS: dict[str, dict[str, Any]] = {
    'pruned: extract opt': {},
    'pruned: EP, 1 of 4': {'keep': 0.25},
    'pruned: dense SVD': {'keep': 0.25, 'dense': 'svd'},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  root = pathlib.Path(__file__).parents[2]
  parser.add_argument('--workdir', default='workdir/demo')
  parser.add_argument(
      '--config', default=str(root / 'configs/pretrain/ringmoe_tiny.py')
  )
  parser.add_argument('--samples', type=int, default=2400)
  parser.add_argument('--seed', type=int, default=0)


def run(args: argparse.Namespace) -> int:
  start = time.monotonic()
  workdir = pathlib.Path(args.workdir)
  config = configs.load(args.config, args.overrides)
  config.data.root = str(workdir)
  scenes = _scenes(workdir / 'scenes', args)
  pretrain.train(config, workdir / 'pretrain')
  rows = main_job(
      workdir / 'pretrain', scenes, calibration=scenes, seed=args.seed
  )
  summarise(
      workdir, workdir / 'pretrain', rows, start=start,
      pictures=dict.fromkeys(scenes.sensors, scenes),
  )
  return 0


def _scenes(folder: pathlib.Path, args: argparse.Namespace) -> stores.Store:
  if (folder / 'index.json').exists():
    log.info('%s is there already', folder)
    return stores.Store(folder)
  options = samples.Options(
      sensors=tuple(catalogue.get(name) for name in ringmoe.SENSORS),
      seed=args.seed,
  )
  return writing.write(
      folder, options, args.samples, workers=2, resume=folder.exists()
  )


def main_job(
    trained: pathlib.Path,
    labelled: stores.Store,
    *,
    calibration: stores.Store,
    protocols: tuple[str, ...] = PROTOCOLS,
    views: str = 'identity',
    seed: int = 0,
) -> list[rows_lib.Row]:
  """Prunes and probes a pre-trained run; leaves rows and curve beside it."""
  opened = models.open_model(trained)
  to = measure.target(labelled, SENSOR, opened)
  options = {'protocols': protocols, 'views': views, 'seed': seed}
  rows = measure.baseline_rows(to, protocols=protocols, seed=seed)
  random = measure.random_init(opened, seed=seed)
  rows += measure.model_rows(random, to, name='random init', **options)
  rows += measure.model_rows(opened, to, name='pre-trained', **options)
  points = [_point(opened, rows, 'pre-trained', protocols[0])]
  for name, how in VARIANTS.items():
    log.info('%s', name)
    small, records = prune.prune(
        opened, sensors=(SENSOR,), calibration=calibration, **how
    )
    folder = trained / name.partition(': ')[2].replace(', ', ' ').replace(
        ' ', '_'
    )
    if not folders.is_model(folder):
      prune.write(folder, opened, small, records)
    ready = prune.as_opened(opened, small, str(folder))
    rows += measure.model_rows(ready, to, name=name, **options)
    points.append(_point(ready, rows, name, protocols[0]))
  (trained / report.ROWS).unlink(missing_ok=True)
  rows_lib.append(trained / report.ROWS, rows)
  files.write_json(trained / report.PRUNED, points)
  return rows


def _point(opened: models.Opened, rows, name: str, protocol: str) -> dict:
  row = next(r for r in rows if (r.name, r.protocol) == (name, protocol))
  return {
      'name': name, 'parameters': trees.count(opened.params),
      'accuracy': row.value, 'low': row.low, 'high': row.high,
      'images_per_second': measure.images_per_second(opened, SENSOR),
  }


def verdict(rows: list[rows_lib.Row]) -> str:
  """Whether pre-training beat random initialisation, in one sentence."""
  of = lambda name: next(r for r in rows if r.name == name)  # noqa: E731
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
  facts: dict[str, Callable[[], str] | str] = {
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
      'rows': [row.to_json() for row in rows], 'seconds': round(seconds, 1),
      'peak_bytes': memory.peak_bytes(), 'verdict': said,
  }
  files.write_json(out / 'summary.json', summary)
  print(rows_lib.markdown(rows))
  print(f'{said}\n{seconds:.0f} s, {memory.peak_bytes() / 2**30:.1f} GiB peak')
  for name in ('report.html', 'summary.json'):
    print((out / name).resolve())
