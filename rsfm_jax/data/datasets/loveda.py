"""LoveDA: seven land covers of town and country, 1024 pixels, 0.3 m.

2,522 training and 1,669 validation images; the 1,796 of the test split have no
published masks and are left out.
"""

from rsfm_jax.data import masks
from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division

DATASETS = (
  dataset.Dataset(
    name='loveda',
    source='torchgeo, datasets/loveda.py; arXiv 2110.08733',
    recipe=recipe.Recipe(
      sensor='rgb_aerial',
      store_as='opt',
      licence='CC BY-NC-SA 4.0',
      chip=512,
      mask=masks.Mask(
        classes=tuple(
          'background building road water barren forest agriculture'.split()
        ),
        values=(1, 2, 3, 4, 5, 6, 7),
        ignore=(0,),
      ),
    ),
    image='{split}/{area}/images_png/{id}.png',
    mask='{split}/{area}/masks_png/{id}.png',
    id='{split}/{area}/{id}',
    division=division.Field(of={'Train': 'train', 'Val': 'val'}),
    counts={'train': 2522, 'val': 1669},
  ),
)
