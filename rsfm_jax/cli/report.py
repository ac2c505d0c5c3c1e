"""One self-contained HTML page about a run: curves, pictures, tables."""

import argparse
from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

import numpy as np

from rsfm_jax.cli import measure
from rsfm_jax.cli import models
from rsfm_jax.cli import pruning_sweep
from rsfm_jax.cli import reconstruct
from rsfm_jax.cli import sweep_tables
from rsfm_jax.cli import task_report
from rsfm_jax.core import files
from rsfm_jax.core import once
from rsfm_jax.data import store as stores
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.evaluate import sweep_rows
from rsfm_jax.models import encoder
from rsfm_jax.models import mapex_spec
from rsfm_jax.models import ringmoe
from rsfm_jax.models import skysense_v2_spec
from rsfm_jax.objectives import power
from rsfm_jax.plots import curves
from rsfm_jax.plots import feature_maps
from rsfm_jax.plots import pruning_curve
from rsfm_jax.plots import reconstructions
from rsfm_jax.plots import report
from rsfm_jax.plots import routing
from rsfm_jax.plots import tables
from rsfm_jax.sensors import statistics
from rsfm_jax.train import writers

HELP = 'write report.html of a run'
ROWS = 'rows.jsonl'  # In a workdir: results of probes.
NAMES = {
  ringmoe.RingMoESpec: 'RingMoE',
  skysense_v2_spec.SkySenseV2Spec: 'SkySense V2',
  mapex_spec.MapexSpec: 'MAPEX-style',
}
PRUNED = 'pruned.json'  # In a workdir: points of the pruning curve.


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--workdir', required=True, help='of a pre-training run')
  add(
    '--store',
    action='append',
    default=[],
    metavar='SENSOR=STORE',
    help='images for reconstructions and feature maps; may be repeated',
  )
  add('--sweep', help='folder of rsfm sweep: curves over label fractions')
  add('--out', help='default: WORKDIR/report.html')


def run(args: argparse.Namespace) -> int:
  workdir = pathlib.Path(args.workdir)
  opened = models.open_model(workdir)
  out = pathlib.Path(args.out or workdir / 'report.html')
  write(
    out,
    workdir,
    opened,
    stores_of(args.store),
    summary=f'Run of {workdir.name}.',
    sweep=args.sweep,
  )
  print(out)
  return 0


def stores_of(texts: Sequence[str]) -> dict[str, stores.Store]:
  """{sensor: store} of 'SENSOR=STORE' arguments.

  Raises:
    ValueError: an argument of another form, or no store there.
  """
  out = {}
  for text in texts:
    sensor, equals, path = text.partition('=')
    if not equals:
      raise ValueError(f'{text!r} is not SENSOR=STORE.')
    out[sensor] = stores.Store(path)
  return out


def write(
  out: pathlib.Path,
  workdir: pathlib.Path,
  opened: models.Opened,
  by_sensor: Mapping[str, stores.Store],
  *,
  summary: str,
  facts: Mapping[str, str] | None = None,
  sweep: str | None = None,
) -> None:
  """Composes the page from what the workdir, and a sweep, hold.

  Raises:
    ValueError: a sweep without results.
  """
  history = writers.read(workdir / 'metrics.jsonl')
  environment = files.read_json(workdir / 'environment.json')['starts'][-1]
  images = {s: _images(opened, v, s, 8) for s, v in by_sensor.items()}
  images = images or task_report.images(workdir)
  report.write_report(
    out,
    [
      _results(workdir),
      *task_report.sections(workdir, opened),
      *_fractions(sweep),
      _pruning(workdir),
      report.Section(
        title='Reconstructions',
        items=_reconstructions(
          opened, images, files.read_json(workdir / 'config.json')
        ),
        text='Masked input, input and prediction; complex SAR as total '
        'power in dB.',
      ),
      report.Section(
        title='Features',
        items=_features(opened, images),
        text='The three leading principal components as colours.',
      ),
      report.Section(title='Routing', items=_routing(opened, history)),
      report.Section(
        title='Training',
        items=[
          curves.figure(history, panels=panels)
          for panels in _panels(opened, history)
        ],
      ),
      report.Section(
        title='Config and environment',
        items=[
          report.json_block(
            'config.json', files.read_json(workdir / 'config.json')
          ),
          report.json_block('environment', environment),
        ],
      ),
    ],
    title=f'{NAMES[type(opened.model.spec)]}: {workdir.name}',
    summary=summary,
    facts=facts,
  )


def _results(workdir: pathlib.Path) -> report.Section:
  rows = []
  if (workdir / ROWS).exists():
    rows = [row.to_json() for row in rows_lib.read(workdir / ROWS)]
  return report.Section(
    title='Results',
    items=[tables.html_table(rows)] if rows else [],
    text='Frozen features, probed, or what was fine-tuned; bars are 95 % '
    'bootstrap intervals over the test samples.',
  )


def _pruning(workdir: pathlib.Path) -> report.Section:
  items: list[report.Item] = []
  if (workdir / PRUNED).exists() and (
    points := files.read_json(workdir / PRUNED)
  ):
    items.append(pruning_curve.figure(points))
  if (workdir / pruning_sweep.POINTS).exists():
    swept = files.read_json(workdir / pruning_sweep.POINTS)
    items += pruning_sweep.figures(swept)
  return report.Section(
    title='Pruning',
    items=items,
    text='Parameters, accuracy and speed of the pruned models; experts kept by '
    'use, at random, and the least used ones.',
  )


def _fractions(sweep: str | None) -> list[report.Section]:
  if sweep is None:
    return []
  results = sweep_rows.read(sweep)
  if not results:
    raise ValueError(f'--sweep {sweep} has no rows of rsfm sweep.')
  return [sweep_tables.fractions(sweep_tables.summary(results))]


def _panels(
  opened: models.Opened, history: Sequence[Mapping[str, Any]]
) -> list[Sequence[curves.Panel]]:
  """What a figure each is about, by what the run was."""
  if any(name.startswith('val/') for row in history for name in row):
    return [curves.FINETUNING]
  taught = isinstance(opened.model.spec, skysense_v2_spec.SkySenseV2Spec)
  return [curves.DISTILLATION if taught else curves.TRAINING, curves.ROUTING]


def _images(
  opened: models.Opened, store: stores.Store, sensor: str, count: int
) -> np.ndarray:
  """The first images of a store at the model's own size, normalised."""
  spec = opened.model.spec
  if isinstance(spec, skysense_v2_spec.SkySenseV2Spec):
    size = spec.of('image_sizes', sensor)
  else:
    size = spec.image_size
  to = measure.target(
    store,
    sensor,
    opened,
    fit='crop',
    size=size,
    missing_bands='mask',
    batch_size=count,
  )
  return next(to.unlabelled(None))


def _reconstructions(
  opened: models.Opened,
  images: Mapping[str, np.ndarray],
  config: Mapping[str, Any],
) -> list[Any]:
  if 'objective' not in config:  # Of a fine-tuning: nothing is hidden.
    return []
  made = reconstruct.masked(opened, images, objective=config['objective'])
  figures = []
  for sensor, (mask, prediction) in made.items():
    shown, guess = _displayed(opened, sensor, images[sensor], prediction)
    figures.append(
      reconstructions.figure(shown, mask, guess, sensor=opened.sensors[sensor])
    )
  return figures


def _displayed(opened, sensor, images, predicted):
  """Images and predictions back in the sensor's units."""
  if sensor in opened.statistics:
    found = opened.statistics[sensor]
    channels = images.shape[-1]
    return (
      statistics.denormalise(images, found),
      statistics.denormalise(predicted[..., :channels], found),
    )
  if opened.model.spec.sar_l1_head == 'iq_l1':
    return images, predicted
  pairs = np.abs(images).reshape(*images.shape[:-1], -1, 2).max((1, 2, 4)) > 0
  valid = pairs.sum(-1)[:, None, None, None]
  return images, np.maximum(
    np.exp(predicted) - power.LOG_FLOOR, 0
  ) * np.maximum(valid, 1)


def _features(
  opened: models.Opened, images: Mapping[str, np.ndarray]
) -> list[Any]:
  if not images:
    return []
  stages = encoder.stage_names(opened.model.spec)
  encode = once.jit(lambda p, x: opened.model.apply(p, x).intermediates)
  maps = encode(opened.params, dict(images))
  figures = []
  for sensor in images:
    shown, _ = _displayed(opened, sensor, images[sensor], images[sensor])
    chosen = {n: np.asarray(maps[n][sensor]) for n in (stages[1], stages[-2])}
    figures.append(
      feature_maps.figure(shown, chosen, sensor=opened.sensors[sensor])
    )
  return figures


def _routing(
  opened: models.Opened, history: Sequence[Mapping[str, Any]]
) -> list[Any]:
  spec = opened.model.spec
  found = routing.recent(history)
  if not found:
    return []
  if 'routed_load' in found:
    return [
      routing.load(found['routed_load'], sensors=spec.sensors, title='experts'),
      routing.by_layer(
        found['routed_entropy'],
        sensors=spec.sensors,
        experts=found['routed_load'].shape[-1],
        mutual_information=found.get('mutual_information'),
      ),
    ]
  items = []
  for branch in ('specialised', 'collaborative'):
    load = found[f'{branch}_load']
    if load.shape[-1]:
      items.append(
        routing.load(load, sensors=spec.sensors, title=f'{branch} experts')
      )
  items.append(
    routing.by_layer(
      found['entropy'][..., 1],
      sensors=spec.sensors,
      experts=found['collaborative_load'].shape[-1],
      mutual_information=found.get('mutual_information'),
    )
  )
  return items
