"""The published data sets this code base knows, by name."""

from rsfm_jax.core import choices
from rsfm_jax.data import splits
from rsfm_jax.data.datasets import chesapeake
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import dubai
from rsfm_jax.data.datasets import oscd

_MODULES = (
  chesapeake,
  dubai,
  oscd,
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
    cells = (
      name,
      one.task,
      one.recipe.target.name,
      len(one.names) or '-',
      sizes if one.counts else 'not held',
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
