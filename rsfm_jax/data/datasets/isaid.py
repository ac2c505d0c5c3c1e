"""iSAID: 15 classes of objects and the background, on the images of DOTA.

Images are of many sizes, the smallest below a usual crop; --chip larger than
that goes with --on_bad skip. The test split has no masks; the sizes of the
splits are not held here.
"""

from rsfm_jax.data import masks
from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division

_COLOURS = {
  'background': (0, 0, 0),
  'ship': (0, 0, 63),
  'storage tank': (0, 63, 63),
  'baseball diamond': (0, 63, 0),
  'tennis court': (0, 63, 127),
  'basketball court': (0, 63, 191),
  'ground track field': (0, 63, 255),
  'bridge': (0, 127, 63),
  'large vehicle': (0, 127, 127),
  'small vehicle': (0, 0, 127),
  'helicopter': (0, 0, 191),
  'swimming pool': (0, 0, 255),
  'roundabout': (0, 191, 127),
  'soccer ball field': (0, 127, 191),
  'plane': (0, 127, 255),
  'harbor': (0, 100, 155),
}

DATASETS = (
  dataset.Dataset(
    name='isaid',
    source='mmdetection, mmdet/datasets/isaid.py',
    recipe=recipe.Recipe(
      sensor='rgb_aerial',
      store_as='opt',
      chip=256,
      mask=masks.Mask(classes=tuple(_COLOURS), values=tuple(_COLOURS.values())),
    ),
    image='{split}/images/images/{id}.png',
    mask='{split}/Semantic_masks/images/{id}_instance_color_RGB.png',
    id='{split}/{id}',
    division=division.Field(of={'train': 'train', 'val': 'val'}),
  ),
)
