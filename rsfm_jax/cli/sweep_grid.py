"""A sweep's config as a grid of jobs, grouped by the features they share."""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
from typing import Any, NamedTuple

from ml_collections import config_dict

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import datasets as datasets_lib
from rsfm_jax.core import choices
from rsfm_jax.evaluate import baselines
from rsfm_jax.evaluate import protocols
from rsfm_jax.evaluate import sweep_rows

WHOLE, RANDOM = 'whole', 'random init'
BASELINES = {name.replace('_', ' '): name for name in baselines.BASELINES}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """`config.checkpoints.<name>`.

  Attributes:
    path: a workdir or a model folder.
    which: of a run; see `models.open_model`.
    variants: names of `config.variants` that are made of it; empty: all.
  """

  path: str
  which: str = 'auto'
  variants: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Variant:
  """`config.variants.<name>`: a way to prune to the sensors of a data set.

  Attributes:
    keep: rule for the experts; see `pruning.keep.choose`.
    dense: how the kept experts become one FFN, or None.
    by: what use of an expert means.
    fold: what becomes of the gates.
    images: that use is measured on, of the data set's training split.
  """

  keep: str = 'all'
  dense: str | None = None
  by: str = 'share'
  fold: str = 'mean_gate'
  images: int = 512


@dataclasses.dataclass(frozen=True)
class FeatureOptions:
  """`config.features`: what of an encoder's maps becomes a feature.

  Attributes:
    stages: names of maps; empty: all.
    pools: names of `features.POOLS`.
    views: see `features.Views`.
    prompts: see `encoder.Prompts`.
    batch_size: images at a time; changes no feature.
    cache: folder; empty: `features` beside the rows.
  """

  stages: tuple[str, ...] = ()
  pools: tuple[str, ...] = ('mean', 'std')
  views: str = 'identity'
  prompts: str = 'keep'
  batch_size: int = 64
  cache: str = ''


class Group(NamedTuple):
  """Jobs that share features, in the order of the grid.

  `checkpoint` is None for baselines of pixels; `variant` is None for the whole
  model, one of `RANDOM` or `BASELINES`, or a way to prune.
  """

  checkpoint: Checkpoint | None
  variant: Variant | str | None
  dataset: datasets_lib.Dataset
  jobs: tuple[sweep_rows.Job, ...]


class Grid(NamedTuple):
  groups: tuple[Group, ...]
  features: FeatureOptions
  resamples: int
  seed: int

  @property
  def jobs(self) -> list[sweep_rows.Job]:
    return [job for group in self.groups for job in group.jobs]


def grid(config: config_dict.ConfigDict) -> Grid:
  """All jobs of a sweep.

  Raises:
    ValueError: an unknown key or value, or an axis without a value.
  """
  checkpoints = _section(config, 'checkpoints', Checkpoint)
  variants = _section(config, 'variants', Variant)
  datasets = _section(config, 'datasets', datasets_lib.Dataset)
  _check(config, checkpoints, variants, datasets)
  groups = []
  for data_name, dataset in datasets.items():
    sources = [('', name, None, name) for name in _raw(config)]
    for name, checkpoint in checkpoints.items():
      if RANDOM in config.baselines:
        sources.append((name, RANDOM, checkpoint, RANDOM))
      for variant in _variants(checkpoint, variants, key=name):
        what = None if variant == WHOLE else variants[variant]
        sources.append((name, variant, checkpoint, what))
    for name, variant, checkpoint, what in sources:
      jobs = tuple(_jobs(config, (name, variant, data_name)))
      groups.append(Group(checkpoint, what, dataset, jobs))
  return Grid(
    tuple(groups),
    configs.build(FeatureOptions, config.features, key='features'),
    config.resamples,
    config.seed,
  )


def _section(config, key: str, cls: type) -> dict[str, Any]:
  return {
    name: configs.build(cls, section, key=f'{key}.{name}')
    for name, section in config[key].items()
  }


def _raw(config) -> list[str]:
  return [name for name in config.baselines if name != RANDOM]


def _variants(
  checkpoint: Checkpoint, variants: Mapping[str, Variant], *, key: str
) -> list[str]:
  allowed = [WHOLE, *variants]
  for name in checkpoint.variants:
    choices.check(name, allowed, key=f'config.checkpoints.{key}.variants')
  return list(checkpoint.variants) or allowed


def _jobs(config, source: Sequence[str]):
  """Jobs of one source of features; what no seed changes runs once."""
  for protocol, fraction, seed in itertools.product(
    config.protocols, config.label_fractions, config.seeds
  ):
    moves = fraction < 1 or protocols.get(protocol).seeded
    if moves or seed == config.seeds[0]:
      yield sweep_rows.Job(*source, protocol, float(fraction), int(seed))


def _check(config, checkpoints, variants, datasets) -> None:
  for name in config.protocols:
    protocols.get(name)
  for name in config.baselines:
    choices.check(name, (*BASELINES, RANDOM), key='config.baselines')
  for fraction in config.label_fractions:
    if not 0 < fraction <= 1:
      raise ValueError(
        f'config.label_fractions={tuple(config.label_fractions)} must lie in '
        '(0, 1].'
      )
  for name in variants:
    if name in (WHOLE, RANDOM, *BASELINES):
      raise ValueError(f'config.variants.{name}: the name is taken.')
  axes = {
    'datasets': datasets,
    'protocols': config.protocols,
    'label_fractions': config.label_fractions,
    'seeds': config.seeds,
    'checkpoints, or config.baselines': checkpoints or _raw(config),
  }
  for name, values in axes.items():
    if not values:
      raise ValueError(f'config.{name} is empty: the sweep has no jobs.')
  for axis in ('protocols', 'label_fractions', 'seeds', 'baselines'):
    if len(set(config[axis])) < len(config[axis]):
      raise ValueError(f'config.{axis}={tuple(config[axis])} repeats a value.')
