"""OSCD: urban change between two Sentinel-2 L1C images of a city.

14 cities are for training and 10 for testing; none is set aside to choose by,
so one of the training cities is (DEFAULT bordeaux, as in the samples).
"""

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


DATASETS = (
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
