"""EuroSAT: Sentinel-2 L1C scenes of 10 classes, as RGB or with 13 bands.

Divided by the lists of "In-domain representation learning for remote sensing"
(arXiv 1911.06721); their sizes as the card of huggingface.co/datasets/timm/
eurosat-rgb has them.
"""

from rsfm_jax.data import readers
from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division

CLASSES = (
  'AnnualCrop',
  'Forest',
  'HerbaceousVegetation',
  'Highway',
  'Industrial',
  'Pasture',
  'PermanentCrop',
  'Residential',
  'River',
  'SeaLake',
)
# The GeoTIFFs end with B8A.
BANDS = (*(f'B{i:02d}' for i in range(1, 13)), 'B8A')


def _of(name: str, image: str, how: recipe.Recipe) -> dataset.Dataset:
  return dataset.Dataset(
    name=name,
    source='torchgeo, datasets/eurosat.py',
    recipe=how,
    image=image,
    label='label',
    classes=CLASSES,
    division=division.Lists(
      files={s: f'eurosat-{s}.txt' for s in ('train', 'val', 'test')},
      key='{label}_{number}',
      where='huggingface.co/datasets/torchgeo/eurosat',
    ),
    counts={'train': 16200, 'val': 5400, 'test': 5400},
  )


DATASETS = (
  _of(
    'eurosat_rgb',
    '{label}/{label}_{number}.jpg',
    recipe.Recipe(sensor='opt', licence='MIT'),
  ),
  _of(
    'eurosat_ms',
    '{label}_{number}.tif',
    recipe.Recipe(
      sensor='sentinel2_l1c',
      layout=readers.Layout(bands=BANDS),
      licence='MIT',
    ),
  ),
)
