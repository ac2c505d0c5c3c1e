"""E003: do experts of a MAPEX-style model part by sensor, and is one enough?

Pre-trains with and without conditioning of the routers and keeps I(sensor;
expert) over training; prunes to one sensor and to two, by use and by controls
of the same size; probes what is left, frozen, and fine-tunes it. What stands in
`results.json` (synthetic scenes) or `results_real.json` is not run again, and a
pre-training or fine-tuning that was interrupted goes on.

  python experiments/E003_mapex_tiny/run.py --work W
  python experiments/E003_mapex_tiny/run.py --work W --data real
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

# Beside this file.
import figures
import frozen
import settings

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import finetune
from rsfm_jax.cli import measure
from rsfm_jax.cli import models
from rsfm_jax.cli import pretrain
from rsfm_jax.cli import pruned
from rsfm_jax.core import files
from rsfm_jax.core import log
from rsfm_jax.core import memory
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.export import folder as folders
from rsfm_jax.train import checkpoint
from rsfm_jax.train import writers

HERE = pathlib.Path(__file__).resolve().parent
FINE_TUNING = (
  '--config.data.batch_size=32',
  f'--config.data.window.size={frozen.SIZE}',
  '--config.data.window.form=area',
  '--config.data.window.area=(0.5,1.0)',
  '--config.data.window.symmetry=d4',
  '--config.optim.learning_rate=3e-3',
  '--config.optim.warmup_percent=5.0',
  '--config.optim.layer_decay=0.9',
  '--config.optim.clip_norm=3.0',
  '--config.train.evaluation_percent=50.0',
)


class Data(NamedTuple):
  """What probes read, and what routing is measured on; read once."""

  scenes: frozen.Scenes
  images: Sequence[settings.Images]


class Run:
  """One pre-training and all that is measured on it."""

  def __init__(
    self,
    args: argparse.Namespace,
    setting: settings.Setting,
    conditioning: str,
    seed: int,
  ):
    self.args, self.setting = args, setting
    self.conditioning, self.seed = conditioning, seed
    self.name = f'{conditioning}/{seed}'
    self.workdir = args.work / f'{setting.name}_{conditioning}_{seed}'

  def train(self) -> models.Opened:
    config = self.setting.pretraining(
      f'--config.model.conditioning={self.conditioning}',
      f'--config.seed={self.seed}',
      f'--config.train.total_steps={self.args.steps}',
    )
    saved = checkpoint.steps(self.workdir / 'checkpoints')
    if self.args.steps not in saved:
      pretrain.train(config, self.workdir)
    return models.open_model(self.workdir)

  def routing(self, opened: models.Opened, data: Data) -> dict[str, Any]:
    """I(sensor; expert) in training, and who uses what before and after."""
    logged = writers.read(self.workdir / 'metrics.jsonl')
    begun = frozen.calibrate(
      measure.random_init(opened, seed=self.seed), data.images
    )
    curve, kept = {0: begun}, {}
    for step in sorted(checkpoint.steps(self.workdir / 'checkpoints')):
      at = models.open_model(self.workdir, step=step)
      curve[step] = frozen.calibrate(at, data.images)
    usage = curve[self.args.steps]
    for name, task in self.setting.tasks.items():
      _, best, _ = next(frozen.plans(opened, usage, task.keep, seed=self.seed))
      kept[name] = [rows[0].tolist() for rows in best.values()]
    return {
      'sensors': list(usage.sensors),
      'loss': [row['loss'] for row in logged if 'loss' in row],
      # As evaluation routes, in nats; by step and layer.
      'information': {
        step: frozen.information(frozen.shares(of))
        for step, of in curve.items()
      },
      'shares_at_init': frozen.shares(begun).tolist(),
      'shares': frozen.shares(usage).tolist(),
      'kept': kept,  # Experts by layer.
    }

  def frozen_rows(
    self, opened: models.Opened, data: Data, protocol: str
  ) -> list[dict[str, Any]]:
    """Probes of the unpruned model, the pruned ones and a random one."""
    out: list[dict[str, Any]] = []
    usage = frozen.calibrate(opened, data.images)
    options = {'protocols': (protocol,), 'seed': self.seed}
    for name, task in self.setting.tasks.items():
      whole = {
        'unpruned': opened,
        'random init': measure.random_init(opened, seed=self.seed),
      }
      for model, one in whole.items():
        rows = frozen.probe(one, data.scenes, task.feed, **options)
        out += [{'task': name, 'model': model} | row for row in rows]
      for rule, keep, small in frozen.plans(
        opened, usage, task.keep, seed=self.seed
      ):
        ready = pruned.as_opened(opened, small, opened.path)
        experts = [len(k[0]) for k in keep.values()]
        about = {'task': name, 'model': rule, 'experts': experts}
        rows = frozen.probe(ready, data.scenes, task.feed, **options)
        out += [about | row for row in rows]
    return out

  def cases(
    self, opened: models.Opened, data: Data
  ) -> dict[tuple[str, str], pathlib.Path]:
    """Where fine-tuning starts from: {(model, task it is pruned to): path}."""
    usage = frozen.calibrate(opened, data.images)
    first = next(iter(self.setting.tasks))
    cases, last = {('unpruned', first): self.workdir}, {}
    for name, task in self.setting.tasks.items():
      for rule, _, small in frozen.plans(
        opened, usage, task.keep, seed=self.seed
      ):
        if name != first and rule != 'most used':
          continue
        out = self.args.work / 'pruned' / self._slug(rule, name)
        if not folders.is_model(out):
          pruned.write_whole(out, opened, small, usage)
        (cases if name == first else last)[rule, name] = out
        if (rule, name) == ('most used', first):
          out = self.args.work / 'pruned' / self._slug('random init', name)
          begun = pruned.as_opened(opened, small, str(out))
          begun = measure.random_init(begun, seed=self.seed)
          if not folders.is_model(out):
            pruned.write_whole(out, opened, small, params=begun.params)
          last['random init, as small', name] = out
    return cases | last

  def _slug(self, *words: str) -> str:
    name = '_'.join((self.workdir.name, *words))
    return name.replace(' + ', '+').replace(', ', '_').replace(' ', '_')

  def tuned_rows(
    self, case: tuple[str, str], path: pathlib.Path
  ) -> list[dict[str, Any]]:
    """Fine-tuned on one sensor; `rsfm finetune` knows one of these models."""
    (sensor,) = next(iter(self.setting.tasks.values())).feed
    config = configs.load(
      str(settings.CONFIGS / 'finetune_base.py'),
      (
        *FINE_TUNING,
        f'--config.data.root={self.setting.root}',
        f'--config.data.store={self.setting.labelled}',
        f'--config.data.sensor={sensor}',
        f'--config.model.checkpoint={path}',
        f'--config.train.total_steps={self.setting.tuning}',
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
  add('--data', choices=('scenes', 'real'), default='scenes')
  add('--shared', default='../shared', help='samples of --data real')
  add('--steps', type=int, default=600, help='of pre-training')
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
  if args.data == 'scenes':
    setting, file = settings.Synthetic(args.work / 'stores'), 'results.json'
  else:
    setting = settings.Real(args.work / 'real', args.shared)
    file = 'results_real.json'
  setting.make()
  results = Results(HERE / file)
  runs = [
    Run(args, setting, conditioning, seed)
    for seed in range(args.seeds)
    for conditioning in args.conditionings
  ]
  every = {one: one.train() for one in runs}
  opened = next(iter(every.values()))
  scenes = setting.scenes(opened)
  data = Data(scenes, list(setting.calibration(opened, scenes)))
  for one, opened in every.items():
    results.keep('routing', one.name, one.routing, opened, data)
  probe(every, data, results)
  tune([one for one in runs if one.conditioning in args.tuned], data, results)
  prefix = '' if args.data == 'scenes' else 'real_'
  figures.draw(results.found, HERE, prefix)


def probe(
  runs: Mapping[Run, models.Opened], data: Data, results: Results
) -> None:
  """Protocol by protocol, each on all runs, and on pixels."""
  first = next(iter(runs))
  for protocol in first.args.protocols:
    for one, opened in runs.items():
      results.keep(
        'frozen',
        f'{one.name}/{protocol}',
        one.frozen_rows,
        opened,
        data,
        protocol,
      )
    results.keep(
      'raw', f'pixels/0/{protocol}', raw_rows, first.setting, data, protocol
    )


def raw_rows(
  setting: settings.Setting, data: Data, protocol: str
) -> list[dict[str, Any]]:
  return [
    {'task': name} | row
    for name, task in setting.tasks.items()
    for row in frozen.raw(data.scenes, task.feed, protocols=(protocol,))
  ]


def tune(runs: Sequence[Run], data: Data, results: Results) -> None:
  """Case by case, each with all seeds."""
  cases = [one.cases(models.open_model(one.workdir), data) for one in runs]
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
