"""Sen1Floods11, labelled by hand: water in 512-pixel chips of Sentinel-1 or -2.

252, 89 and 90 chips; the 15 of Bolivia are in a list of their own, left out.
"""

from rsfm_jax.data import masks
from rsfm_jax.data import readers
from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division
from rsfm_jax.sensors import catalogue

_LISTS = {'train': 'train', 'val': 'valid', 'test': 'test'}


def _of(name: str, sensor: str, what: str) -> dataset.Dataset:
  return dataset.Dataset(
    name=name,
    source='github.com/cloudtostreet/Sen1Floods11; PANGAEA, '
    'datasets/sen1floods11.py',
    recipe=recipe.Recipe(
      sensor=sensor,
      layout=readers.Layout(bands=catalogue.get(sensor).band_names),
      max_nodata=0.99,
      mask=masks.Mask(classes=('dry', 'water'), ignore=(-1,)),
    ),
    image=f'HandLabeled/{what}/{{id}}_{what}.tif',
    mask='HandLabeled/LabelHand/{id}_LabelHand.tif',
    id='{id}',
    division=division.Lists(
      files={s: f'flood_{name}_data.csv' for s, name in _LISTS.items()},
      key='{id}_S1Hand',
      where='gs://sen1floods11/v1.1/splits/flood_handlabeled',
    ),
    counts={'train': 252, 'val': 89, 'test': 90},
  )


DATASETS = (
  _of('sen1floods11_s2', 'sentinel2_l1c', 'S2Hand'),
  _of('sen1floods11_s1', 'sentinel1_grd', 'S1Hand'),
)
