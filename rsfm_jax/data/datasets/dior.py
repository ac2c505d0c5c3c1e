"""DIOR and DIOR-R: 20 classes of objects in 23,463 images of 800 pixels.

Li et al., "Object detection in optical remote sensing images" (arXiv
1909.00133), and oriented boxes of the same objects (Cheng et al., "Anchor-free
oriented proposal generator", arXiv 2110.01931). Layout and order of the classes
are those of mmrotate's `datasets/dior.py`.
"""

from collections.abc import Mapping

from rsfm_jax.data import annotations
from rsfm_jax.data import pack
from rsfm_jax.data import recipe
from rsfm_jax.data import splits

CLASSES = tuple(
  'airplane airport baseballfield basketballcourt bridge chimney '
  'expressway-service-area expressway-toll-station dam golffield '
  'groundtrackfield harbor overpass ship stadium storagetank tenniscourt '
  'trainstation vehicle windmill'.split()
)


def _job(source: str, name: str, form: annotations.Form) -> pack.Job:
  kind = 'Horizontal' if form == 'bndbox' else 'Oriented'
  return pack.Job(
    source=source,
    name=name,
    recipe=recipe.Recipe(
      sensor='opt',
      split=splits.Policy(kind='table'),
      max_nodata=0.99,  # Black is a colour.
      boxes=annotations.Annotations(
        form=form,
        classes=CLASSES,
        images=r'JPEGImages-(?:trainval|test)/(\w+)\.jpg',
        beside=rf'Annotations/{kind} Bounding Boxes/\1.xml',
        lists=tuple(
          (s, f'ImageSets/Main/{s}.txt') for s in ('train', 'val', 'test')
        ),
      ),
    ),
  )


def jobs(shared: str) -> Mapping[str, pack.Job]:
  """{store: job} of the folder that holds `JPEGImages-trainval`."""
  return {
    'dior': _job(shared, 'dior', 'bndbox'),
    'dior_r': _job(shared, 'dior_r', 'robndbox'),
  }
