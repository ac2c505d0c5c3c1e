"""Files that say where objects are in an image, and lists of such images.

Three forms of XML: PASCAL VOC's `bndbox`, DIOR-R's `robndbox` with its corners,
and FAIR1M's `points`. Boxes become rows as `boxes` has them.
"""

import dataclasses
import pathlib
import re
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
  """Where images and what is told of them lie in a source.

  Attributes:
    form: of the files.
    classes: names as the files have them, in the order of labels; capitals do
      not count.
    aliases: ((name in the files, class), ...), for other spellings.
    images: regular expression of the path of an image within the source; its
      groups, joined by '/', are the sample's id.
    beside: path of its annotations, '\\1' standing for the first group.
    lists: ((split, path of a list of ids), ...); images in none are left out.
    folders: ((first group, split), ...), where folders divide the images.
  """

  form: Form
  classes: tuple[str, ...]
  aliases: tuple[tuple[str, str], ...] = ()
  images: str
  beside: str
  lists: tuple[tuple[str, str], ...] = ()
  folders: tuple[tuple[str, str], ...] = ()

  def __post_init__(self):
    choices.check(self.form, get_args(Form), key='form of annotations')


def scenes(
  source: str, told: Annotations, *, table: str = ''
) -> list[sources.Scene]:
  """The annotated images of a folder, sorted by id.

  Args:
    source: the folder; `beside` and `lists` are relative to it.
    told: see there.
    table: CSV that divides the images, see `sources.scenes`.

  Raises:
    ValueError: no image, no annotations beside one, or a list that is missing
      or names what is not there.
  """
  root, pattern = pathlib.Path(source).absolute(), re.compile(told.images)
  if not root.is_dir():
    raise ValueError(f'{source} is no folder.')
  splits = _lists(root, told)
  found = []
  for path in sorted(root.rglob('*')):
    match = pattern.fullmatch(path.relative_to(root).as_posix())
    if not match:
      continue
    name = '/'.join(part.strip('/') for part in match.groups() if part)
    split = dict(told.folders).get(match[1])
    if told.lists:
      if name not in splits:
        continue
      split = splits.pop(name)
    beside = root / match.expand(told.beside)
    if not beside.is_file():
      raise ValueError(f'{path} has no annotations {beside}.')
    found.append(
      sources.Scene(
        id=name,
        files=(('', str(path)),),
        split=split,
        size=path.stat().st_size,
        boxes=str(beside),
      )
    )
  if not found:
    raise ValueError(f'{source} holds no image like {told.images}.')
  if splits:
    raise ValueError(
      f'{source} lacks {len(splits)} images of its lists, e.g. '
      f'{sorted(splits)[:3]}.'
    )
  found = sorted(found, key=lambda scene: scene.id)
  return sources.with_table(found, table) if table else found


def _lists(root: pathlib.Path, told: Annotations) -> dict[str, str]:
  """{id: split}."""
  out: dict[str, str] = {}
  for split, name in told.lists:
    path = root / name
    if not path.is_file():
      raise ValueError(f'{path}, the list of split {split!r}, is not there.')
    for line in path.read_text().split():
      if out.setdefault(line, split) != split:
        raise ValueError(f'{path}: {line} is in the split {out[line]!r} too.')
  return out


def read(path: str, told: Annotations) -> np.ndarray:
  """Boxes f32[n, 6] of one image, see `boxes`.

  Raises:
    ValueError: damaged, or of a class that is not listed; names the file.
  """
  try:
    tree = ElementTree.fromstring(pathlib.Path(path).read_bytes())
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
