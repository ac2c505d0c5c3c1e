"""DIOR and DIOR-R: 20 classes of objects in 23,463 images of 800 pixels.

Li et al., "Object detection in optical remote sensing images" (arXiv
1909.00133), and oriented boxes of the same objects (Cheng et al., "Anchor-free
oriented proposal generator", arXiv 2110.01931). Layout and order of the classes
are those of mmrotate's `datasets/dior.py`.
"""

from rsfm_jax.data import annotations
from rsfm_jax.data import recipe
from rsfm_jax.data import splits
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division

CLASSES = tuple(
  'airplane airport baseballfield basketballcourt bridge chimney '
  'expressway-service-area expressway-toll-station dam golffield '
  'groundtrackfield harbor overpass ship stadium storagetank tenniscourt '
  'trainstation vehicle windmill'.split()
)


def _dataset(
  name: str, source: str, kind: str, form: annotations.Form
) -> dataset.Dataset:
  return dataset.Dataset(
    name=name,
    source=f'{source}; mmrotate, datasets/dior.py',
    recipe=recipe.Recipe(
      sensor='opt',
      max_nodata=0.99,  # Black is a colour.
      boxes=annotations.Annotations(form=form, classes=CLASSES),
    ),
    image='JPEGImages-{part}/{id}.jpg',
    boxes=f'Annotations/{kind} Bounding Boxes/{{id}}.xml',
    id='{id}',
    division=division.Lists(
      files={s: f'ImageSets/Main/{s}.txt' for s in splits.NAMES}
    ),
    counts={'train': 5862, 'val': 5863, 'test': 11738},
  )


DATASETS = (
  _dataset('dior', 'arXiv 1909.00133', 'Horizontal', 'bndbox'),
  _dataset('dior_r', 'arXiv 2110.01931', 'Oriented', 'robndbox'),
)
