"""Rows of frozen features: what models know, and raw statistics, probed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import math
from typing import Any, Protocol

from rsfm_jax.cli import measure
from rsfm_jax.cli import models
from rsfm_jax.core import memory
from rsfm_jax.data import store as stores
from rsfm_jax.evaluate import baselines
from rsfm_jax.evaluate import features as features_lib
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.evaluate import run as runs
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import statistics as stats


class Target(Protocol):
  """A labelled store as a model sees it: `measure`'s or `measure_tiles`'s."""

  store: stores.Store
  dataset: str
  sensors: tuple[contract.Sensor, ...]
  normalisation: str
  missing_bands: str
  batch_size: int

  def statistics_of(self, sensor: str) -> stats.Statistics | None:
    """What normalises a sensor, by its name."""

  def batches(self, split: str) -> Iterator[dict[str, Any]]:
    """{'image', 'valid', 'label'} of a split, in order."""

  def describer(
    self, opened: models.Opened, **options: Any
  ) -> Callable[[Any], Any]:
    """What is under 'image' to frozen features: f32[B, F]."""

  def baseline(self, name: str) -> Callable[[Any], Any]:
    """What is under 'image' to statistics of pixels."""


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
  """Probes of a model's features; options are those of `to.describer`."""
  rows = probe(
    to.describer(opened, pools=pools, **options),
    to.batches,
    to,
    name=name,
    protocols=protocols,
    checkpoint=opened.content_hash,
    pools=pools,
    seed=seed,
  )
  memory.trim()  # Of what compiling took.
  return rows


def baseline_rows(
  to: Target, *, protocols: Sequence[str], seed: int = 0
) -> list[rows_lib.Row]:
  """Raw band statistics, with and without gradients, by the same probes."""
  out = []
  for name in baselines.BASELINES:
    out += probe(
      to.baseline(name),
      to.batches,
      to,
      name=name.replace('_', ' '),
      protocols=protocols,
      seed=seed,
    )
  return out


def probe(
  describe: Callable[[Any], Any],
  read: Callable[[str], Iterator[dict[str, Any]]],
  to: Target,
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
  to: Target,
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
  to: Target,
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
    for split in measure.SPLITS
  }
