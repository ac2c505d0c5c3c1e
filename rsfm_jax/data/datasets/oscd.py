"""OSCD: urban change between two Sentinel-2 L1C images of a city.

14 cities are for training and 10 for testing, and none is set aside to choose
by. In the published masks 1 is unchanged and 2 changed.
"""

import dataclasses

from rsfm_jax.data import masks
from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division

_CHANGE = masks.Mask(name='change', classes=('unchanged', 'changed'))


def _recipe(mask: masks.Mask) -> recipe.Recipe:
  return recipe.Recipe(
    sensor='sentinel2_l1c',
    store_as='ms',
    licence='Copernicus Sentinel data; labels CC BY-NC-SA',
    mask=mask,
  )


_CITIES = {
  'train': 'aguasclaras bercy bordeaux nantes paris rennes saclay_e abudhabi '
  'cupertino pisa beihai hongkong beirut mumbai',
  'test': 'brasilia montpellier norcia rio saclay_w valencia dubai lasvegas '
  'milano chongqing',
}

DATASETS = (
  dataset.Dataset(
    name='oscd',
    source='torchgeo, datasets/oscd.py; IGARSS 2018, doi 10.1109/IGARSS.2018.'
    '8518015',
    recipe=_recipe(dataclasses.replace(_CHANGE, values=(1, 2))),
    image='{city}/imgs_1_rect/{band}.tif',
    after='{city}/imgs_2_rect/{band}.tif',
    mask='{city}/cm/{city}-cm.tif',
    id='{city}',
    division=division.Names(
      field='city', of={split: c.split() for split, c in _CITIES.items()}
    ),
    counts={'train': 14, 'test': 10},
  ),
  dataset.Dataset(
    name='oscd_crops',  # The crops among the samples.
    source='README of the samples, oscd_s2_change',
    recipe=_recipe(_CHANGE),
    image='{city}/date1/{band}.tif',
    after='{city}/date2/{band}.tif',
    mask='{city}/change.tif',
    id='{city}',
    division=division.Table(field='city'),
    counts={'train': 5, 'val': 1, 'test': 1},
  ),
)
