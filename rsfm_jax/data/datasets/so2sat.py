"""So2Sat LCZ42, version 2: 17 local climate zones, Sentinel-2 of 32 pixels.

One HDF5 file per split holds all patches, as reflectance, with their labels in
one channel per class.
"""

from collections.abc import Iterator
import dataclasses

import numpy as np

from rsfm_jax.data import arrays
from rsfm_jax.data import readers
from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division
from rsfm_jax.data.datasets import layout
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import contract

CLASSES = (
  'Compact high rise',
  'Compact mid rise',
  'Compact low rise',
  'Open high rise',
  'Open mid rise',
  'Open low rise',
  'Lightweight low rise',
  'Large low rise',
  'Sparsely built',
  'Heavy industry',
  'Dense trees',
  'Scattered trees',
  'Bush, scrub',
  'Low plants',
  'Bare rock or paved',
  'Bare soil or sand',
  'Water',
)
_DN = catalogue.get('sentinel2_skysense')
# As its files have it; stores have digital numbers, as `STORE_AS`.
STORE_AS = _DN.name
SENSOR = dataclasses.replace(
  _DN,
  name='so2sat_s2',
  bands=tuple(
    dataclasses.replace(band, units=contract.Units.REFLECTANCE)
    for band in _DN.bands
  ),
  nodata=None,
)


def _rows(found: layout.Found) -> Iterator[dataset.Row]:
  told = arrays.read_hdf5(found.path, {'': 'label'}, name=found.path)[..., 0]
  one = (told == 1).sum(-1) if told.ndim == 2 else np.zeros(1)
  if told.shape[-1] != len(CLASSES) or (one != 1).any():
    raise ValueError(
      f'{found.path}: label is {told.shape}, not one of {len(CLASSES)} '
      'classes for every patch.'
    )
  for code in told.argmax(-1).tolist():
    yield dataset.Row(CLASSES[code])


DATASETS = (
  dataset.Dataset(
    name='so2sat_s2',
    source='torchgeo, datasets/so2sat.py',
    recipe=recipe.Recipe(
      sensor=SENSOR,
      store_as=STORE_AS,
      layout=readers.Layout(key='sen2', axes='HWC'),
      licence='CC BY 4.0',
    ),
    image='{part}.h5',
    rows=_rows,
    classes=CLASSES,
    division=division.Field(
      name='part',
      of={'training': 'train', 'validation': 'val', 'testing': 'test'},
    ),
    total=400673,
  ),
)
