"""Tiny copies of data sets of boxes, and the three forms of their files.

Paths are written out here and not made from the templates under test.
"""

import numpy as np

from rsfm_jax.data.synthetic import objects
from tests.data.datasets import copies

BOX = np.array([[30, 20, 16, 8, 0.5, 0]], np.float32)
POINTS = objects.corners(BOX)[0]


def write(path, *inner, above=('', '')):
  found = ''.join(f'<object>{item}</object>' for item in inner)
  copies.text(path, f'<annotation>{above[0]}{found}{above[1]}</annotation>')


def bndbox(name, low, high):
  sides = dict(zip(('xmin', 'ymin', 'xmax', 'ymax'), (*low, *high)))
  inner = ''.join(f'<{k}>{v}</{k}>' for k, v in sides.items())
  return f'<name>{name}</name><difficult>0</difficult><bndbox>{inner}</bndbox>'


def robndbox(name, points):
  corners = ('left_top', 'right_top', 'right_bottom', 'left_bottom')
  inner = ''.join(
    f'<{axis}_{corner}>{value}</{axis}_{corner}>'
    for corner, point in zip(corners, points)
    for axis, value in zip('xy', point)
  )
  return f'<name>{name}</name><robndbox>{inner}</robndbox><angle>9</angle>'


def points_of(name, points):
  closed = [*points, points[0]]
  inner = ''.join(f'<point>{x:.6f},{y:.6f}</point>' for x, y in closed)
  return (
    f'<coordinate>pixel</coordinate><possibleresult><name>{name}</name>'
    f'</possibleresult><points>{inner}</points>'
  )


def dior(root):
  """Of both kinds of boxes, as DIOR-R's archive has them too."""
  for split, number in (('train', 1), ('val', 2), ('test', 11726)):
    name, part = f'{number:05d}', 'test' if split == 'test' else 'trainval'
    copies.picture(root / f'DIOR/JPEGImages-{part}/{name}.jpg', 64)
    folder = root / 'DIOR/Annotations'
    write(
      folder / f'Horizontal Bounding Boxes/{name}.xml',
      bndbox('ship', (10, 20), (30, 26)),
      bndbox('Expressway-Service-area', (1, 2), (5, 12)),
    )
    write(
      folder / f'Oriented Bounding Boxes/{name}.xml', robndbox('ship', POINTS)
    )
    copies.text(root / f'DIOR/ImageSets/Main/{split}.txt', name)


def fair1m(root):
  far = POINTS + [600, 0]  # In the second and third of the columns' chips.
  for folder in ('train/part1', 'train/part2', 'validation'):
    copies.picture(root / f'FAIR1M/{folder}/images/7.tif', 900)
    write(
      root / f'FAIR1M/{folder}/labelXml/7.xml',
      points_of('Boeing737', POINTS),
      points_of('other-ship', far),
      above=(
        '<source><filename>7.tif</filename></source><objects>',
        '</objects>',
      ),
    )
  # What is tested on has no annotations.
  copies.picture(root / 'FAIR1M/test/images/7.tif')
