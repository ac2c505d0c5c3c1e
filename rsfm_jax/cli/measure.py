"""What models know: features of labelled stores, probes, speed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
import math
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from rsfm_jax.cli import models
from rsfm_jax.core import choices
from rsfm_jax.core import memory
from rsfm_jax.core import rng
from rsfm_jax.data import adapt
from rsfm_jax.data import pipeline
from rsfm_jax.data import store as stores
from rsfm_jax.evaluate import baselines
from rsfm_jax.evaluate import features as features_lib
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.evaluate import run as runs
from rsfm_jax.models import encoder
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import statistics as stats

SPLITS = ('train', 'val', 'test')


class Target(NamedTuple):
  """A labelled store seen as one sensor of a model.

  Attributes:
    store: with splits train, val, test.
    dataset: its name in rows.
    sensor: contract of the model.
    statistics: what normalises it, the model's.
    normalisation: in words, for rows.
    fit: 'native', 'crop' or 'resize'; see `pipeline.evaluation_batches`.
    size: of crop or resize.
    missing_bands: policy.
    batch_size: images per batch.
  """

  store: stores.Store
  dataset: str
  sensor: contract.Sensor
  statistics: stats.Statistics | None
  normalisation: str
  fit: pipeline.Fit = 'native'
  size: int | None = None
  missing_bands: str = 'error'
  batch_size: int = 64


def target(
  store: stores.Store,
  sensor: str,
  opened: models.Opened | None,
  **options: Any,
) -> Target:
  """The target of a model; without a model, normalised by its own pixels.

  Raises:
    ValueError: a sensor that the model does not have.
  """
  if opened is None:
    want = store.sensors[choices.check(sensor, store.sensors, key='--sensor')]
    found, words = adapt.merged_statistics(want, (store,)), 'dataset'
  else:
    choices.check(sensor, opened.sensors, key='--sensor')
    want, words = opened.sensors[sensor], 'pretrained'
    found = opened.statistics.get(sensor)
  return Target(store, store.folder.name, want, found, words, **options)


def batches(to: Target, split: str) -> Iterator[dict[str, np.ndarray]]:
  """{'image', 'valid', 'label'} of a split, in order.

  Raises:
    ValueError: the split has no labels.
  """
  for entry in _entries(to, split):
    if 'label' not in entry:
      raise ValueError(f'{to.store.folder}: split {split!r} has no labels.')
    yield {name: entry[name] for name in ('image', 'valid', 'label')}


def unlabelled(to: Target, split: str | None) -> Iterator[np.ndarray]:
  """Valid images of a split, batch by batch: f32[B, H, W, C]."""
  for entry in _entries(to, split):
    yield entry['image'][entry['valid']]


def _entries(to: Target, split: str | None) -> Iterator[dict[str, np.ndarray]]:
  for batch in pipeline.evaluation_batches(
    to.store,
    split,
    to.sensor,
    to.batch_size,
    statistics=to.statistics,
    fit=to.fit,
    size=to.size,
    missing_bands=to.missing_bands,
  ):
    yield batch[to.sensor.name]


@functools.lru_cache(maxsize=4)
def extractor(
  spec: Any,
  sensor: str,
  stages: tuple[str, ...],
  pools: tuple[str, ...],
  views: features_lib.Views,
  prompts: encoder.Prompts = 'keep',
) -> features_lib.Extractor:
  """The same arguments give the same compiled program."""
  return features_lib.Extractor(
    encoder.encoder(spec, sensor, prompts=prompts),
    stages,
    pools=pools,
    views=views,
  )


def random_init(opened: models.Opened, *, seed: int) -> models.Opened:
  """The same architecture before any training, so without prototypes."""
  params = opened.model.init(rng.named(rng.key_for(seed), 'random_init'))
  # Placed as the others are, it runs in the same compiled program.
  params = jax.tree.map(
    lambda x, like: jax.device_put(x, getattr(like, 'sharding', None)),
    params,
    opened.params,
  )
  return opened._replace(params=params, content_hash='', step=None)


def describer(
  opened: models.Opened,
  to: Target,
  *,
  stages: Sequence[str] | None = None,
  pools: Sequence[str] = ('mean', 'std'),
  views: features_lib.Views = 'identity',
  prompts: encoder.Prompts = 'keep',
) -> Callable[[Any], Any]:
  """Images to the model's frozen features."""
  extract = extractor(
    opened.model.spec,
    to.sensor.name,
    tuple(stages or encoder.stage_names(opened.model.spec)),
    tuple(pools),
    views,
    prompts,
  )
  return functools.partial(extract.describe, opened.params)


def model_rows(
  opened: models.Opened,
  to: Target,
  *,
  name: str,
  protocols: Sequence[str],
  seed: int = 0,
  pools: Sequence[str] = ('mean', 'std'),
  **options: Any,
) -> list[rows_lib.Row]:
  """Probes of a model's frozen features; options are those of `describer`."""
  rows = probe(
    describer(opened, to, pools=pools, **options),
    functools.partial(batches, to),
    to,
    name=name,
    protocols=protocols,
    checkpoint=opened.content_hash,
    pools=pools,
    seed=seed,
  )
  memory.trim()  # Of what compiling took.
  return rows


def baseline(name: str) -> Callable[[Any], Any]:
  """Images to statistics of their bands, a name of `baselines.BASELINES`."""
  choices.check(name, baselines.BASELINES, key='baseline')
  return baselines.BASELINES[name]


def baseline_rows(
  to: Target, *, protocols: Sequence[str], seed: int = 0
) -> list[rows_lib.Row]:
  """Raw band statistics, with and without gradients, by the same probes."""
  out = []
  for name in baselines.BASELINES:
    out += probe(
      baseline(name),
      functools.partial(batches, to),
      to,
      name=name.replace('_', ' '),
      protocols=protocols,
      seed=seed,
    )
  return out


def images_per_second(
  opened: models.Opened, to: Target, *, repeats: int = 5
) -> float:
  """Median speed of encoding and pooling a batch of the target's images.

  The program is the one that `model_rows` compiled.
  """
  run = extractor(
    opened.model.spec,
    to.sensor.name,
    tuple(encoder.stage_names(opened.model.spec)),
    ('mean', 'std'),
    'identity',
  ).describe
  image = next(batches(to, 'test'))['image']
  jax.block_until_ready(run(opened.params, image))
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(run(opened.params, image))
    seconds.append(time.perf_counter() - start)
  return len(image) / float(np.median(seconds))


def probe(
  describe: Callable[[Any], Any],
  read: Callable[[str], Iterator[dict[str, Any]]],
  to: Any,
  *,
  name: str,
  protocols: Sequence[str],
  checkpoint: str = '',
  pools: Sequence[str] = (),
  seed: int,
) -> list[rows_lib.Row]:
  """Rows of what `describe` makes of the splits of a target.

  Args:
    describe: see `features.collect`.
    read: batches of a split.
    to: a target, of whichever kind.
    name: for the rows.
    protocols: names of `protocols.PRESETS`.
    checkpoint: content hash, for the rows.
    pools: that the features are of, if they are of pools.
    seed: of probes and bootstrap.
  """
  return rows_of(
    features(describe, read, to, name=name),
    to,
    name=name,
    protocols=protocols,
    checkpoint=checkpoint,
    pools=pools,
    seed=seed,
  )


def rows_of(
  found: Mapping[str, features_lib.Features],
  to: Any,
  *,
  name: str,
  protocols: Sequence[str],
  checkpoint: str = '',
  pools: Sequence[str] = (),
  seed: int,
) -> list[rows_lib.Row]:
  """Rows of features of the splits of a target; see `probe`."""
  return runs.evaluate_features(
    {split: f.values for split, f in found.items()},
    {split: f.labels for split, f in found.items()},
    protocols=protocols,
    name=name,
    dataset=to.dataset,
    classes=len(to.store.classes) if to.store.classes else None,
    normalisation=to.normalisation,
    checkpoint=checkpoint,
    missing_bands=to.missing_bands,
    pools=pools,
    seeds=(seed,),
  )


def features(
  describe: Callable[[Any], Any],
  read: Callable[[str], Iterator[dict[str, Any]]],
  to: Any,
  *,
  name: str,
) -> dict[str, features_lib.Features]:
  """What `describe` makes of every split of a target; see `probe`."""
  return {
    split: features_lib.collect(
      describe,
      read(split),
      what=f'{name}, {split}',
      total=math.ceil(len(to.store.indices(split)) / to.batch_size),
    )
    for split in SPLITS
  }
