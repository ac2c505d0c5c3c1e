"""Features of a group of a sweep's jobs: their key, and how they are made."""

from collections.abc import Callable
import dataclasses
import functools
import hashlib
from typing import Any, NamedTuple

import numpy as np

from rsfm_jax.cli import datasets
from rsfm_jax.cli import frozen
from rsfm_jax.cli import measure
from rsfm_jax.cli import models
from rsfm_jax.cli import pruned
from rsfm_jax.cli import sweep_grid
from rsfm_jax.core import files
from rsfm_jax.core import memory
from rsfm_jax.data import labelled_checks
from rsfm_jax.data import store as stores
from rsfm_jax.evaluate import feature_cache


class Prepared(NamedTuple):
  """A group that can run.

  Attributes:
    key: of its features.
    images: of all splits.
    store: labelled.
    make: encodes them.
  """

  key: str
  images: int
  store: stores.Store
  make: Callable[[], feature_cache.Entry]


def prepare(group: sweep_grid.Group, grid: sweep_grid.Grid) -> Prepared:
  """Opens what a group needs, without reading parameters whole.

  Raises:
    ValueError: a store or a checkpoint that is missing or does not fit.
  """
  store = opened_store(group.dataset.store)
  opened = None
  if group.checkpoint is not None:
    opened = opened_parts(group.checkpoint.path, group.checkpoint.which)
  to = datasets.target(
    group.dataset, store, opened, batch_size=grid.features.batch_size
  )
  parts = {
    'model': _identity(group, grid, opened),
    'store': _hash_of(store),
    'target': _target_json(to),
    'features': {
      k: v
      for k, v in dataclasses.asdict(grid.features).items()
      if k not in ('batch_size', 'cache')
    },
  }
  return Prepared(
    feature_cache.key(parts),
    sum(len(store.indices(split)) for split in measure.SPLITS),
    store,
    functools.partial(_encode, group, grid, to),
  )


@functools.lru_cache(maxsize=8)
def opened_store(path: str) -> stores.Store:
  """A store that is fit to be a benchmark; see `labelled_checks`."""
  store = stores.Store(path)
  labelled_checks.check(store, measure.SPLITS)
  return store


@functools.lru_cache(maxsize=8)
def opened_parts(path: str, which: Any) -> models.Opened:
  """A model whose parameters stay on disk, for its hash and its contract."""
  return models.open_model(path, which=which, read='parts')


@functools.lru_cache(maxsize=1)
def opened_whole(path: str, which: Any) -> models.Opened:
  return models.open_model(path, which=which)


@functools.lru_cache(maxsize=8)
def _hash_of(store: stores.Store) -> str:
  return files.sha256(store.folder / 'index.json')


def _target_json(to: Any) -> dict[str, Any]:
  """All of a target that features depend on."""
  fields = to._asdict()
  for name in ('store', 'dataset', 'batch_size'):
    del fields[name]
  return _json(fields)


def _json(value: Any) -> Any:
  if hasattr(value, 'to_json'):
    return value.to_json()
  if isinstance(value, dict):
    return {name: _json(v) for name, v in value.items()}
  if isinstance(value, tuple):
    return [_json(v) for v in value]
  if hasattr(value, 'shape'):  # Prototypes of regions.
    data = np.ascontiguousarray(value)
    return [list(data.shape), hashlib.sha256(data.tobytes()).hexdigest()]
  return value


def _identity(
  group: sweep_grid.Group,
  grid: sweep_grid.Grid,
  opened: models.Opened | None,
) -> Any:
  """What tells the encoder of a group from every other one."""
  if opened is None:
    return {'pixels': group.variant}
  if group.variant == sweep_grid.RANDOM:
    return {'spec': opened.model.spec.to_json(), 'seed': grid.seed}
  out: dict[str, Any] = {'parameters': opened.content_hash}
  if group.variant is not None:
    # Use is measured on the store that is hashed beside this.
    out['pruned'] = dataclasses.asdict(group.variant) | {'seed': grid.seed}
  return out


def _encode(
  group: sweep_grid.Group, grid: sweep_grid.Grid, to: frozen.Target
) -> feature_cache.Entry:
  opened = None
  if group.checkpoint is None:
    describe = to.baseline(sweep_grid.BASELINES[group.variant])
  else:
    opened = _model(group, grid, to.store)
    options = grid.features
    describe = to.describer(
      opened,
      stages=options.stages,
      pools=options.pools,
      views=options.views,
      prompts=options.prompts,
    )
  found = frozen.features(
    describe,
    to.batches,
    to,
    name=f'{group.jobs[0].name}, {group.jobs[0].dataset}',
  )
  memory.trim()  # Of what compiling took.
  about = {
    'checkpoint': '' if opened is None else opened.content_hash,
    'normalisation': to.normalisation,
    'missing_bands': to.missing_bands,
    'pools': [] if opened is None else list(grid.features.pools),
  }
  return feature_cache.Entry(found, about)


def _model(
  group: sweep_grid.Group, grid: sweep_grid.Grid, store: stores.Store
) -> models.Opened:
  opened = opened_whole(group.checkpoint.path, group.checkpoint.which)
  if group.variant is None:
    return opened
  if group.variant == sweep_grid.RANDOM:
    return measure.random_init(opened, seed=grid.seed)
  how, names = group.variant, group.dataset.names
  usage = pruned.calibrate(opened, store, sensors=names, images=how.images)
  small = pruned.plan(
    opened,
    sensors=names,
    keep=how.keep,
    usage=usage,
    by=how.by,
    fold=how.fold,
    dense=how.dense,
    seed=grid.seed,
  )
  return pruned.as_opened(opened, small, opened.path)
