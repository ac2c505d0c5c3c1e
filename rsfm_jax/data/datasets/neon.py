"""NEON Teakettle: RGB of 0.1 m; height of the canopy in metres, of 1 m."""

from rsfm_jax.data import masks
from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division

DATASETS = (
  dataset.Dataset(
    name='neon_height',
    source='README of the samples, neon_teak_rgb_boxes_chm',
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
)
