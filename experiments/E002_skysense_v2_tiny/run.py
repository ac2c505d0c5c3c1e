"""E002: the ladder of SkySense V2's Figure 7 at a size that two cores train.

Pre-trains what `results.json` lacks, one run after another, probes the teacher
at every checkpoint, and draws the figures from what is there. Run it again
after an interruption: it continues.

  python experiments/E002_skysense_v2_tiny/run.py --shared ../shared
"""

import argparse
from collections.abc import Iterator
import pathlib
from typing import Any

import numpy as np

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import encoders
from rsfm_jax.cli import frozen
from rsfm_jax.cli import main
from rsfm_jax.cli import measure
from rsfm_jax.cli import measure_tiles
from rsfm_jax.cli import models
from rsfm_jax.cli import pretrain
from rsfm_jax.core import files
from rsfm_jax.core import log
from rsfm_jax.core import memory
from rsfm_jax.data import store as stores
from rsfm_jax.data.synthetic import samples
from rsfm_jax.evaluate import features as features_lib
from rsfm_jax.plots import progress
from rsfm_jax.plots import query_maps
from rsfm_jax.plots import scatter
from rsfm_jax.sensors import class_table
from rsfm_jax.train import checkpoint

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / 'results.json'
# Names of `configs/ablation/skysense_v2.py`, and what they add.
LADDER = {
  'base': 'base',
  'ga': '+ GA',
  'msp': '+ MsP',
  'moe': '+ MoE',
  'full': '+ QSACL',
}
# What a claim is made of has several seeds, the rungs between them one.
SEEDED = ('base', 'full')
DATASETS = {'scenes': 'scenes', 'eurosat': 'real/opt_eurosat'}
KNN = 'dinov2_knn20'
SENSOR = 'opt'
# Two sensors, one date each, since what is probed is one optical image.
OVERRIDES = (
  "--config.model.sensors=('opt','sentinel1_grd')",
  '--config.model.channels=(3,2)',
  '--config.model.image_sizes=(64,8)',
  '--config.model.reduces=((True,True,True),(False,False,False))',
  '--config.train.checkpoint_percent=25.0',
  '--config.train.keep=4',
)


def prepare(work: pathlib.Path, shared: str) -> None:
  """Stores and the table of classes, unless they are there."""
  if not (work / 'scenes' / 'index.json').exists():
    coarse = 'sentinel2_skysense=8,sentinel1_grd=8'
    words = f'data synthesize --out {work / "scenes"} --samples 2400 --size 128'
    words += ' --dates 3 --sensors opt,sentinel2_skysense,sentinel1_grd'
    _run(f'{words} --coarse {coarse} --resume')
  if not (work / 'real').is_dir():
    _run(f'data pack --recipe real --shared {shared} --out {work / "real"}')
  if not (work / 'classes').is_dir():
    table = class_table.fallback(samples.LANDCOVER)
    class_table.save(work / 'classes', table)


def _run(words: str) -> None:
  if code := main.main(words.split()):
    raise SystemExit(code)


def measured(
  work: pathlib.Path, rung: str, seed: int, steps: int
) -> Iterator[dict[str, Any]]:
  """Trains one run and yields a row per dataset and checkpoint."""
  config = configs.load(
    str(HERE.parents[1] / f'configs/ablation/skysense_v2.py:tiny,{rung}'),
    (
      *OVERRIDES,
      f'--config.data.root={work}',
      f'--config.train.total_steps={steps}',
      f'--config.seed={seed}',
    ),
  )
  config.data.tiles.dates = {'sentinel1_grd': 1}
  config.data.tiles.factors = {'opt': 1, 'sentinel1_grd': 8}
  workdir = work / f'{rung}_{seed}'
  pretrain.train(config, workdir)
  saved = sorted(checkpoint.steps(workdir / 'checkpoints'))
  trained = [models.open_model(workdir, step=step) for step in saved]
  start = measure.random_init(trained[0], seed=seed)
  final, whole = (('final',), ('mean',)), (None, ('mean', 'std'))
  for step, opened in zip([0, *saved], [start, *trained], strict=True):
    kinds = (final, whole) if step in (0, steps) else (final,)
    for dataset, folder in DATASETS.items():
      to = measure.target(stores.Store(work / folder), SENSOR, opened)
      for stages, pools in kinds:
        for row in frozen.model_rows(
          opened,
          to,
          name=rung,
          protocols=(KNN,),
          stages=stages,
          pools=pools,
        ):
          yield {
            'run': LADDER[rung],
            'seed': seed,
            'step': step,
            'dataset': dataset,
            'features': 'final' if stages else 'all',
            'protocol': row.protocol,
            'accuracy': row.value,
            'low': row.low,
            'high': row.high,
          }


def baselines(work: pathlib.Path) -> list[dict[str, Any]]:
  """Raw statistics of the same images."""
  out = []
  for dataset, folder in DATASETS.items():
    to = measure.target(stores.Store(work / folder), SENSOR, None)
    for row in frozen.baseline_rows(to, protocols=(KNN,)):
      kept = {'run': row.name, 'dataset': dataset, 'protocol': row.protocol}
      out.append(
        kept | {'accuracy': row.value, 'low': row.low, 'high': row.high}
      )
  return out


def draw(work: pathlib.Path, rows: list[dict[str, Any]]) -> None:
  """Accuracy over steps; features with and without prompts; queries."""
  for dataset in DATASETS:
    shown = [
      row | {'accuracy': 100 * row['accuracy']}
      for run in LADDER.values()
      for row in rows
      if (row['run'], row['dataset']) == (run, dataset)
      and (row['features'], row['protocol']) == ('final', KNN)
    ]
    drawn = progress.figure(shown, metric='20-NN accuracy, %', title=dataset)
    drawn.savefig(HERE / f'knn_{dataset}.png', dpi=110)
  opened = models.open_model(work / 'full_0')
  store = stores.Store(work / 'scenes')
  _draw_prompts(opened, store)
  _draw_queries(work / 'full_0', opened, store)


def _draw_prompts(opened: models.Opened, store: stores.Store) -> None:
  to = measure.target(store, SENSOR, opened)
  found = {}
  for how in ('keep', 'drop'):
    extract = measure.extractor(
      opened.model.spec, SENSOR, ('final',), ('mean',), 'identity', how
    )
    found[f'prompts: {how}'] = features_lib.collect(
      lambda image, of=extract: of.describe(opened.params, image),
      to.batches('test'),
    )
  labels = next(iter(found.values())).labels
  drawn = scatter.figure(
    {name: f.values for name, f in found.items()},
    labels,
    classes=store.classes,
  )
  drawn.savefig(HERE / 'prompts.png', dpi=110)


def _draw_queries(
  workdir: pathlib.Path, opened: models.Opened, store: stores.Store
) -> None:
  heads = models.open_heads(workdir)
  sensors = opened.model.spec.sensors
  to = measure_tiles.target(store, sensors, opened, batch_size=6)
  look = encoders.of_queries(
    opened.model.spec, query_heads=heads.objective['query_heads']
  )
  batch = next(to.batches('test'))
  weights = look(
    encoders.Known(opened.params, models.prototypes_of(opened)),
    heads.params['queries'],
    batch['image'],
  )
  entry, of = batch['image']['sensors'][SENSOR], opened.statistics[SENSOR]
  pixels = np.asarray(entry['image'])[:, 0] * of.std + of.mean
  drawn = query_maps.figure(
    pixels, np.asarray(weights), sensor=opened.sensors[SENSOR]
  )
  drawn.savefig(HERE / 'queries.png', dpi=110)


def run() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--work', default='workdir/E002', type=pathlib.Path)
  parser.add_argument('--shared', default='../shared')
  parser.add_argument('--steps', type=int, default=300)
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--figures', action='store_true', help='draw, no runs')
  args = parser.parse_args()
  log.setup()
  memory.keep_freed_memory()
  done = files.read_json(RESULTS) if RESULTS.exists() else {}
  rows = done.get('rows', [])
  if not args.figures:
    prepare(args.work, args.shared)
    known = {(row['run'], row['seed']) for row in rows}
    for seed in range(args.seeds):
      for rung, name in LADDER.items():
        wanted = seed == 0 or rung in SEEDED
        if wanted and (name, seed) not in known:
          rows += measured(args.work, rung, seed, args.steps)
          done |= {'steps': args.steps, 'rows': rows}
          files.write_json(RESULTS, done)
    if 'baselines' not in done:
      done['baselines'] = baselines(args.work)
      files.write_json(RESULTS, done)
  draw(args.work, rows)


if __name__ == '__main__':
  run()
