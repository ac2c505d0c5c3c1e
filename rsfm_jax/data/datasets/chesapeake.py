"""Chesapeake land cover: NAIP and labels in one array of 29 channels.

The patches of github.com/calebrob6/land-cover: channels 0 to 3 and 4 to 7 are
NAIP of a newer and an older year, 8 the land cover, 9 NLCD, then Landsat 8.
"""

from rsfm_jax.data import masks
from rsfm_jax.data import readers
from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division

_BANDS = ('red', 'green', 'blue', 'nir')
_CLASSES = (
  'water',
  'tree canopy',
  'low vegetation',
  'barren',
  'impervious',
  'road',
)
# Nobody has divided the four patches: the two with most classes are apart.
_PATCHES = {
  split: tuple(f'wv_1m_2014-m_3708020_sw_17_1-{i}' for i in patches)
  for split, patches in (('train', (1, 3)), ('val', (2,)), ('test', (0,)))
}


def _of_year(name: str, skip: int, store_as: str) -> dataset.Dataset:
  return dataset.Dataset(
    name=name,
    source='README of the samples, chesapeake_naip_landsat_lc',
    recipe=recipe.Recipe(
      sensor='naip',
      store_as=store_as,
      layout=readers.Layout(
        bands=('',) * skip + _BANDS + ('',) * (25 - skip), axes='NCHW'
      ),
      licence='CC0 / public domain',
      mask=masks.Mask(
        name='landcover',
        classes=_CLASSES,
        values=(1, 2, 3, 4, 5, 6),
        ignore=(0, 15),
        axes='NCHW',
        channel=8,
      ),
    ),
    image='train/{id}.npz',
    mask='train/{id}.npz',
    id='{id}',
    division=division.Names(of=_PATCHES),
    counts={'train': 2, 'val': 1, 'test': 1},
  )


DATASETS = (
  _of_year('chesapeake', 0, 'opt'),
  _of_year('chesapeake_old', 4, 'opt'),
  _of_year('chesapeake_rgbn', 0, 'naip'),
)
