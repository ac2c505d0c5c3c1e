"""AID: 30 classes of aerial scenes, 10,000 images of 600 pixels, 0.5 to 8 m.

Papers draw 20 or 50 % for training and publish no lists, so the division is
drawn here by name; --split random with --shares draws another.
"""

from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division

_CLASSES = tuple(
  'Airport BareLand BaseballField Beach Bridge Center Church Commercial '
  'DenseResidential Desert Farmland Forest Industrial Meadow '
  'MediumResidential Mountain Park Parking Playground Pond Port '
  'RailwayStation Resort River School SparseResidential Square Stadium '
  'StorageTanks Viaduct'.split()
)

DATASETS = (
  dataset.Dataset(
    name='aid',
    source='arXiv 1608.05167',
    recipe=recipe.Recipe(sensor='opt'),
    image='{label}/{id}.jpg',
    label='label',
    classes=_CLASSES,
    division=division.Drawn(),
    total=10000,
  ),
)
