"""FAIR1M: oriented boxes of 37 classes of ships, vehicles, planes and places.

Sun et al., "FAIR1M" (10.1016/j.isprsjprs.2021.12.004). Layout and order of the
classes are those of torchgeo's `datasets/fair1m.py`. Images of 1,000 to 10,000
pixels are cut to chips of 512 pixels that overlap by 128 (DEFAULT: SkySense V2
tells the size alone); objects belong to the chips that hold their centre. What
is tested on is not published: 'val' are the images of the folder `validation`.
"""

from collections.abc import Mapping

from rsfm_jax.data import annotations
from rsfm_jax.data import pack
from rsfm_jax.data import recipe
from rsfm_jax.data import splits

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


def jobs(shared: str) -> Mapping[str, pack.Job]:
  """{store: job} of the folder that holds `train` and `validation`."""
  told = annotations.Annotations(
    form='points',
    classes=CLASSES,
    images=r'(train|validation)/((?:part\d/)?)images/(\w+)\.tif',
    beside=r'\1/\2labelXml/\3.xml',
    folders=(('train', 'train'), ('validation', 'val')),
  )
  made = recipe.Recipe(
    sensor='opt',
    chip=512,
    stride=384,
    max_nodata=0.99,
    split=splits.Policy(kind='table'),
    boxes=told,
  )
  return {'fair1m': pack.Job(source=shared, name='fair1m', recipe=made)}
