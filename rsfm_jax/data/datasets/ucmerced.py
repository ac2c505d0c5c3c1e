"""UC Merced Land Use: 21 classes of 100 aerial images, 0.3 m.

Divided by the lists of arXiv 1911.06721, whose sizes are not held here. Some
images have fewer than 256 pixels: one size for all, from the centre.
"""

from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division

_CLASSES = tuple(
  'agricultural airplane baseballdiamond beach buildings chaparral '
  'denseresidential forest freeway golfcourse harbor intersection '
  'mediumresidential mobilehomepark overpass parkinglot river runway '
  'sparseresidential storagetanks tenniscourt'.split()
)


def _of(name: str, image: str) -> dataset.Dataset:
  return dataset.Dataset(
    name=name,
    source='torchgeo, datasets/ucmerced.py',
    recipe=recipe.Recipe(
      sensor='opt', chip=240, cut='centre', licence='public domain'
    ),
    image=image,
    label='label',
    classes=_CLASSES,
    division=division.Lists(
      files={s: f'uc_merced-{s}.txt' for s in ('train', 'val', 'test')},
      where='huggingface.co/datasets/torchgeo/ucmerced',
    ),
    total=2100,
  )


DATASETS = (
  _of('ucmerced', '{label}/{id}.tif'),
  _of('ucmerced_jpg', '{label}/{id}.jpg'),  # A copy that goes round.
)
