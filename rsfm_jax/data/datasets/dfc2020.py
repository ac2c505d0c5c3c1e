"""DFC2020: land cover in the simplified IGBP scheme, Sentinel-2 or Sentinel-1.

The layout and the lists are those of Copernicus-Bench (arXiv 2503.11849), whose
sizes are not held here.
"""

from rsfm_jax.data import masks
from rsfm_jax.data import readers
from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division
from rsfm_jax.sensors import catalogue

_CLASSES = (
  'forest',
  'shrubland',
  'savanna',
  'grassland',
  'wetlands',
  'croplands',
  'urban',
  'snow and ice',
  'barren',
  'water',
)


def _of(name: str, sensor: str, what: str) -> dataset.Dataset:
  return dataset.Dataset(
    name=name,
    source='torchgeo, datasets/copernicus/dfc2020_s2.py',
    recipe=recipe.Recipe(
      sensor=sensor,
      layout=readers.Layout(bands=catalogue.get(sensor).band_names),
      mask=masks.Mask(
        classes=_CLASSES, values=tuple(range(1, 11)), ignore=(0,)
      ),
    ),
    image=f'{what}/ROIs0000_{{part}}_{what}_{{id}}.tif',
    mask='dfc/ROIs0000_{part}_dfc_{id}.tif',
    id='{part}_{id}',
    division=division.Lists(
      files={s: f'dfc-{s}-new.csv' for s in ('train', 'val', 'test')},
      key='ROIs0000_{part}_dfc_{id}',
      where='huggingface.co/datasets/wangyi111/Copernicus-Bench',
    ),
  )


DATASETS = (
  _of('dfc2020_s2', 'sentinel2_l1c', 's2'),
  _of('dfc2020_s1', 'sentinel1_grd', 's1'),
)
