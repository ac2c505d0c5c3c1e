"""A published data set in a few lines: where its files lie and what they say.

A data set is a `recipe` for its images, templates of the paths of images,
later dates, masks and boxes (see `layout`), its classes, and how it is divided
(see `division`). Its scenes are listed without opening an image, and held
against what the publication says: number of scenes per split, labels within
the classes, every class there.
"""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import math
import pathlib
from typing import Any, Literal, NamedTuple

from rsfm_jax.core import choices
from rsfm_jax.data import recipe as recipes
from rsfm_jax.data import sources
from rsfm_jax.data import splits
from rsfm_jax.data.datasets import division as divisions
from rsfm_jax.data.datasets import layout

Extent = Literal['whole', 'part']
Task = Literal[
  'classes',
  'labels',
  'scalar',
  'segmentation',
  'change',
  'map',
  'boxes',
  'oriented_boxes',
  'none',
]


class Row(NamedTuple):
  """One of the scenes of a file that holds many."""

  label: Any = None
  split: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
  """What a data set is.

  Attributes:
    name: of `rsfm data pack --dataset`.
    source: where layout, classes and sizes are told.
    recipe: how an image becomes samples; what its mask or boxes hold.
    image: template of the images' paths.
    after: template of the images of the later date.
    mask: template of the masks, or a function that gives a mask's path.
    boxes: template of the files that say where objects are.
    id: template of the sample's id; by default the image's path.
    label: field of the image's path, or a function of the scene and the
      source that gives a class, names of several classes or a number.
    labels: 'one' class or 'several', or a 'number'.
    classes: names, in the order of labels; those of masks and boxes stand in
      the recipe.
    rows: for files that hold many scenes, label and split of each of them.
    dates: function that gives the dates of the frames of a scene.
    division: how scenes are divided.
    counts: published number of scenes per split; of a data set that is whole
      they must be right. {} where no publication was found.
    total: published number of scenes, where that of splits was not found.
  """

  name: str
  source: str
  recipe: recipes.Recipe
  image: str
  after: str = ''
  mask: str | Callable[[layout.Found, str], str] = ''
  boxes: str = ''
  id: str = ''
  label: str | Callable[[layout.Found, str], Any] = ''
  labels: Literal['one', 'several', 'number'] = 'one'
  classes: tuple[str, ...] = ()
  rows: Callable[[layout.Found], Iterable[Row]] | None = None
  dates: Callable[[layout.Found, str], Sequence[str]] | None = None
  division: divisions.Division = divisions.All()
  counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
  total: int = 0

  def __post_init__(self):
    for split in self.counts:
      choices.check(split, splits.NAMES, key=f'split of {self.name}')
    for what in ('mask', 'boxes'):
      path, told = getattr(self, what), getattr(self.recipe, what)
      if bool(path) != (told is not None):
        raise ValueError(
          f'{self.name}: {what}={path!r}, but recipe.{what}={told}.'
        )

  @property
  def task(self) -> Task:
    """What it is for, as `config.task.kind` says it."""
    if self.after:
      return 'change'
    if self.recipe.mask:
      return 'segmentation' if self.recipe.mask.classes else 'map'
    if self.recipe.boxes:
      upright = self.recipe.boxes.form == 'bndbox'
      return 'boxes' if upright else 'oriented_boxes'
    if not (self.label or self.rows):
      return 'none'
    kinds = {'one': 'classes', 'several': 'labels', 'number': 'scalar'}
    return kinds[self.labels]

  @property
  def names(self) -> tuple[str, ...]:
    """Of the classes, of labels, masks or boxes."""
    told = self.recipe.mask or self.recipe.boxes
    return told.classes if told else self.classes

  def scenes(
    self,
    source: str,
    *,
    extent: Extent = 'whole',
    table: str = '',
    divided: Literal['given', 'later'] = 'given',
  ) -> list[sources.Scene]:
    """Every scene of a copy of the data set, sorted by id.

    Args:
      source: folder or .zip.
      extent: 'part' does without the published numbers, and without classes
        that are not there.
      table: CSV of file, split and, if it has them, labels, that divides the
        scenes instead.
      divided: 'later' gives no split; the recipe draws them.

    Raises:
      ValueError: nothing there, a later date, a mask or boxes are missing, a
        label is no class, splits overlap, or the numbers are wrong.
    """
    choices.check(extent, ('whole', 'part'), key='extent')
    own = divided == 'given' and not table
    scenes = self._list(source, own)
    if table:
      scenes = sources.with_table(scenes, table)
    if extent == 'whole' and own:
      self._check_counts(scenes, source)
    self._check_labels(scenes, source, extent)
    return scenes

  def _list(self, source: str, own: bool) -> list[sources.Scene]:
    """Divided by the data set's `own` rule, or not at all."""
    suffixes = sources.SUFFIXES + (sources.ANNOTATIONS if self.boxes else ())
    files = list(sources.files(source, suffixes=suffixes))
    found = layout.match(files, self.image, self.recipe.source)
    if not found:
      raise ValueError(
        f'{source} holds no {self.image} of {self.name}, as {self.source} '
        f'has it, among {len(files)} files.'
      )
    parts = self.division(found, source) if own else [''] * len(found)
    beside = self._beside(found, files)
    scenes = []
    for one, split in zip(found, parts, strict=True):
      if split is not None:
        scene = self._scene(one, split or None, source, beside)
        scenes += self._rows(scene, one)
    if not scenes:
      raise ValueError(
        f'{source}: {self.name} divides none of its {len(found)} scenes, '
        f'e.g. {found[0].path}; give --table or --split random.'
      )
    twice = collections.Counter(scene.id for scene in scenes)
    if max(twice.values()) > 1:
      raise ValueError(
        f'{source}: several scenes are {max(twice, key=twice.get)}.'
      )
    return sorted(scenes, key=lambda scene: scene.id)

  def _beside(self, found, files) -> dict[str, dict]:
    """{template: what it finds by its fields}, of what lies beside images."""
    images = {path for one in found for _, path in one.files}
    others = [file for file in files if file[1] not in images]
    return {
      template: layout.by_fields(
        layout.match(
          files if template == self.image else others,
          template,
          self.recipe.source,
        )
      )
      for template in (self.after, self.mask, self.boxes)
      if template and isinstance(template, str)
    }

  def _scene(self, one, split, source, beside) -> sources.Scene:
    def partner(template):
      if callable(template):
        return layout.Found({}, (('', template(one, source)),), 0)
      if not template:
        return None
      return layout.partner(one, beside[template], template)

    after, mask, boxes = map(partner, (self.after, self.mask, self.boxes))
    label = self.label
    if label:
      label = (
        one.fields[label] if isinstance(label, str) else label(one, source)
      )
    dates = tuple(self.dates(one, source)) if self.dates else ()
    return sources.Scene(
      id=self._id(one),
      files=one.files,
      label=self._label(label, one.path) if label != '' else None,
      split=split,
      date=dates[0] if dates else sources.date_in(one.path),
      size=sum(part.size for part in (one, after, mask, boxes) if part),
      after=after.files if after else (),
      mask=mask.path if mask else '',
      boxes=boxes.path if boxes else '',
      dates=dates,
    )

  def _id(self, one: layout.Found) -> str:
    if self.id:
      return layout.fill(self.id, one.fields)
    path, band, _ = layout.fill(self.image, one.fields).partition('{')
    if not band:
      path = str(pathlib.PurePosixPath(path).with_suffix(''))
    return path.rstrip('/_.-')

  def _rows(self, scene: sources.Scene, one: layout.Found):
    """The scene, or those of its file."""
    if self.rows is None:
      return [scene]
    rows = list(self.rows(one))
    size = (scene.size or 0) // max(len(rows), 1)
    return [
      dataclasses.replace(
        scene,
        id=f'{scene.id}/{i:07d}',
        label=self._label(row.label, f'{one.path}: row {i}'),
        split=row.split or scene.split,
        size=size,
        frame=i,
      )
      for i, row in enumerate(rows)
    ]

  def _label(self, label: Any, where: str) -> str | tuple[int, ...] | float:
    """A class, bits or a number."""
    if self.labels == 'number':
      if not isinstance(label, int | float) or not math.isfinite(label):
        raise ValueError(f'{where} has the target {label}, no finite number.')
      return float(label)
    names = [label] if self.labels == 'one' else list(label)
    for name in names:
      if name not in self.classes:
        raise ValueError(
          f'{where} has the label {name!r}; the classes of {self.name} are '
          f'{list(self.classes)}.' + choices.suggest(str(name), self.classes)
        )
    if self.labels == 'one':
      return label
    return tuple(int(name in names) for name in self.classes)

  def _check_counts(self, scenes, source: str) -> None:
    have = collections.Counter(scene.split for scene in scenes)
    wrong = self.counts and have != collections.Counter(self.counts)
    if wrong or (self.total and self.total != len(scenes)):
      raise ValueError(
        f'{source} has {dict(have)} scenes of {self.name}, {self.source} '
        f'tells of {dict(self.counts) or self.total}; --part packs what is '
        'there.'
      )

  def _check_labels(self, scenes, source: str, extent: Extent) -> None:
    if self.labels != 'one' or not self.classes:
      return
    for scene in scenes:  # Those of a table too.
      self._label(scene.label, scene.path)
    empty = set(self.classes) - {scene.label for scene in scenes}
    if empty and extent == 'whole':
      raise ValueError(
        f'{source} has no scene of {sorted(empty)}, classes of {self.name}; '
        '--part packs what is there.'
      )
