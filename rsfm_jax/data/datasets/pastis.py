"""PASTIS: crops in series of Sentinel-2, 128 pixels; folds 1 to 3, 4 and 5.

The folds are of metadata.geojson, divided as PANGAEA does. Parcels mostly
outside their patch (19) are unlabelled.
"""

import functools
import json

from rsfm_jax.data import masks
from rsfm_jax.data import readers
from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division
from rsfm_jax.data.datasets import layout

_FOLDS = {1: 'train', 2: 'train', 3: 'train', 4: 'val', 5: 'test'}
_CLASSES = tuple(
  'background meadow soft_winter_wheat corn winter_barley winter_rapeseed '
  'spring_barley sunflower grapevine beet winter_triticale '
  'winter_durum_wheat fruits_vegetables_flowers potatoes leguminous_fodder '
  'soybeans orchard mixed_cereal sorghum'.split()
)


@functools.lru_cache(maxsize=2)
def _patches(source: str) -> dict[str, dict]:
  """{patch: its properties}."""
  try:
    features = json.loads(division.read_text(source, 'metadata.geojson'))
    properties = [feature['properties'] for feature in features['features']]
    return {str(each['ID_PATCH']): each for each in properties}
  except (KeyError, TypeError, json.JSONDecodeError) as error:
    raise ValueError(
      f'{source}: metadata.geojson tells no ID_PATCH of every patch: {error}'
    ) from error


def _splits(found: list[layout.Found], source: str) -> list[str | None]:
  patches = _patches(source)
  folds = [patches.get(one.fields['id'], {}).get('Fold') for one in found]
  return [_FOLDS.get(fold) for fold in folds]


def _dates(found: layout.Found, source: str) -> list[str]:
  """Dates of the series, told as {"0": 20180917, ...}."""
  told = _patches(source)[found.fields['id']].get('dates-S2') or {}
  dates = [str(told[key]) for key in sorted(told, key=int)]
  return [f'{date[:4]}-{date[4:6]}-{date[6:]}' for date in dates]


DATASETS = (
  dataset.Dataset(
    name='pastis',
    source='torchgeo, datasets/pastis.py; PANGAEA, datasets/pastis.py',
    recipe=recipe.Recipe(
      sensor='sentinel2_skysense',
      layout=readers.Layout(axes='NCHW'),
      frames_as='series',
      licence='CC BY 4.0',
      mask=masks.Mask(classes=_CLASSES, ignore=(19,), axes='CHW', channel=0),
    ),
    image='DATA_S2/S2_{id}.npy',
    mask='ANNOTATIONS/TARGET_{id}.npy',
    id='{id}',
    dates=_dates,
    division=_splits,
    total=2433,
  ),
)
