"""FAIR1M: oriented boxes of 37 classes of ships, vehicles, planes and places.

Sun et al., "FAIR1M" (10.1016/j.isprsjprs.2021.12.004). Layout and order of the
classes are those of torchgeo's `datasets/fair1m.py`. Images of 1,000 to 10,000
pixels are cut to chips of 512 pixels that overlap by 128 (DEFAULT: SkySense V2
tells the size alone); objects belong to the chips that hold their centre. What
is tested on is not published: 'val' are the images of the folder `validation`.
"""

from rsfm_jax.data import annotations
from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division

CLASSES = (
  'Passenger Ship',
  'Motorboat',
  'Fishing Boat',
  'Tugboat',
  'other-ship',
  'Engineering Ship',
  'Liquid Cargo Ship',
  'Dry Cargo Ship',
  'Warship',
  'Small Car',
  'Bus',
  'Cargo Truck',
  'Dump Truck',
  'other-vehicle',
  'Van',
  'Trailer',
  'Tractor',
  'Excavator',
  'Truck Tractor',
  'Boeing737',
  'Boeing747',
  'Boeing777',
  'Boeing787',
  'ARJ21',
  'C919',
  'A220',
  'A321',
  'A330',
  'A350',
  'other-airplane',
  'Baseball Field',
  'Basketball Court',
  'Football Field',
  'Tennis Court',
  'Roundabout',
  'Intersection',
  'Bridge',
)

DATASETS = (
  dataset.Dataset(
    name='fair1m',
    source='torchgeo, datasets/fair1m.py; 10.1016/j.isprsjprs.2021.12.004',
    recipe=recipe.Recipe(
      sensor='opt',
      chip=512,
      stride=384,
      max_nodata=0.99,  # Black is a colour.
      boxes=annotations.Annotations(form='points', classes=CLASSES),
    ),
    image='{folder}/images/{id}.tif',
    boxes='{folder}/labelXml/{id}.xml',
    id='{folder}/{id}',
    division=division.Field(
      name='folder',
      of={'part1': 'train', 'part2': 'train', 'validation': 'val'},
    ),
  ),
)
