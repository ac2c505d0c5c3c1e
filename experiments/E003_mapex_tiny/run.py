"""E003: do experts of a MAPEX-style model part by sensor, and is one enough?

Pre-trains with and without conditioning of the routers and keeps I(sensor;
expert) over training; prunes to one sensor and to two, by use and by controls
of the same size; probes what is left, frozen, and fine-tunes it. What stands in
`results.json` is not run again, and a pre-training or fine-tuning that was
interrupted goes on.

  python experiments/E003_mapex_tiny/run.py --work W
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import pathlib
from typing import Any

# Beside this file.
import figures
import frozen
import numpy as np

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import finetune
from rsfm_jax.cli import main
from rsfm_jax.cli import measure
from rsfm_jax.cli import models
from rsfm_jax.cli import pretrain
from rsfm_jax.cli import pruned
from rsfm_jax.core import files
from rsfm_jax.core import log
from rsfm_jax.core import memory
from rsfm_jax.data import store as stores
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.export import folder as folders
from rsfm_jax.train import checkpoint
from rsfm_jax.train import writers

HERE = pathlib.Path(__file__).resolve().parent
CONFIGS = HERE.parents[1] / 'configs'
RESULTS = HERE / 'results.json'
INFORMATION = 'routing/mutual_information'
SCENES = (
  'data synthesize --samples 2400 --size 64 --workers 2 '
  '--sensors sentinel2_skysense,sentinel1_grd --out'
)
# Of a model for minutes on two cores: patches of 8 px, not 4.
PRETRAINING = (
  '--config.model.patch_size=8',
  '--config.optim.learning_rate=2e-3',
  '--config.data.crop.area=(0.2,1.0)',
  '--config.train.checkpoint_percent=25.0',
  '--config.train.keep=4',
)
FINE_TUNING = (
  '--config.data.store=scenes',
  '--config.data.batch_size=32',
  f'--config.data.window.size={frozen.SIZE}',
  '--config.data.window.form=area',
  '--config.data.window.area=(0.25,1.0)',
  '--config.data.window.symmetry=d4',
  '--config.optim.learning_rate=1e-3',
  '--config.optim.warmup_percent=5.0',
  '--config.optim.layer_decay=0.8',
  '--config.optim.clip_norm=3.0',
  '--config.train.evaluation_percent=50.0',
)
TASKS = {'s2_rgb': ('s2_rgb',), 's2_rgb + s1_vv': ('s2_rgb', 's1_vv')}
TUNED = 's2_rgb'  # `rsfm finetune` takes one sensor.


class Run:
  """One pre-training and all that is measured on it."""

  def __init__(self, args: argparse.Namespace, conditioning: str, seed: int):
    self.args, self.conditioning, self.seed = args, conditioning, seed
    self.name = f'{conditioning}/{seed}'
    self.workdir = args.work / f'scenes_{conditioning}_{seed}'

  def train(self) -> models.Opened:
    config = configs.load(
      str(CONFIGS / 'pretrain/mapex_tiny.py'),
      (
        *PRETRAINING,
        f'--config.data.root={self.args.work / "stores"}',
        f'--config.model.conditioning={self.conditioning}',
        f'--config.seed={self.seed}',
        f'--config.train.total_steps={self.args.steps}',
      ),
    )
    saved = checkpoint.steps(self.workdir / 'checkpoints')
    if self.args.steps not in saved:
      pretrain.train(config, self.workdir)
    return models.open_model(self.workdir)

  def routing(
    self, opened: models.Opened, scenes: frozen.Scenes
  ) -> dict[str, Any]:
    """I(sensor; expert) in training, and who uses what before and after."""
    history = writers.read(self.workdir / 'metrics.jsonl')
    told = [row for row in history if INFORMATION in row]
    begun = frozen.calibrate(
      measure.random_init(opened, seed=self.seed), scenes
    )
    curve, kept = {0: begun}, {}
    for step in sorted(checkpoint.steps(self.workdir / 'checkpoints')):
      at = models.open_model(self.workdir, step=step)
      curve[step] = frozen.calibrate(at, scenes)
    usage = curve[self.args.steps]
    for task, sensors in TASKS.items():
      _, best, _ = next(frozen.plans(opened, usage, sensors, seed=self.seed))
      kept[task] = [rows[0].tolist() for rows in best.values()]
    return {
      'sensors': list(usage.sensors),
      # As training logs it: with the gates' noise, of one batch each. Nats.
      'logged_steps': [row['step'] for row in told],
      'logged_information': [float(np.mean(row[INFORMATION])) for row in told],
      'loss': [row['loss'] for row in told],
      # As evaluation routes; by step and layer.
      'information': {
        step: frozen.information(frozen.shares(of))
        for step, of in curve.items()
      },
      'shares_at_init': frozen.shares(begun).tolist(),
      'shares': frozen.shares(usage).tolist(),
      'kept': kept,  # Experts by layer.
    }

  def frozen_rows(
    self, opened: models.Opened, scenes: frozen.Scenes, protocol: str
  ) -> list[dict[str, Any]]:
    """Probes of the unpruned model, the pruned ones and a random one."""
    out: list[dict[str, Any]] = []
    usage = frozen.calibrate(opened, scenes)
    options = {'protocols': (protocol,), 'seed': self.seed}
    for task, sensors in TASKS.items():
      whole = {
        'unpruned': opened,
        'random init': measure.random_init(opened, seed=self.seed),
      }
      for model, one in whole.items():
        rows = frozen.probe(one, scenes, sensors, **options)
        out += [{'task': task, 'model': model} | row for row in rows]
      for rule, keep, small in frozen.plans(
        opened, usage, sensors, seed=self.seed
      ):
        ready = pruned.as_opened(opened, small, opened.path)
        experts = [len(k[0]) for k in keep.values()]
        about = {'task': task, 'model': rule, 'experts': experts}
        rows = frozen.probe(ready, scenes, sensors, **options)
        out += [about | row for row in rows]
    return out

  def cases(
    self, opened: models.Opened, scenes: frozen.Scenes
  ) -> dict[tuple[str, str], pathlib.Path]:
    """Where fine-tuning starts from: {(model, task it is pruned to): path}."""
    usage = frozen.calibrate(opened, scenes)
    cases, last = {('unpruned', TUNED): self.workdir}, {}
    for task, sensors in TASKS.items():
      for rule, _, small in frozen.plans(
        opened, usage, sensors, seed=self.seed
      ):
        if task != TUNED and rule != 'most used':
          continue
        out = self.args.work / 'pruned' / self._slug(rule, task)
        if not folders.is_model(out):
          pruned.write_whole(out, opened, small, usage)
        (cases if task == TUNED else last)[rule, task] = out
        if (rule, task) == ('most used', TUNED):
          out = self.args.work / 'pruned' / self._slug('random init', task)
          begun = pruned.as_opened(opened, small, str(out))
          begun = measure.random_init(begun, seed=self.seed)
          if not folders.is_model(out):
            pruned.write_whole(out, opened, small, params=begun.params)
          last['random init, as small', task] = out
    return cases | last

  def _slug(self, *words: str) -> str:
    name = '_'.join((self.workdir.name, *words))
    return name.replace(' + ', '+').replace(', ', '_').replace(' ', '_')

  def tuned_rows(
    self, case: tuple[str, str], path: pathlib.Path
  ) -> list[dict[str, Any]]:
    """Fine-tuned on one sensor."""
    config = configs.load(
      str(CONFIGS / 'finetune_base.py'),
      (
        *FINE_TUNING,
        f'--config.data.root={self.args.work / "stores"}',
        f'--config.data.sensor={TUNED}',
        f'--config.model.checkpoint={path}',
        f'--config.train.total_steps={self.args.tuning_steps}',
        f'--config.seed={self.seed}',
      ),
    )
    workdir = self.args.work / 'tuned' / self._slug(*case)
    if not (workdir / 'rows.jsonl').exists():
      finetune.train(config, workdir)
    rows = rows_lib.read(workdir / 'rows.jsonl')
    model, task = case
    return [
      {'task': task, 'model': model} | frozen.kept(row)
      for row in rows
      if row.metric == 'accuracy'
    ]


def arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  comma = lambda text: tuple(text.split(','))
  add('--work', type=pathlib.Path, default='workdir/E003')
  add('--steps', type=int, default=600, help='of pre-training')
  add('--tuning_steps', type=int, default=106, help='two epochs')
  add('--seeds', type=int, default=3)
  add('--conditionings', type=comma, default=('bias', 'none'))
  add('--protocols', type=comma, default=('dinov2_knn20', 'linear'))
  add('--tuned', type=comma, default=('bias',), help='conditionings')
  return parser.parse_args()


class Results:
  """What is measured once; written as it comes."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    self.found = files.read_json(path) if path.exists() else {}

  def keep(
    self, stage: str, key: str, measure: Callable[..., Any], *args: Any
  ) -> None:
    part = self.found.setdefault(stage, {})
    if key not in part:
      part[key] = measure(*args)
      files.write_json(self.path, self.found)


def run() -> None:
  args = arguments()
  log.setup()
  memory.keep_freed_memory()
  scenes_at = args.work / 'stores' / 'scenes'
  if not (scenes_at / 'index.json').exists():
    main.main([*SCENES.split(), str(scenes_at)])
  results, scenes = Results(RESULTS), None
  runs = [
    Run(args, conditioning, seed)
    for seed in range(args.seeds)
    for conditioning in args.conditionings
  ]
  every = {one: one.train() for one in runs}
  for one, opened in every.items():
    if scenes is None:
      store = stores.Store(scenes_at)
      scenes = frozen.read(store, opened, opened.model.spec.sensors)
    results.keep('routing', one.name, one.routing, opened, scenes)
  probe(every, scenes, results)
  tune([one for one in runs if one.conditioning in args.tuned], scenes, results)
  figures.draw(results.found, HERE)


def probe(
  runs: Mapping[Run, models.Opened], scenes: frozen.Scenes, results: Results
) -> None:
  """Protocol by protocol, each on all runs, and on pixels."""
  for protocol in next(iter(runs)).args.protocols:
    for one, opened in runs.items():
      results.keep(
        'frozen',
        f'{one.name}/{protocol}',
        one.frozen_rows,
        opened,
        scenes,
        protocol,
      )
    results.keep('raw', f'pixels/0/{protocol}', raw_rows, scenes, protocol)


def raw_rows(scenes: frozen.Scenes, protocol: str) -> list[dict[str, Any]]:
  return [
    {'task': task} | row
    for task, sensors in TASKS.items()
    for row in frozen.raw(scenes, sensors, protocols=(protocol,))
  ]


def tune(runs: Sequence[Run], scenes: frozen.Scenes, results: Results) -> None:
  """Case by case, each with all seeds."""
  cases = [one.cases(models.open_model(one.workdir), scenes) for one in runs]
  for case in cases[0] if cases else ():
    for one, paths in zip(runs, cases, strict=True):
      results.keep(
        'tuned',
        '/'.join((one.name, *case)),
        one.tuned_rows,
        case,
        paths[case],
      )


if __name__ == '__main__':
  run()
