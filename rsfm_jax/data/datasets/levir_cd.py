"""LEVIR-CD: change of buildings, pairs of 1024 pixels from Google Earth, 0.5 m.

445, 64 and 128 pairs, told apart by the names of their files.
"""

from rsfm_jax.data import masks
from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division

DATASETS = (
  dataset.Dataset(
    name='levir_cd',
    source='torchgeo, datasets/levircd.py; justchenhao.github.io/LEVIR',
    recipe=recipe.Recipe(
      sensor='rgb_aerial',
      store_as='opt',
      licence='academic use',
      chip=256,
      mask=masks.Mask(
        name='change', classes=('unchanged', 'changed'), values=(0, 255)
      ),
    ),
    image='A/{split}_{id}.png',
    after='B/{split}_{id}.png',
    mask='label/{split}_{id}.png',
    id='{split}_{id}',
    division=division.Field(of={s: s for s in ('train', 'val', 'test')}),
    counts={'train': 445, 'val': 64, 'test': 128},
  ),
)
