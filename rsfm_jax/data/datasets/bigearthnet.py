"""BigEarthNet v1: some of 19 land covers per patch, Sentinel-2 or Sentinel-1.

The 43 CORINE classes of a patch become the 19 of "BigEarthNet-MM" (arXiv
2105.07921) by the table of its authors; those without a counterpart are left
out. Sizes of the splits: 269,695, 123,723 and 125,866 patches.
"""

import json
import pathlib

from rsfm_jax.data import recipe
from rsfm_jax.data import sources
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division
from rsfm_jax.data.datasets import layout

_LAND = (
  'Land principally occupied by agriculture, with significant areas of '
  'natural vegetation'
)
# {class of the 19: classes of the 43}; () where they are called the same.
_CORINE = {
  'Urban fabric': ('Continuous urban fabric', 'Discontinuous urban fabric'),
  'Industrial or commercial units': (),
  'Arable land': (
    'Non-irrigated arable land',
    'Permanently irrigated land',
    'Rice fields',
  ),
  'Permanent crops': (
    'Vineyards',
    'Fruit trees and berry plantations',
    'Olive groves',
    'Annual crops associated with permanent crops',
  ),
  'Pastures': (),
  'Complex cultivation patterns': (),
  _LAND: (),
  'Agro-forestry areas': (),
  'Broad-leaved forest': (),
  'Coniferous forest': (),
  'Mixed forest': (),
  'Natural grassland and sparsely vegetated areas': (
    'Natural grassland',
    'Sparsely vegetated areas',
  ),
  'Moors, heathland and sclerophyllous vegetation': (
    'Moors and heathland',
    'Sclerophyllous vegetation',
  ),
  'Transitional woodland, shrub': ('Transitional woodland/shrub',),
  'Beaches, dunes, sands': (),
  'Inland wetlands': ('Inland marshes', 'Peatbogs'),
  'Coastal wetlands': ('Salt marshes', 'Salines'),
  'Inland waters': ('Water courses', 'Water bodies'),
  'Marine waters': ('Coastal lagoons', 'Estuaries', 'Sea and ocean'),
}
_OF_CORINE = {
  old: new for new, olds in _CORINE.items() for old in olds or (new,)
}
_LEFT_OUT = {
  'Road and rail networks and associated land',
  'Port areas',
  'Airports',
  'Mineral extraction sites',
  'Dump sites',
  'Construction sites',
  'Green urban areas',
  'Sport and leisure facilities',
  'Bare rock',
  'Burnt areas',
  'Intertidal flats',
}


def _labels(found: layout.Found, source: str) -> list[str]:
  """The classes in the metadata beside a patch."""
  del source
  name = f'{found.fields["patch"]}_labels_metadata.json'
  path = str(pathlib.PurePath(found.path).with_name(name))
  try:
    labels = json.loads(sources.read_bytes(path))['labels']
  except (OSError, KeyError, ValueError) as error:
    raise ValueError(f'{path} tells no labels: {error}') from error
  # Of another vocabulary they stay as they are, to be refused by name.
  return [_OF_CORINE.get(x, x) for x in labels if x not in _LEFT_OUT]


def _of(name: str, sensor: str, column: int) -> dataset.Dataset:
  return dataset.Dataset(
    name=name,
    source='torchgeo, datasets/bigearthnet.py',
    recipe=recipe.Recipe(
      sensor=sensor, max_nodata=0.99, licence='CDLA-Permissive-1.0'
    ),
    image='{patch}_{band}.tif',
    id='{patch}',
    label=_labels,
    labels='several',
    classes=tuple(_CORINE),
    division=division.Lists(
      files={s: f'bigearthnet-{s}.csv' for s in ('train', 'val', 'test')},
      key='{patch}',
      columns=(column,),
      where='git.tu-berlin.de/rsim/BigEarthNet-MM_19-classes_models',
    ),
    counts={'train': 269695, 'val': 123723, 'test': 125866},
  )


DATASETS = (
  _of('bigearthnet_s2', 'sentinel2_l2a', 0),
  _of('bigearthnet_s1', 'sentinel1_grd', 1),
)
