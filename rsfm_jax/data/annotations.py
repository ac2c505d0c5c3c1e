"""Files that say where objects are in an image.

Three forms of XML: PASCAL VOC's `bndbox`, DIOR-R's `robndbox` with its corners,
and FAIR1M's `points`. Boxes become rows as `boxes` has them.
"""

import dataclasses
from typing import Literal, get_args
from xml.etree import ElementTree

import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.data import boxes as boxes_lib
from rsfm_jax.data import sources

Form = Literal['bndbox', 'robndbox', 'points']
_SIDES = ('xmin', 'ymin', 'xmax', 'ymax')
_CORNERS = ('left_top', 'right_top', 'right_bottom', 'left_bottom')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotations:
  """What the files hold.

  Attributes:
    form: of the files.
    classes: names as the files have them, in the order of labels; capitals do
      not count.
    aliases: ((name in the files, class), ...), for other spellings.
  """

  form: Form
  classes: tuple[str, ...]
  aliases: tuple[tuple[str, str], ...] = ()

  def __post_init__(self):
    choices.check(self.form, get_args(Form), key='form of annotations')


def read(path: str, told: Annotations) -> np.ndarray:
  """Boxes f32[n, 6] of one image, see `boxes`.

  Args:
    path: of its file, or 'ARCHIVE.zip!MEMBER'.
    told: what the file holds.

  Raises:
    ValueError: damaged, or of a class that is not listed; names the file.
  """
  try:
    tree = ElementTree.fromstring(sources.read_bytes(path))
    rows = [_row(item, told) for item in tree.iter('object')]
  except (OSError, ElementTree.ParseError, TypeError, ValueError) as error:
    raise ValueError(f'{path}: {error}') from error
  if not rows:
    return np.zeros((0, len(boxes_lib.COLUMNS)), np.float32)
  return np.stack(rows)


def _row(item: ElementTree.Element, told: Annotations) -> np.ndarray:
  name = _text(item, 'name')
  label = _label(dict(told.aliases).get(name, name), told.classes)
  if told.form == 'bndbox':
    return boxes_lib.upright([float(_text(item, s)) for s in _SIDES], label)
  if told.form == 'robndbox':
    points = [
      [float(_text(item, f'{axis}_{corner}')) for axis in 'xy']
      for corner in _CORNERS
    ]
    return boxes_lib.row(points, label)
  # The first point comes again at the end.
  texts = [point.text.split(',') for point in item.iter('point')][:4]
  return boxes_lib.row([[float(x), float(y)] for x, y in texts], label)


def _text(item: ElementTree.Element, name: str) -> str:
  found = next(item.iter(name), None)
  if found is None or not found.text:
    raise ValueError(f'an object without {name}.')
  return found.text.strip()


def _label(name: str, classes: tuple[str, ...]) -> int:
  known = [one.casefold() for one in classes]
  if name.casefold() not in known:
    raise ValueError(
      f'an object is a {name!r}, none of {list(classes)}.'
      + choices.suggest(name, classes)
    )
  return known.index(name.casefold())
