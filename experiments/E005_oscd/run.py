"""E005: change of cities in pairs of Sentinel-2, from a pre-trained RingMoE.

Does a tiny RingMoE that was pre-trained on real scenes find the changes of OSCD
better than the same network from random weights, and than a threshold on the
difference of the two dates? Five cities to learn from, one to choose by, one to
measure on. Pre-trains what is not there, on training splits only, fine-tunes
what `results.json` lacks, and draws the figures. Run it again after an
interruption: it continues.

  python experiments/E005_oscd/run.py --shared ../shared
"""

import argparse
import pathlib
from typing import Any

import jax
import numpy as np

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import finetune
from rsfm_jax.cli import main
from rsfm_jax.cli import pretrain
from rsfm_jax.core import files
from rsfm_jax.core import log
from rsfm_jax.core import memory
from rsfm_jax.data import store as stores
from rsfm_jax.evaluate import outcomes
from rsfm_jax.plots import display
from rsfm_jax.plots import theme

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / 'results.json'
ARMS = ('pre-trained', 'random init')
METRICS = ('f1', 'iou', 'precision', 'recall', 'accuracy')
# Of the threshold, chosen on the training cities.
QUANTILES = np.linspace(0.5, 0.999, 200)


def prepare(work: pathlib.Path, shared: str) -> None:
  """Stores for pre-training and of the pairs, unless they are there."""
  if not (work / 'oscd/index.json').exists():
    copy = pathlib.Path(shared) / 'data/oscd_s2_change'
    _run(f'data pack --dataset oscd_crops --from {copy} --out {work / "oscd"}')


def _run(words: str) -> None:
  if code := main.main(words.split()):
    raise SystemExit(code)


def pretrained(work: pathlib.Path, shared: str, steps: int) -> pathlib.Path:
  """The workdir of the pre-training; neither test city nor test patch in it."""
  workdir = work / 'pretrained'
  _run(f'data pack --recipe real --shared {shared} --out {work / "real"}')
  config = configs.load(
    str(ROOT / 'configs/pretrain/ringmoe_tiny_real.py'),
    (
      f'--config.data.root={work / "real"}',
      f'--config.train.total_steps={steps}',
    ),
  )
  streams = config.data.streams
  streams.opt.sources = (
    ('opt_eurosat', 'train', 0.85),
    ('opt_ucmerced', 'train', 0.15),
  )
  streams.ms.sources = tuple(
    (name, 'train', share) for name, _, share in streams.ms.sources
  )
  pretrain.train(config, workdir)
  return workdir


def tuned(
  work: pathlib.Path, arm: str, seed: int, checkpoint: str, steps: int
) -> dict[str, Any]:
  """Fine-tunes one arm; its row."""
  config = configs.load(
    str(ROOT / 'configs/finetune/change_tiny.py'),
    (f'--config.data.root={work}', f'--config.seed={seed}'),
  )
  config.name = arm
  config.data.store, config.data.sensor = 'oscd', 'ms'
  if arm == 'pre-trained':
    config.model.checkpoint = checkpoint
  else:
    config.data.normalisation = 'dataset'
  # 2 to 14 % of a city have changed.
  config.task.update(loss='cross_entropy', outputs=2, class_weights=(1.0, 4.0))
  config.train.total_steps = steps
  rows = finetune.train(config, work / f'{arm.replace(" ", "_")}_{seed}')
  found = {row.metric: row for row in rows}
  return {
    'run': arm,
    'seed': seed,
    'step': found['f1'].chosen['step'],
    'seconds': found['f1'].seconds,
  } | {metric: found[metric].value for metric in METRICS}


def baselines(store: stores.Store) -> list[dict[str, Any]]:
  """A threshold on the difference in training deviations; all changed."""
  std = np.asarray(store.accumulator_of('ms', 'train').result().std)
  train, test = (
    [_difference(store, i, std) for i in store.indices(split)]
    for split in ('train', 'test')
  )
  values = np.concatenate([d.ravel() for d, _ in train])
  cuts = np.quantile(values, QUANTILES)
  best = max(cuts, key=lambda cut: _scores(train, cut)['f1'])
  return [
    {'run': 'threshold', 'cut': float(best)} | _scores(test, best),
    {'run': 'all changed'} | _scores(test, -1.0),
  ]


def _difference(
  store: stores.Store, i: int, std: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Mean absolute difference of the bands [H, W], and the change mask."""
  arrays = store.read(int(i))
  apart = np.abs(arrays['ms/after'] - arrays['ms/image']) / std
  return apart.mean(-1), arrays['change']


def _scores(pairs, cut: float) -> dict[str, float]:
  found = outcomes.Maps(
    np.concatenate(
      [
        outcomes.Maps.of(
          (apart > cut).astype(np.uint8)[None], mask[None], classes=2
        ).tables
        for apart, mask in pairs
      ]
    )
  ).measure()
  return {metric: found[metric] for metric in METRICS}


def draw(work: pathlib.Path, done: dict[str, Any]) -> None:
  """F1 of every arm and baseline, and what the test city looks like.

  Labels are not drawn: their licence (CC BY-NC-SA) is not that of this project.
  """
  figure, grid = theme.panels(1, width=6.5, height=3.2)
  axes, colours = grid[0, 0], theme.colours(list(ARMS))
  for at, arm in enumerate(ARMS):
    values = [row['f1'] for row in done['rows'] if row['run'] == arm]
    axes.scatter([at] * len(values), values, color=colours[arm], zorder=3)
    axes.hlines(np.mean(values), at - 0.2, at + 0.2, color=colours[arm])
  for row in done['baselines']:
    axes.axhline(row['f1'], color=theme.MUTED, linestyle=':')
    axes.text(len(ARMS) - 0.6, row['f1'], row['run'], fontsize=8)
  axes.set_xticks(range(len(ARMS)), ARMS)
  axes.set_xlim(-0.5, len(ARMS))
  axes.set_ylabel('F1 of change, test city')
  figure.savefig(HERE / 'f1.png', dpi=110)
  _draw_city(stores.Store(work / 'oscd'))


def _draw_city(store: stores.Store) -> None:
  (i,) = store.indices('test')
  arrays, sensor = store.read(int(i)), store.sensors['ms']
  std = np.asarray(store.accumulator_of('ms', 'train').result().std)
  before = display.channels(arrays['ms/image'], sensor)
  after = display.channels(arrays['ms/after'], sensor)
  to = display.limits(before)
  shown = {
    'first date': display.rgba(before, to),
    'second date': display.rgba(after, to),
    'difference': _difference(store, i, std)[0],
  }
  figure, grid = theme.panels(len(shown), width=11.0, height=3.0)
  for axes, (title, image) in zip(grid.ravel(), shown.items(), strict=True):
    axes.imshow(image, cmap=theme.HEAT)
    axes.set_title(f'{store.column("id")[i]}: {title}')
    axes.set_axis_off()
  figure.savefig(HERE / 'city.png', dpi=110)


def run() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--work', default='workdir/E005', type=pathlib.Path)
  parser.add_argument('--shared', default='../shared')
  parser.add_argument('--steps', type=int, default=200)
  parser.add_argument('--pretrain_steps', type=int, default=300)
  parser.add_argument(
    '--checkpoint', default='', help='instead of pre-training'
  )
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--out', default=RESULTS, type=pathlib.Path)
  parser.add_argument('--figures', action='store_true', help='draw, no runs')
  args = parser.parse_args()
  log.setup()
  memory.keep_freed_memory()
  # Seeds of an arm are one program.
  jax.config.update('jax_compilation_cache_dir', str(args.work / 'xla'))
  done = files.read_json(args.out) if args.out.exists() else {'rows': []}
  if not args.figures:
    prepare(args.work, args.shared)
    checkpoint = args.checkpoint or str(
      pretrained(args.work, args.shared, args.pretrain_steps)
    )
    known = {(row['run'], row['seed']) for row in done['rows']}
    for seed in range(args.seeds):
      for arm in ARMS:
        if (arm, seed) not in known:
          done['rows'].append(
            tuned(args.work, arm, seed, checkpoint, args.steps)
          )
          done |= {'steps': args.steps, 'pretrain_steps': args.pretrain_steps}
          files.write_json(args.out, done)
    done['baselines'] = baselines(stores.Store(args.work / 'oscd'))
    files.write_json(args.out, done)
  draw(args.work, done)


if __name__ == '__main__':
  run()
