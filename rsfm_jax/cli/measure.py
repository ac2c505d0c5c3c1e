"""A labelled store seen as one image of one sensor, as probes read it."""

from collections.abc import Callable, Iterator, Sequence
import functools
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from rsfm_jax.cli import models
from rsfm_jax.core import choices
from rsfm_jax.core import rng
from rsfm_jax.data import adapt
from rsfm_jax.data import pipeline
from rsfm_jax.data import store as stores
from rsfm_jax.evaluate import baselines
from rsfm_jax.evaluate import features as features_lib
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

  @property
  def sensors(self) -> tuple[contract.Sensor, ...]:
    return (self.sensor,)

  def statistics_of(self, sensor: str) -> stats.Statistics | None:
    del sensor  # The only one.
    return self.statistics

  def batches(self, split: str) -> Iterator[dict[str, np.ndarray]]:
    """{'image', 'valid', 'label'} of a split, in order.

    Raises:
      ValueError: the split has no labels.
    """
    for entry in self._entries(split):
      if 'label' not in entry:
        raise ValueError(f'{self.store.folder}: split {split!r} has no labels.')
      yield {name: entry[name] for name in ('image', 'valid', 'label')}

  def unlabelled(self, split: str | None) -> Iterator[np.ndarray]:
    """Valid images of a split, batch by batch: f32[B, H, W, C]."""
    for entry in self._entries(split):
      yield entry['image'][entry['valid']]

  def _entries(self, split: str | None) -> Iterator[dict[str, np.ndarray]]:
    for batch in pipeline.evaluation_batches(
      self.store,
      split,
      self.sensor,
      self.batch_size,
      statistics=self.statistics,
      fit=self.fit,
      size=self.size,
      missing_bands=self.missing_bands,
    ):
      yield batch[self.sensor.name]

  def describer(
    self,
    opened: models.Opened,
    *,
    stages: Sequence[str] | None = None,
    pools: Sequence[str] = ('mean', 'std'),
    views: features_lib.Views = 'identity',
    prompts: encoder.Prompts = 'keep',
  ) -> Callable[[Any], Any]:
    """Images to the model's frozen features."""
    extract = extractor(
      opened.model.spec,
      self.sensor.name,
      tuple(stages or encoder.stage_names(opened.model.spec)),
      tuple(pools),
      views,
      prompts,
    )
    return functools.partial(extract.describe, opened.params)

  def baseline(self, name: str) -> Callable[[Any], Any]:
    """Images to statistics of their bands, a name of `baselines.BASELINES`."""
    return baselines.BASELINES[
      choices.check(name, baselines.BASELINES, key='baseline')
    ]


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


def images_per_second(
  opened: models.Opened, to: Target, *, repeats: int = 5
) -> float:
  """Median speed of encoding and pooling a batch of the target's images.

  The program is the one that `frozen.model_rows` compiled.
  """
  run = extractor(
    opened.model.spec,
    to.sensor.name,
    tuple(encoder.stage_names(opened.model.spec)),
    ('mean', 'std'),
    'identity',
  ).describe
  image = next(to.batches('test'))['image']
  jax.block_until_ready(run(opened.params, image))
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(run(opened.params, image))
    seconds.append(time.perf_counter() - start)
  return len(image) / float(np.median(seconds))
