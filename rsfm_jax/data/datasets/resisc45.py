"""NWPU-RESISC45: 45 classes of 700 images, 256 pixels, 0.2 to 30 m.

Divided by the lists of arXiv 1911.06721, whose sizes are not held here.
"""

from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division

_CLASSES = tuple(
  'airplane airport baseball_diamond basketball_court beach bridge chaparral '
  'church circular_farmland cloud commercial_area dense_residential desert '
  'forest freeway golf_course ground_track_field harbor industrial_area '
  'intersection island lake meadow medium_residential mobile_home_park '
  'mountain overpass palace parking_lot railway railway_station '
  'rectangular_farmland river roundabout runway sea_ice ship snowberg '
  'sparse_residential stadium storage_tank tennis_court terrace '
  'thermal_power_station wetland'.split()
)

DATASETS = (
  dataset.Dataset(
    name='resisc45',
    source='torchgeo, datasets/resisc45.py',
    recipe=recipe.Recipe(sensor='opt', licence='CC BY-NC 4.0'),
    image='{label}/{id}.jpg',
    label='label',
    classes=_CLASSES,
    division=division.Lists(
      files={s: f'resisc45-{s}.txt' for s in ('train', 'val', 'test')},
      where='huggingface.co/datasets/isaaccorley/resisc45',
    ),
    total=31500,
  ),
)
