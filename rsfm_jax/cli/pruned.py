"""Models that are cut down: calibrated, planned, written as folders."""

from collections.abc import Iterator, Mapping, Sequence
import functools
import pathlib
from typing import Any, Literal

import jax
import numpy as np

from rsfm_jax.cli import measure
from rsfm_jax.cli import models
from rsfm_jax.core import choices
from rsfm_jax.core import files
from rsfm_jax.core import trees
from rsfm_jax.data import adapt
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

_BATCH = 64


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
  fed: Literal['alone', 'together'] = 'alone',
) -> usage_lib.Usage:
  """Usage by every sensor that the store holds.

  Fed alone, or all sensors of a sample together: another thing only where
  sensors see each other (MAPEX-style).

  Raises:
    ValueError: it holds none of them, or no image of the split.
  """
  found = calibration(
    opened, store, sensors=sensors, split=split, images=images
  )
  return usage_lib.measure(
    opened.model.spec,
    opened.model.apply,
    opened.params,
    _batches(found, fed),
  )


def calibration(
  opened: models.Opened,
  store: stores.Store,
  *,
  sensors: tuple[str, ...] | None = None,
  split: str = 'train',
  images: int = 512,
) -> dict[str, np.ndarray]:
  """The first images of every sensor that the store holds: [N, H, W, C].

  Raises:
    ValueError: it holds none of them, or no image of the split.
  """
  wanted = [s for s in sensors or opened.model.spec.sensors]
  present = fed(store, opened, wanted)
  if not present:
    raise ValueError(
      f'--calibration {store.folder} holds none of the sensors {wanted} that '
      f'the model was trained on; it has {sorted(store.sensors)}.'
    )
  found = {}
  for sensor in present:
    to = measure.target(
      store, sensor, opened, missing_bands='mask', batch_size=_BATCH
    )
    parts, seen = [], 0
    for batch in to.unlabelled(split):
      parts.append(batch[: images - seen])
      seen += len(parts[-1])
      if seen >= images:
        break
    if not seen:
      raise ValueError(
        f'--calibration {store.folder}: split {split!r} holds no image of '
        f'{sensor}.'
      )
    found[sensor] = np.concatenate(parts)
  return found


def fed(
  store: stores.Store, opened: models.Opened, sensors: Sequence[str]
) -> list[str]:
  """Those of some sensors that the model knows and the store has.

  A store of whole sensors has groups of their bands, too.
  """
  known = [s for s in sensors if s in opened.sensors]
  return [s for s in known if adapt.feeds(store, opened.sensors[s])]


def _batches(
  found: Mapping[str, np.ndarray], fed: str
) -> Iterator[dict[str, np.ndarray]]:
  if fed == 'together':
    count = min(len(images) for images in found.values())
    for start in range(0, count, _BATCH):
      cut = slice(start, min(start + _BATCH, count))
      yield {sensor: images[cut] for sensor, images in found.items()}
    return
  for sensor, images in found.items():
    for start in range(0, len(images), _BATCH):
      yield {sensor: images[start : start + _BATCH]}


def write_whole(
  out,
  opened: models.Opened,
  small: surgery.Pruned,
  usage: usage_lib.Usage | None = None,
  *,
  params: trees.Tree | None = None,
  steps: Sequence[dict[str, Any]] = (),
) -> str:
  """The pruned model as a complete folder; returns its content hash.

  `params`: in place of those of the plan, after recovery; `steps`: records of
  what was done besides.
  """
  if params is None:
    params = small.params(opened.params)
  return folders.save(
    pathlib.Path(out),
    params,
    **_companions(opened, small, usage, steps),
  )


def write_parts(
  out,
  opened: models.Opened,
  small: surgery.Pruned,
  usage: usage_lib.Usage | None = None,
  *,
  steps: Sequence[dict[str, Any]] = (),
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
    pathlib.Path(out), entries, **_companions(opened, small, usage, steps)
  )


def _companions(
  opened: models.Opened,
  small: surgery.Pruned,
  usage: usage_lib.Usage | None,
  later: Sequence[dict[str, Any]],
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
    'steps': [*steps, small.record, *later],
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
