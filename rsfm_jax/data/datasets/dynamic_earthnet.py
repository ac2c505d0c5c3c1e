"""DynamicEarthNet: monthly land cover on PlanetScope, 1024 pixels, 3 m.

The image of the first day of a month with the mask of that month, as the
authors' `single` setting. Their split files name every folder of images, its
mask and the month, so paths are theirs; the number of months is not held here.
"""

import functools
import pathlib

from rsfm_jax.data import masks
from rsfm_jax.data import readers
from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division
from rsfm_jax.data.datasets import layout

_CLASSES = (
  'impervious surface',
  'agriculture',
  'forest and other vegetation',
  'wetlands',
  'soil',
  'water',
  'snow and ice',
)


@functools.lru_cache(maxsize=2)
def _months(source: str) -> dict[tuple[str, str], tuple[str, str]]:
  """{(folder of the images, month): (split, mask)}."""
  told: dict[tuple[str, str], tuple[str, str]] = {}
  for split in ('train', 'val', 'test'):
    text = division.read_text(
      source,
      f'dynnet_training_splits/{split}.txt',
      hint='vision.in.tum.de/webshare/u/toker/dynnet_training_splits',
    )
    for line in filter(None, map(str.split, text.splitlines())):
      if len(line) != 3:
        raise ValueError(
          f'{source}: {split}.txt has the line {line}; expected are a folder '
          'of images, a mask and a month.'
        )
      folder, mask, month = line
      key = (pathlib.PurePosixPath(folder).parent.name, month)
      if told.setdefault(key, (split, mask.lstrip('/')))[0] != split:
        raise ValueError(f'{source}: {key} is in {told[key][0]} and {split}.')
  return told


def _key(found: layout.Found) -> tuple[str, str]:
  return found.fields[
    'place'
  ], f'{found.fields["year"]}-{found.fields["month"]}'


def _splits(found: list[layout.Found], source: str) -> list[str | None]:
  months = _months(source)
  return [months.get(_key(one), (None, ''))[0] for one in found]


def _mask(found: layout.Found, source: str) -> str:
  return str(pathlib.Path(source) / _months(source)[_key(found)][1])


DATASETS = (
  dataset.Dataset(
    name='dynamic_earthnet',
    source='github.com/aysim/dynnet, data/utae_dynamicen.py',
    recipe=recipe.Recipe(
      sensor='planetscope',
      layout=readers.Layout(bands=('blue', 'green', 'red', 'nir')),
      licence='CC BY-NC 4.0',
      chip=512,
      mask=masks.Mask(form='one_hot', classes=_CLASSES),
    ),
    image='{place}/PF-SR/{year}-{month}-01.tif',
    mask=_mask,
    id='{place}/{year}-{month}',
    division=_splits,
  ),
)
