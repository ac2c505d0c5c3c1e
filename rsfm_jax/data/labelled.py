"""Labelled batches for fine-tuning: images and a target on the same ground.

`Labelled` is one sensor at one or two dates; `labelled_tiles.LabelledTiles` are
series and several sensors. Both go through the same functions.

A target is a column or an array of a store: 'label' of the index (a class,
bits or a number), or any array of the records on the pixels of the image, such
as `mask`, `landcover`, `change` (codes, 255 where unlabelled) or `height`
(numbers, NaN where unlabelled); or `boxes` of objects, padded to one number of
rows (see `boxes`). Image and target are cut by one window and
turned by one symmetry. As in `pipeline`, whose order these batches have, the
global batch is a function of (seed, step).
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math
from typing import Any, Protocol, get_args

import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.data import adapt
from rsfm_jax.data import augment
from rsfm_jax.data import labelled_cut
from rsfm_jax.data import pipeline
from rsfm_jax.data import records
from rsfm_jax.data import shares
from rsfm_jax.data import store as stores
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import matching
from rsfm_jax.sensors import statistics as stats


class Data(Protocol):
  """A store with targets, seen by a model.

  `cutter` gives what cuts a sample: called as `labelled_cut.Cutter` is, with
  its `target`, `shape` and `step`. `names` are the sensors of a batch.
  """

  store: stores.Store
  target: labelled_cut.Target
  names: tuple[str, ...]

  def cutter(self) -> Any: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled:
  """A store of one sensor with targets.

  Attributes:
    store: where from.
    sensor: contract of the model.
    target: see there.
    statistics: what normalises the sensor; complex SAR needs none.
    pair: 'after' adds the record's `<sensor>/after`: images [B, 2, H, W, C].
    missing_bands: see `matching.match`.
  """

  store: stores.Store
  sensor: contract.Sensor
  target: labelled_cut.Target
  statistics: stats.Statistics | None
  pair: labelled_cut.Pair = 'none'
  missing_bands: matching.Policy = 'error'

  def __post_init__(self):
    choices.check(self.pair, get_args(labelled_cut.Pair), key='data.pair')

  @property
  def names(self) -> tuple[str, ...]:
    return (self.sensor.name,)

  def cutter(self) -> labelled_cut.Cutter:
    adapter = adapt.Adapter.of(
      self.store,
      self.sensor,
      statistics=self.statistics,
      missing_bands=self.missing_bands,
    )
    return labelled_cut.Cutter(adapter, self.target, self.pair)


def chosen(
  data: Data,
  split: str | Sequence[str],
  *,
  fraction: float = 1.0,
  seed: int = 0,
) -> np.ndarray:
  """Samples of a split, or a share of them: int[N] indices of the store.

  Several splits (the folds of a cross-validation) count as one.

  Of scenes with one class, every class keeps its share, at least one sample.

  Raises:
    ValueError: a fraction outside (0, 1], an unknown split, or a class of the
      store without a sample in a split that is used whole.
  """
  splits = (split,) if isinstance(split, str) else split
  indices = np.sort(
    np.concatenate([data.store.indices(name) for name in splits])
  )
  groups = [indices]
  if data.target.kind == 'class':
    labels = _labels(data, indices)
    groups = [indices[labels == k] for k in range(data.target.classes)]
    empty = [k for k, group in enumerate(groups) if not len(group)]
    if empty:
      raise ValueError(
        f'{data.store.folder}: split {split!r} has no sample of the classes '
        f'{[_name(data, k) for k in empty]}.'
      )
  return stratified(groups, fraction=fraction, seed=seed)


def stratified(
  groups: Sequence[np.ndarray], *, fraction: float, seed: int
) -> np.ndarray:
  """That share of every group, at least one of it, in order: int[N].

  With one seed a smaller share is a part of a larger one.

  Raises:
    ValueError: a fraction outside (0, 1].
  """
  if not 0 < fraction <= 1:
    raise ValueError(f'data.label_fraction={fraction} must be in (0, 1].')
  if fraction == 1:
    return np.sort(np.concatenate(groups))
  rng = np.random.default_rng(seed)
  kept = [
    rng.permutation(group)[: max(1, round(fraction * len(group)))]
    for group in groups
  ]
  return np.sort(np.concatenate(kept))


def batches(
  data: Data,
  indices: np.ndarray,
  *,
  window: labelled_cut.Window,
  batch_size: int,
  seed: int,
  step: int = 0,
  share: shares.Share = shares.ALL,
  workers: int = 0,
  threads: int = 2,
) -> Iterator[pipeline.Batch]:
  """This host's share of every global batch from `step` on, without end.

  Args:
    data: store, sensors and target.
    indices: of the samples, as `chosen` gives them.
    window: what a step sees of an image.
    batch_size: samples per step over all hosts.
    seed: of order and windows.
    step: first step.
    share: blocks of rows of the global batch; see `shares.of_process`.
    workers: processes that make batches; 0 makes them in threads here.
    threads: batches made at a time, in each process.

  Yields:
    `{sensor: {image, band_valid, pixel_valid, valid}, 'place': {target,
    valid}}`; a pair's arrays have an axis of 2 after B, but for `valid`. Of
    tiles see `labelled_tiles`.

  Raises:
    ValueError: sizes or targets that do not fit, by the sample's id.
  """
  names = data.names
  source = pipeline.endless(
    Samples(data, indices),
    _Augment(data.cutter(), window),
    names=names,
    number=0,
    seed=seed,
  )
  ds = pipeline.host_batches(
    [source], [1.0], names=names, batch_size=batch_size, share=share
  )
  return pipeline.read(
    ds.map(counting), step=step, workers=workers, threads=threads
  )


def shapes(
  sensor: contract.Sensor,
  target: labelled_cut.Target,
  *,
  batch_size: int,
  size: int,
  pair: labelled_cut.Pair,
) -> dict[str, dict[str, tuple[tuple[int, ...], np.dtype]]]:
  """{part: {array: (shape, dtype)}} of a global batch, no store needed."""
  front = (batch_size, 2) if pair == 'after' else (batch_size,)
  bands, flag = len(sensor.bands), np.dtype(bool)
  valid = ((batch_size,), flag)
  dtype = np.dtype(labelled_cut.DTYPES[target.kind])
  return {
    sensor.name: {
      'image': ((*front, size, size, bands), np.dtype(np.float32)),
      'band_valid': ((*front, bands), flag),
      'pixel_valid': ((*front, size, size), flag),
      'valid': valid,
    },
    labelled_cut.PLACE: {
      'target': ((batch_size, *target.shape(size)), dtype),
      'valid': valid,
    },
  }


class Samples:
  """A Grain source of `labelled_cut.Sample`s; picklable."""

  def __init__(self, data: Data, indices: np.ndarray):
    whole = data.store.source()
    self.records = records.Records(whole.shards, indices)
    columns = map(data.store.column, ('id', 'lonlat', 'date'))
    self.ids, self.lonlats, self.dates = (
      [column[i] for i in indices] for column in columns
    )
    self.labels = [None] * len(indices)
    if data.target.kind in labelled_cut.SCENE:
      self.labels = list(_labels(data, indices))

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, i: int) -> labelled_cut.Sample:
    return labelled_cut.Sample(
      self.records[i],
      self.ids[i],
      self.labels[i],
      self.lonlats[i],
      self.dates[i],
    )


@dataclasses.dataclass(frozen=True)
class _Augment:
  """A random window and symmetry, and whatever else the cutter draws."""

  cutter: Any
  window: labelled_cut.Window

  def __call__(
    self, sample: labelled_cut.Sample, rng: np.random.Generator
  ) -> pipeline.Batch:
    window, cutter = self.window, self.cutter
    return cutter(
      sample,
      window.box(rng, cutter.shape(sample), cutter.step),
      window.size,
      symmetry=augment.random_symmetry(rng, window.symmetry),
      filter=window.filter,
      rng=rng,
    )


def counting(batch: pipeline.Batch) -> pipeline.Batch:
  """Adds `valid` where it is not: all samples of a full batch are."""
  rows = len(batch[labelled_cut.PLACE]['target'])
  return {
    name: {'valid': np.ones(rows, bool)} | arrays
    for name, arrays in batch.items()
  }


def _name(data: Data, label: int) -> str:
  return data.store.classes[label] if data.store.classes else str(label)


def _labels(data: Data, indices: np.ndarray) -> np.ndarray:
  """Labels of samples, checked: [N], or bits [N, L]."""
  target, store = data.target, data.store
  column, ids = store.column('label'), store.column('id')
  for i in indices:
    label = column[i]
    if not _fits(label, target):
      raise ValueError(
        f'{store.folder}: label {label!r} of sample {ids[i]!r} is '
        + {
          'class': f'no class of 0 to {target.classes - 1}.',
          'bits': f'no list of {target.classes} bits.',
          'number': 'no finite number.',
        }[target.kind]
      )
  return np.asarray(
    [column[i] for i in indices], labelled_cut.DTYPES[target.kind]
  )


def _fits(label: Any, target: labelled_cut.Target) -> bool:
  if target.kind == 'bits':
    row = label if isinstance(label, list) else []
    return len(row) == target.classes and set(row) <= {0, 1}
  if isinstance(label, Mapping | list | str | None):
    return False
  if target.kind == 'number':
    return math.isfinite(label)
  return label == int(label) and 0 <= label < target.classes
