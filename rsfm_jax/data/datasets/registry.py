"""The published data sets this code base knows, by name, and anyone's own.

An own data set is a Python file with `DATASETS`, as the modules here are.
"""

import importlib.util
import pathlib

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
  """The data set called `name`, or of a file: `mine.py`, `mine.py:NAME`.

  Raises:
    ValueError: no such data set; the message suggests the nearest name. Or a
      file that does not run, or holds none or several and no NAME is given.
  """
  path, _, chosen = name.partition(':')
  if not path.endswith('.py'):
    return _DATASETS[choices.check(name, _DATASETS, key='--dataset')]
  found = {one.name: one for one in _of_file(pathlib.Path(path))}
  if not chosen and len(found) == 1:
    (chosen,) = found
  return found[choices.check(chosen, found, key=f'--dataset {path}:NAME')]


def _of_file(path: pathlib.Path) -> tuple[dataset.Dataset, ...]:
  if not path.is_file():
    raise ValueError(f'--dataset {path}: no such file.')
  spec = importlib.util.spec_from_file_location(f'own_{path.stem}', path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except Exception as error:
    what = f'{type(error).__name__}: {error}'
    raise ValueError(f'--dataset {path} does not run: {what}') from error
  found = getattr(module, 'DATASETS', ())
  known = isinstance(found, tuple | list) and found
  if not known or not all(isinstance(x, dataset.Dataset) for x in found):
    raise ValueError(
      f'--dataset {path}: DATASETS must be a tuple of `dataset.Dataset`, and '
      f'is {found!r}.'
    )
  return tuple(found)
