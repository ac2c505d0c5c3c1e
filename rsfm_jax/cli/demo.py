"""The main job on synthetic scenes: pre-train, prune, probe, report.

Synthesizes four-sensor landscapes, pre-trains a tiny RingMoE on them, prunes
it to the optical sensor, probes raw statistics, random initialisation, the
pre-trained and the pruned models, and writes one HTML report. Running it
again in the same workdir continues where it stopped.
"""

import argparse
import pathlib
import time

from rsfm_jax.cli import assess
from rsfm_jax.cli import config as configs
from rsfm_jax.cli import pretrain
from rsfm_jax.core import log
from rsfm_jax.data import store as stores
from rsfm_jax.data.synthetic import samples
from rsfm_jax.data.synthetic import writing
from rsfm_jax.models import ringmoe
from rsfm_jax.sensors import catalogue

HELP = 'the main job on synthetic scenes, about five minutes on two cores'
TAKES_OVERRIDES = True


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
  rows = assess.main_job(
    workdir / 'pretrain', scenes, sensor='opt', seed=args.seed
  )
  assess.summarise(
    workdir,
    workdir / 'pretrain',
    rows,
    start=start,
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
