"""How a published data set says which scene is in which split."""

from collections.abc import Callable, Mapping, Sequence
import csv
import dataclasses
import io
import pathlib
import zipfile

from rsfm_jax.data import sources
from rsfm_jax.data import splits
from rsfm_jax.data.datasets import layout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
  """By a field of the path.

  Attributes:
    name: of the field.
    of: {what it is there: split}; anything else is left out.
  """

  name: str = 'split'
  of: Mapping[str, str]

  def __call__(
    self, found: Sequence[layout.Found], source: str
  ) -> list[str | None]:
    del source
    return [self.of.get(one.fields[self.name]) for one in found]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lists:
  """By lists of names, one a line, in files beside the images.

  Attributes:
    files: {split: name of its file}.
    key: template of a name in a list; suffixes do not count.
    columns: of a line, separated by commas; numbers, or names where the first
      line names them. Several are joined by '_'.
    where: they are published.
  """

  files: Mapping[str, str]
  key: str = '{id}'
  columns: tuple[int, ...] | tuple[str, ...] = (0,)
  where: str = ''

  def __call__(
    self, found: Sequence[layout.Found], source: str
  ) -> list[str | None]:
    told: dict[str, str] = {}
    for split, name in self.files.items():
      for key in self._keys(read_text(source, name, hint=self.where), name):
        if told.setdefault(key, split) != split:
          raise ValueError(
            f'{source}: {key} is in {self.files[told[key]]} and in {name}; '
            'splits must not overlap.'
          )
    names = [_stem(layout.fill(self.key, one.fields)) for one in found]
    return [told.get(name) for name in names]

  def _keys(self, text: str, name: str) -> list[str]:
    rows = [row for row in csv.reader(io.StringIO(text)) if any(row)]
    columns = self.columns
    if rows and isinstance(columns[0], str):
      header, *rows = rows
      missing = set(columns) - set(header)
      if missing:
        raise ValueError(f'{name} has no columns {missing} among {header}.')
      columns = tuple(map(header.index, columns))
    short = [row for row in rows if len(row) <= max(columns)]
    if short:
      raise ValueError(
        f'{name} has the line {short[0]}; {max(columns) + 1} columns are '
        'needed.'
      )
    return ['_'.join(_stem(row[i]) for i in columns) for row in rows]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Names:
  """By names that the publication lists.

  Attributes:
    of: {split: values of the field}.
    field: of the path.
  """

  of: Mapping[str, Sequence[str]]
  field: str = 'id'

  def __post_init__(self):
    every = [name for names in self.of.values() for name in names]
    twice = sorted({name for name in every if every.count(name) > 1})
    if twice:
      raise ValueError(f'{twice} are in several of the splits {list(self.of)}.')

  def __call__(
    self, found: Sequence[layout.Found], source: str
  ) -> list[str | None]:
    del source
    told = {name: split for split, names in self.of.items() for name in names}
    return [told.get(one.fields[self.field]) for one in found]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """By a CSV with columns `split` and, the first one, of a field."""

  file: str = 'splits.csv'
  field: str = 'id'

  def __call__(
    self, found: Sequence[layout.Found], source: str
  ) -> list[str | None]:
    rows = list(csv.DictReader(io.StringIO(read_text(source, self.file))))
    if not rows or 'split' not in rows[0]:
      raise ValueError(f'{source}/{self.file} needs a column split.')
    first = next(iter(rows[0]))
    told: dict[str, str] = {}
    for row in rows:
      if told.setdefault(_stem(row[first]), row['split']) != row['split']:
        raise ValueError(
          f'{source}/{self.file}: {row[first]} is in two splits, '
          f'{told[_stem(row[first])]} and {row["split"]}.'
        )
    return [told.get(one.fields[self.field]) for one in found]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
  """At random by name, where nothing is published."""

  policy: splits.Policy = splits.Policy(kind='random')

  def __call__(
    self, found: Sequence[layout.Found], source: str
  ) -> list[str | None]:
    del source
    return [
      splits.assign(self.policy, scene='/'.join(one.fields.values()))
      for one in found
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class All:
  """Everything is in one split."""

  split: str = 'train'

  def __call__(
    self, found: Sequence[layout.Found], source: str
  ) -> list[str | None]:
    del source
    return [self.split] * len(found)


# A split, or None to leave it out, for every scene of a source.
Division = Callable[[Sequence[layout.Found], str], Sequence[str | None]]


def read_text(source: str, name: str, *, hint: str = '') -> str:
  """A text file at the root of a folder or zip, beside it, or deeper.

  Raises:
    ValueError: it is nowhere there, or in several places.
  """
  root = pathlib.Path(source)
  if root.is_file():
    with zipfile.ZipFile(root) as archive:
      inside = [n for n in archive.namelist() if f'/{n}'.endswith(f'/{name}')]
      if len(inside) == 1:
        return sources.read_bytes(f'{root}!{inside[0]}').decode()
    places = [root.parent / name]
  else:
    places = [root / name, root.parent / name]
    if not any(place.is_file() for place in places):
      places = sorted(root.rglob(name))
  places = [place for place in places if place.is_file()]
  if not places:
    raise ValueError(
      f'{source} needs the file {name}'
      + (f', published at {hint}' if hint else '')
      + '; or give --table, or --split random.'
    )
  if len(places) > 1 and places[0].parent != root:
    raise ValueError(f'{source} has several {name}: {places[:3]}.')
  return places[0].read_text()


def _stem(name: str) -> str:
  """A name without folders above and suffixes of images behind it."""
  path = pathlib.PurePosixPath(name.strip())
  if path.suffix.lower() in sources.SUFFIXES:
    path = path.with_suffix('')
  return path.name
