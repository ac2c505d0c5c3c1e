"""The main job on synthetic scenes: pre-train, probe, report.

RingMoE: four-sensor landscapes, masked image modelling, pruning to the optical
sensor. SkySense V2: landscapes of two pixel sizes and several dates, teacher
and student with all losses. MAPEX-style: Sentinel-2 and Sentinel-1 in groups of
bands, masked autoencoding of them all. Every one probes raw statistics, random
initialisation and the pre-trained model, and writes one HTML report. Running it
again in the same workdir continues where it stopped.
"""

import argparse
import pathlib
import time

from ml_collections import config_dict

from rsfm_jax.cli import assess
from rsfm_jax.cli import config as configs
from rsfm_jax.cli import pretrain
from rsfm_jax.core import log
from rsfm_jax.data import store as stores
from rsfm_jax.data.synthetic import samples
from rsfm_jax.data.synthetic import writing
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import class_table

HELP = 'the main job on synthetic scenes, 5 to 12 minutes on two cores'
SAMPLES = {'ringmoe': 2400, 'skysense_v2': 1200, 'mapex': 2400}  # Scenes.
# What the scenes are seen by, where the model's sensors are groups of bands,
# and which sensor is probed.
SCENES = {'mapex': ('sentinel2_skysense', 'sentinel1_grd')}
PROBED = {'mapex': 's2_rgb'}
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--system', choices=tuple(SAMPLES), default='ringmoe')
  add('--workdir', help='default: workdir/demo, or workdir/demo_SYSTEM')
  add('--config', help='default: the tiny one of the system')
  add('--samples', type=int, help='scenes; default: by the system')
  add('--seed', type=int, default=0)


def run(args: argparse.Namespace) -> int:
  start = time.monotonic()
  name = 'demo' if args.system == 'ringmoe' else f'demo_{args.system}'
  workdir = pathlib.Path(args.workdir or f'workdir/{name}')
  file = f'configs/pretrain/{args.system}_tiny.py'
  root = pathlib.Path(__file__).parents[2]
  config = configs.load(args.config or str(root / file), args.overrides)
  config.data.root = str(workdir)
  scenes = _scenes(workdir / 'scenes', args, config)
  if args.system == 'skysense_v2':
    # Asked for by this demonstration, and named in the log and the report.
    table = class_table.fallback(samples.LANDCOVER)
    class_table.save(workdir / config.objective.class_table, table)
  pretrain.train(config, workdir / 'pretrain')
  rows = assess.main_job(
    workdir / 'pretrain',
    scenes,
    sensor=PROBED.get(args.system, 'opt'),
    seed=args.seed,
  )
  assess.summarise(
    workdir,
    workdir / 'pretrain',
    rows,
    start=start,
    pictures=dict.fromkeys(config.model.sensors, scenes),
  )
  return 0


def _scenes(
  folder: pathlib.Path,
  args: argparse.Namespace,
  config: config_dict.ConfigDict,
) -> stores.Store:
  if (folder / 'index.json').exists():
    log.info('%s is there already', folder)
    return stores.Store(folder)
  options = dict(
    sensors=tuple(
      catalogue.get(name)
      for name in SCENES.get(args.system, config.model.sensors)
    ),
    seed=args.seed,
  )
  if args.system == 'skysense_v2':
    factors = config.data.tiles.factors.to_dict()
    options |= dict(
      size=config.data.tiles.tile,
      dates=1 + max(config.data.tiles.dates.to_dict().values()),
      cloudiness=0.25,
      coarse={name: n for name, n in factors.items() if n > 1},
    )
  return writing.write(
    folder,
    samples.Options(**options),
    args.samples or SAMPLES[args.system],
    workers=2,
    resume=folder.exists(),
  )
