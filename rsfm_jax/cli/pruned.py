"""Models that are cut down: calibrated, planned, written as folders."""

from collections.abc import Iterator
import functools
import pathlib
from typing import Any

import jax
import numpy as np

from rsfm_jax.cli import measure
from rsfm_jax.cli import models
from rsfm_jax.core import choices
from rsfm_jax.core import files
from rsfm_jax.core import trees
from rsfm_jax.data import store as stores
from rsfm_jax.export import folder as folders
from rsfm_jax.export import weights
from rsfm_jax.models import build
from rsfm_jax.pruning import keep as keep_lib
from rsfm_jax.pruning import layout
from rsfm_jax.pruning import merge
from rsfm_jax.pruning import surgery
from rsfm_jax.pruning import usage as usage_lib
from rsfm_jax.train import checkpoint


def trained(
  opened: models.Opened, sensors: tuple[str, ...] | None
) -> tuple[str, ...]:
  """The sensors that stay, as asked for.

  Raises:
    ValueError: one that the model does not have, or was never trained on.
  """
  for sensor in sensors or ():
    choices.check(sensor, opened.model.spec.sensors, key='--sensors')
    if sensor not in opened.sensors:
      raise ValueError(
        f'--sensors {sensor}: the model has a place for it, but was never '
        f'pre-trained on it; its contract knows {sorted(opened.sensors)}.'
      )
  return tuple(sensors or opened.model.spec.sensors)


def plan(
  opened: models.Opened,
  *,
  sensors: tuple[str, ...] | None = None,
  keep: str | keep_lib.Keep = 'all',
  usage: usage_lib.Usage | None = None,
  branches: tuple[str, ...] | None = None,
  by: keep_lib.Criterion = 'share',
  fold: surgery.Fold = 'mean_gate',
  dense: merge.How | None = None,
  seed: int = 0,
) -> surgery.Pruned:
  """The plan of a smaller model; `keep` is a rule, a file, or a keep set."""
  spec = opened.model.spec
  sensors = tuple(s for s in spec.sensors if sensors is None or s in sensors)
  rule = keep if isinstance(keep, str) else 'explicit'
  if isinstance(keep, str) and keep.endswith('.json'):
    keep = keep_lib.explicit(files.read_json(keep), spec, sensors)
  elif isinstance(keep, str):
    if usage is not None:
      usage.check(spec)
    keep = keep_lib.choose(
      keep, spec, sensors, usage=usage, branches=branches, by=by, seed=seed
    )
  small = surgery.plan(
    spec,
    trees.flatten(opened.params),
    sensors=sensors,
    kept=keep,
    usage=usage,
    fold=fold,
    dense=dense,
  )
  about = {'rule': rule, 'by': by, 'seed': seed}
  return small._replace(record=small.record | about)


def calibrate(
  opened: models.Opened,
  store: stores.Store,
  *,
  sensors: tuple[str, ...] | None = None,
  split: str = 'train',
  images: int = 512,
) -> usage_lib.Usage:
  """Usage by every sensor that the store holds.

  Raises:
    ValueError: it holds none of them, or no image of the split.
  """
  spec = opened.model.spec
  wanted = [s for s in sensors or spec.sensors if s in opened.sensors]
  present = [s for s in wanted if s in store.sensors]
  if not present:
    raise ValueError(
      f'--calibration {store.folder} holds none of the sensors {wanted}; it '
      f'has {sorted(store.sensors)}.'
    )
  return usage_lib.measure(
    spec,
    opened.model.apply,
    opened.params,
    _calibration(opened, store, split, present, images),
  )


def _calibration(
  opened: models.Opened, store, split, sensors, limit
) -> Iterator[dict[str, np.ndarray]]:
  """Images of every sensor, one sensor at a time."""
  for sensor in sensors:
    to = measure.target(
      store, sensor, opened, missing_bands='mask', batch_size=64
    )
    seen = 0
    for batch in measure.unlabelled(to, split):
      yield {sensor: batch[: max(limit - seen, 0)]}
      seen += len(batch)
      if seen >= limit:
        break


def write_whole(
  out,
  opened: models.Opened,
  small: surgery.Pruned,
  usage: usage_lib.Usage | None = None,
) -> str:
  """The pruned model as a complete folder; returns its content hash."""
  return folders.save(
    pathlib.Path(out),
    small.params(opened.params),
    **_companions(opened, small, usage),
  )


def write_parts(
  out,
  opened: models.Opened,
  small: surgery.Pruned,
  usage: usage_lib.Usage | None = None,
) -> str:
  """The same from arrays on disk, without holding any of them whole."""
  source = trees.flatten(opened.params)
  entries = {
    name: weights.Entry(
      leaf.shape, leaf.dtype, functools.partial(leaf.blocks, source)
    )
    for name, leaf in small.leaves.items()
  }
  return folders.save_parts(
    pathlib.Path(out), entries, **_companions(opened, small, usage)
  )


def _companions(
  opened: models.Opened,
  small: surgery.Pruned,
  usage: usage_lib.Usage | None,
) -> dict[str, Any]:
  kept = small.spec.sensors
  held = {
    part: {s: v for s, v in opened.contract[part].items() if s in kept}
    for part in ('sensors', 'statistics')
  }
  steps = [] if usage is None else [{'operation': 'calibrate'}]
  if usage is not None:
    steps[0]['usage'] = usage.to_json()
  record = {
    'parent': opened.path,
    'parent_hash': opened.content_hash,
    'parent_step': opened.step,
    'steps': [*steps, small.record],
  }
  return dict(spec=small.spec.to_json(), contract=held, record=record)


def as_opened(
  opened: models.Opened, small: surgery.Pruned, path: str
) -> models.Opened:
  """A pruned model in memory, ready to run."""
  params = small.params(opened.params)
  return opened._replace(
    model=build.build(small.spec),
    params=jax.tree.map(jax.numpy.asarray, params),
    content_hash=checkpoint.content_hash(params),
    path=path,
  )


def describe(spec: Any) -> str:
  """How many experts the layers have, by branch."""
  counts: dict[str, list[int]] = {}
  for layer in layout.layers(spec):
    counts.setdefault(layer.branch, []).append(layer.experts)
  if not counts:
    return 'no routers left'
  words = lambda n: f'{min(n)}' if len(set(n)) == 1 else f'{min(n)} to {max(n)}'
  return ', '.join(f'{words(n)} {branch}' for branch, n in counts.items())
