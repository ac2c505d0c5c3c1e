"""NEON Teakettle: RGB of 0.1 m with crowns of trees and height of the canopy.

Twelve images of 40 m; the crowns are DeepForest's, the height is in metres, of
1 m.
"""

from rsfm_jax.data import annotations
from rsfm_jax.data import masks
from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division

_SOURCE = 'README of the samples, neon_teak_rgb_boxes_chm'

DATASETS = (
  dataset.Dataset(
    name='neon_height',
    source=_SOURCE,
    recipe=recipe.Recipe(
      sensor='rgb_aerial',
      store_as='opt',
      licence='MIT / NEON open',
      mask=masks.Mask(name='height', form='numbers', repeat=10),
    ),
    image='rgb/{plot}.tif',
    mask='chm_1m/{plot}.tif',
    id='{plot}',
    division=division.Table(field='plot'),
    counts={'train': 9, 'test': 3},
  ),
  dataset.Dataset(
    name='neon_trees',
    source=_SOURCE,
    recipe=recipe.Recipe(
      sensor='opt',
      licence='MIT',
      boxes=annotations.Annotations(
        form='bndbox',
        classes=('Tree',),
        aliases=(('Tree\\', 'Tree'),),
      ),
    ),
    image='rgb/{plot}.tif',
    boxes='boxes_voc/{plot}.xml',
    id='{plot}',
    division=division.Table(field='plot'),
    counts={'train': 9, 'test': 3},
  ),
)
