"""E006: land cover of Dubai and of the Chesapeake, from a pre-trained RingMoE.

Does a tiny RingMoE that was pre-trained on real scenes segment land cover
better than the same network from random weights, and than a logistic regression
on the bands of each pixel? Takes the pre-training of E005, fine-tunes what
`results.json` lacks, and draws the figures. Run it again after an interruption:
it continues.

  python experiments/E006_landcover/run.py --shared ../shared

Of every image of Dubai the 480 pixels in its middle are used: 12, 3 and 2.
"""

import argparse
import pathlib
from typing import Any

import jax
import numpy as np

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import finetune
from rsfm_jax.cli import main
from rsfm_jax.core import files
from rsfm_jax.core import log
from rsfm_jax.core import memory
from rsfm_jax.data import store as stores
from rsfm_jax.evaluate import logistic
from rsfm_jax.evaluate import outcomes
from rsfm_jax.plots import display
from rsfm_jax.plots import theme

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / 'results.json'
ARMS = ('pre-trained', 'random init')
METRICS = ('miou', 'accuracy', 'macro_f1', 'kappa')
# {data set: (folder of the samples, options, array of the masks)}.
DATASETS = {
  'dubai': ('dubai_landcover_seg', '--chip 480 --cut centre', 'mask'),
  'chesapeake': ('chesapeake_naip_landsat_lc', '', 'landcover'),
}
_PIXELS = 100_000  # For the logistic regression.


def prepare(work: pathlib.Path, shared: str) -> None:
  """The stores, unless they are there."""
  for name, (folder, options, _) in DATASETS.items():
    if not (work / name / 'index.json').exists():
      words = f'data pack --dataset {name} --out {work / name} {options}'
      words += f' --from {pathlib.Path(shared) / "data" / folder}'
      if code := main.main(words.split()):
        raise SystemExit(code)


def tuned(
  work: pathlib.Path,
  dataset: str,
  arm: str,
  seed: int,
  checkpoint: str,
  steps: int,
) -> dict[str, Any]:
  """Fine-tunes one arm on one data set; its row."""
  config = configs.load(
    str(ROOT / 'configs/finetune/landcover_tiny.py'),
    (f'--config.data.root={work}', f'--config.seed={seed}'),
  )
  config.name = arm
  config.data.store, config.data.target = dataset, DATASETS[dataset][2]
  config.task.outputs = len(stores.Store(work / dataset).classes)
  if arm == 'pre-trained':
    config.model.checkpoint = checkpoint
  else:
    config.data.normalisation = 'dataset'
  config.train.total_steps = steps
  config.train.evaluation_percent = 25.0
  config.train.checkpoint_percent = 25.0
  name = f'{dataset}_{arm.replace(" ", "_")}_{seed}'
  rows = finetune.train(config, work / name)
  found = {row.metric: row for row in rows}
  return {
    'dataset': dataset,
    'run': arm,
    'seed': seed,
    'step': found['miou'].chosen['step'],
    'seconds': found['miou'].seconds,
  } | {metric: found[metric].value for metric in METRICS}


def baselines(work: pathlib.Path, dataset: str) -> list[dict[str, Any]]:
  """Logistic regression on the bands of a pixel; the most frequent class."""
  store, target = stores.Store(work / dataset), DATASETS[dataset][2]
  pixels, codes = _pixels(store, 'train', target)
  rng = np.random.default_rng(0)
  some = rng.permutation(len(codes))[:_PIXELS]
  # The free bias of a class that nobody saw would have no bound.
  seen, labels = np.unique(codes[some], return_inverse=True)
  model = logistic.fit(pixels[some], labels, classes=len(seen), C=(1.0,))
  most = np.bincount(codes).argmax()
  test, truth = _pixels(store, 'test', target)
  out = []
  for name, found in (
    ('logistic regression', seen[logistic.logits(model, test)[0].argmax(-1)]),
    ('most frequent class', np.full(len(truth), most)),
  ):
    measured = outcomes.Maps.of(
      found[None, None].astype(np.uint8),
      truth[None, None],
      classes=len(store.classes),
    ).measure()
    out.append(
      {'dataset': dataset, 'run': name} | {m: measured[m] for m in METRICS}
    )
  return out


def _pixels(
  store: stores.Store, split: str, target: str
) -> tuple[np.ndarray, np.ndarray]:
  """Bands f32[N, C] and codes u8[N] of the labelled pixels."""
  pixels, codes = [], []
  for i in store.indices(split):
    arrays = store.read(int(i))
    known = arrays[target] != outcomes.UNLABELLED
    pixels.append(arrays['opt/image'][known] / np.float32(255))
    codes.append(arrays[target][known])
  return np.concatenate(pixels), np.concatenate(codes)


def draw(work: pathlib.Path, done: dict[str, Any]) -> None:
  """mIoU of every arm and baseline; a test image with its mask."""
  figure, grid = theme.panels(len(DATASETS), width=9.0, height=3.2)
  colours = theme.colours(list(ARMS))
  for axes, dataset in zip(grid[0], DATASETS, strict=True):
    for at, arm in enumerate(ARMS):
      values = [
        row['miou']
        for row in done['rows']
        if (row['dataset'], row['run']) == (dataset, arm)
      ]
      axes.scatter([at] * len(values), values, color=colours[arm], zorder=3)
      axes.hlines(np.mean(values), at - 0.2, at + 0.2, color=colours[arm])
    for row in done['baselines']:
      if row['dataset'] == dataset:
        axes.axhline(row['miou'], color=theme.MUTED, linestyle=':')
        axes.text(len(ARMS) - 0.6, row['miou'], row['run'], fontsize=8)
    axes.set_xticks(range(len(ARMS)), ARMS)
    axes.set_xlim(-0.5, len(ARMS) + 0.6)
    axes.set_title(dataset)
  grid[0, 0].set_ylabel('mIoU, test images')
  figure.savefig(HERE / 'miou.png', dpi=110)
  _draw_images(work)


def _draw_images(work: pathlib.Path) -> None:
  figure, grid = theme.panels(2 * len(DATASETS), width=11.0, height=3.0)
  for at, (dataset, (_, _, target)) in enumerate(DATASETS.items()):
    store = stores.Store(work / dataset)
    arrays = store.read(int(store.indices('test')[0]))
    image = display.channels(arrays['opt/image'], store.sensors['opt'])
    shown = display.rgba(image, display.limits(image))
    codes = np.ma.masked_equal(arrays[target], outcomes.UNLABELLED)
    for axes, picture in zip(grid[0, 2 * at :], (shown, codes), strict=False):
      axes.imshow(picture, cmap=theme.HEAT, interpolation='nearest')
      axes.set_axis_off()
    grid[0, 2 * at].set_title(f'{dataset}, test')
  figure.savefig(HERE / 'images.png', dpi=110)


def run() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--work', default='workdir/E006', type=pathlib.Path)
  parser.add_argument('--shared', default='../shared')
  parser.add_argument('--steps', type=int, default=150)
  parser.add_argument('--checkpoint', default='workdir/E005/pretrained')
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--out', default=RESULTS, type=pathlib.Path)
  parser.add_argument('--figures', action='store_true', help='draw, no runs')
  args = parser.parse_args()
  log.setup()
  memory.keep_freed_memory()
  if not args.figures and not pathlib.Path(args.checkpoint).is_dir():
    raise SystemExit(
      f'--checkpoint {args.checkpoint} is no run; E005 makes it, or give '
      'another of configs/pretrain.'
    )
  # Seeds of an arm are one program.
  jax.config.update('jax_compilation_cache_dir', str(args.work / 'xla'))
  done = files.read_json(args.out) if args.out.exists() else {'rows': []}
  if not args.figures:
    prepare(args.work, args.shared)
    known = {(r['dataset'], r['run'], r['seed']) for r in done['rows']}
    for seed in range(args.seeds):
      for dataset in DATASETS:
        for arm in ARMS:
          if (dataset, arm, seed) not in known:
            done['rows'].append(
              tuned(args.work, dataset, arm, seed, args.checkpoint, args.steps)
            )
            done['steps'] = args.steps
            files.write_json(args.out, done)
    done['baselines'] = [
      row for dataset in DATASETS for row in baselines(args.work, dataset)
    ]
    files.write_json(args.out, done)
  draw(args.work, done)


if __name__ == '__main__':
  run()
