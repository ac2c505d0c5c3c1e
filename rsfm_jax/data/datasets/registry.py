"""The published data sets this code base knows, by name."""

from rsfm_jax.core import choices
from rsfm_jax.data import splits
from rsfm_jax.data.datasets import aid
from rsfm_jax.data.datasets import bigearthnet
from rsfm_jax.data.datasets import chesapeake
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import dfc2020
from rsfm_jax.data.datasets import dior
from rsfm_jax.data.datasets import dubai
from rsfm_jax.data.datasets import dynamic_earthnet
from rsfm_jax.data.datasets import eurosat
from rsfm_jax.data.datasets import fair1m
from rsfm_jax.data.datasets import fmow_sentinel
from rsfm_jax.data.datasets import fuel_moisture
from rsfm_jax.data.datasets import geobench
from rsfm_jax.data.datasets import isaid
from rsfm_jax.data.datasets import isprs
from rsfm_jax.data.datasets import levir_cd
from rsfm_jax.data.datasets import loveda
from rsfm_jax.data.datasets import mstar
from rsfm_jax.data.datasets import neon
from rsfm_jax.data.datasets import oscd
from rsfm_jax.data.datasets import pastis
from rsfm_jax.data.datasets import resisc45
from rsfm_jax.data.datasets import sen1floods11
from rsfm_jax.data.datasets import so2sat
from rsfm_jax.data.datasets import ucmerced

_MODULES = (
  aid,
  bigearthnet,
  chesapeake,
  dfc2020,
  dior,
  dubai,
  dynamic_earthnet,
  eurosat,
  fair1m,
  fmow_sentinel,
  fuel_moisture,
  geobench,
  isaid,
  isprs,
  levir_cd,
  loveda,
  mstar,
  neon,
  oscd,
  pastis,
  resisc45,
  sen1floods11,
  so2sat,
  ucmerced,
)
_DATASETS = {one.name: one for module in _MODULES for one in module.DATASETS}


def names() -> tuple[str, ...]:
  return tuple(sorted(_DATASETS))


def markdown() -> str:
  """A table of all data sets: what they are for, their sensor and sizes."""
  lines = [
    '| data set | task | sensor | classes | train / val / test | told by |',
    '|---|---|---|---|---|---|',
  ]
  for name in names():
    one = _DATASETS[name]
    sizes = ' / '.join(str(one.counts.get(s, '-')) for s in splits.NAMES)
    whole = f'{one.total} in all' if one.total else 'not held'
    cells = (
      name,
      one.task,
      one.recipe.target.name,
      len(one.names) or '-',
      sizes if one.counts else whole,
      one.source,
    )
    lines.append(f'| {" | ".join(map(str, cells))} |')
  return '\n'.join(lines)


def get(name: str) -> dataset.Dataset:
  """The data set called `name`.

  Raises:
    ValueError: no such data set; the message suggests the nearest name.
  """
  return _DATASETS[choices.check(name, _DATASETS, key='--dataset')]
