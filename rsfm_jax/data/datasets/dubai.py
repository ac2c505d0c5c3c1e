"""Dubai land cover: satellite RGB with masks in colour, by scene tile."""

from rsfm_jax.data import masks
from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division

_COLOURS = {
  'building': (60, 16, 152),
  'land': (132, 41, 246),
  'road': (110, 193, 228),
  'vegetation': (254, 221, 58),
  'water': (226, 169, 41),
}
_TILES = {'train': '1245', 'val': '7', 'test': '8'}

# Colours and the tiles of the splits as in the README of the samples, which
# are 17 of the images.
DATASETS = (
  dataset.Dataset(
    name='dubai',
    source='README of the samples, dubai_landcover_seg',
    recipe=recipe.Recipe(
      sensor='rgb_aerial',
      store_as='opt',
      licence='MBRSC open access (unverified: CC0)',
      mask=masks.Mask(
        classes=tuple(_COLOURS),
        values=tuple(_COLOURS.values()),
        # Three masks have black pixels that no legend names.
        ignore=((155, 155, 155), (0, 0, 0)),
      ),
    ),
    image='images/tile{tile}_image_part_{part}.jpg',
    mask='masks/tile{tile}_image_part_{part}.png',
    id='tile{tile}_{part}',
    division=division.Names(field='tile', of=_TILES),
    counts={'train': 12, 'val': 3, 'test': 2},
  ),
)
