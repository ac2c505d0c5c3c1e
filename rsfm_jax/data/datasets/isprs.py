"""ISPRS Potsdam and Vaihingen: six urban classes, 5 and 9 cm.

The split is that of the contest; it has no validation part.
"""

from rsfm_jax.data import masks
from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division

_MASK = masks.Mask(
  classes=(
    'impervious surfaces',
    'building',
    'low vegetation',
    'tree',
    'car',
    'clutter',
  ),
  values=(
    (255, 255, 255),
    (0, 0, 255),
    (0, 255, 255),
    (0, 255, 0),
    (255, 255, 0),
    (255, 0, 0),
  ),
)
_POTSDAM = {
  'train': '2_10 2_11 2_12 3_10 3_11 3_12 4_10 4_11 4_12 5_10 5_11 5_12 6_7 '
  '6_8 6_9 6_10 6_11 6_12 7_7 7_8 7_9 7_10 7_11 7_12',
  'test': '2_13 2_14 3_13 3_14 4_13 4_14 4_15 5_13 5_14 5_15 6_13 6_14 6_15 '
  '7_13',
}
_VAIHINGEN = {
  'train': '1 3 5 7 11 13 15 17 21 23 26 28 30 32 34 37',
  'test': '2 4 6 8 10 12 14 16 20 22 24 27 29 31 33 35 38',
}


def _names(of: dict[str, str]) -> division.Names:
  return division.Names(
    of={split: names.split() for split, names in of.items()}
  )


DATASETS = (
  dataset.Dataset(
    name='potsdam',
    source='torchgeo, datasets/potsdam.py',
    recipe=recipe.Recipe(  # --store_as naip keeps the near infrared.
      sensor='naip', store_as='opt', chip=512, mask=_MASK
    ),
    image='top_potsdam_{id}_RGBIR.tif',
    mask='top_potsdam_{id}_label.tif',
    id='{id}',
    division=_names(_POTSDAM),
    counts={'train': 24, 'test': 14},
  ),
  dataset.Dataset(
    name='vaihingen',
    source='torchgeo, datasets/vaihingen.py',
    recipe=recipe.Recipe(sensor='irrg_aerial', chip=512, mask=_MASK),
    image='top/top_mosaic_09cm_area{id}.tif',
    mask='top_mosaic_09cm_area{id}.tif',
    id='area{id}',
    division=_names(_VAIHINGEN),
    counts={'train': 16, 'test': 17},
  ),
)
