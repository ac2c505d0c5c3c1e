"""Lists the scenes of a folder, a zip archive or a `tfds:NAME` data set.

Listing opens no scene: a scene is a set of paths and what their names and a
CSV say about them. A member of an archive is written 'ARCHIVE.zip!MEMBER'.
GeoTIFFs may lie in a bucket, gs:// or s3://, where rasterio reads them; nobody
lists a bucket, so their names come from the CSV.
"""

from collections.abc import Iterable, Mapping
import csv
import dataclasses
import fnmatch
import functools
import os
import pathlib
import re
import zipfile

from rsfm_jax.core import uris
from rsfm_jax.data import tfds_source
from rsfm_jax.sensors import contract

TIFF = ('.tif', '.tiff')
IMAGES = ('.jpg', '.jpeg', '.png')
ARRAYS = ('.npy', '.npz')
HDF5 = ('.h5', '.hdf5', '.nc')
SUFFIXES = TIFF + IMAGES + ARRAYS + HDF5
ANNOTATIONS = ('.xml',)
BUCKETS = ('gs', 's3')

_DATE = re.compile(r'(?<!\d)((?:19|20)\d{2})[-_]?([01]\d)[-_]?([0-3]\d)(?!\d)')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
  """One scene, unopened.

  Attributes:
    id: path within the source without its suffix; unique and stable.
    files: ((band, path), ...), or (('', path),) when one file holds all bands.
    label: class name, bits of several classes, a number, or None.
    split: given by a CSV or the data set, or None.
    date: 'YYYY-MM-DD' where the name or a CSV tells it.
    size: bytes of the files as stored, None when nobody knows.
    grid: a raster to whose grid a GeoTIFF is warped; '' for its own.
    boxes: a file that says where objects are.
    frame: of arrays that hold many scenes, this one along the first axis.
    after: like `files`, the same ground at a later date.
    mask: a file with the classes or numbers of the pixels.
    dates: of the frames, where they are one sample.
  """

  id: str
  files: tuple[tuple[str, str], ...]
  label: str | tuple[int, ...] | float | None = None
  split: str | None = None
  date: str | None = None
  size: int | None = 0
  grid: str = ''
  boxes: str = ''
  frame: int | None = None
  after: tuple[tuple[str, str], ...] = ()
  mask: str = ''
  dates: tuple[str, ...] = ()

  @property
  def path(self) -> str:
    """The first file, for messages."""
    return self.files[0][1]


def scenes(
  source: str,
  *,
  sensor: contract.Sensor,
  pattern: str = '*',
  label: str = 'none',
  table: str = '',
) -> list[Scene]:
  """All scenes of a source, sorted by id.

  Args:
    source: a folder, a .zip, one scene file, 'tfds:NAME[:SPLIT]', a GeoTIFF
      in a bucket, or a folder there whose GeoTIFFs the table names.
    sensor: contract of the files; its band names tell one-file-per-band
      scenes ('..._B04.tif') from whole ones.
    pattern: shell pattern that paths within the source must match; '*' also
      matches '/'.
    label: 'folder' takes the name of the folder of the file; 'none'.
    table: a CSV whose first column (or `file`) is a path within the source or
      a folder of it; `label`, `split` and `date` columns fill the scene.

  Raises:
    ValueError: nothing found, unreadable archive, or the CSV and the source
      do not list the same scenes.
  """
  if source.startswith('tfds:'):
    return [Scene(**fields) for fields in tfds_source.examples(source)]
  groups: dict[str, dict[str, tuple[str, int | None]]] = {}
  for inside, path, size in files(source, table):
    if not fnmatch.fnmatchcase(inside, pattern):
      continue
    stem, band = _stem_and_band(inside, sensor)
    group = groups.setdefault(stem, {})
    if band in group:
      raise ValueError(
        f'{path} and {group[band][0]} are both {band or "the file"} of scene '
        f'{stem}; narrow --pattern (now {pattern!r}).'
      )
    group[band] = (path, size)
  if not groups:
    raise ValueError(
      f'{source} holds no scene: no file ends in {", ".join(SUFFIXES)} and '
      f'matches --pattern {pattern!r}.'
    )
  found = [
    Scene(
      id=stem,
      files=tuple((band, path) for band, (path, _) in sorted(group.items())),
      label=pathlib.PurePath(stem).parent.name or None
      if label == 'folder'
      else None,
      date=date_in(stem),
      size=_total([size for _, size in group.values()]),
    )
    for stem, group in sorted(groups.items())
  ]
  return with_table(found, table) if table else found


def classes(source: str, found: Iterable[Scene]) -> list[str] | None:
  """Class names, sorted as labels count them, or None without labels."""
  if source.startswith('tfds:'):
    return tfds_source.classes(source)
  return sorted({s.label for s in found if s.label is not None}) or None


def read_bytes(path: str) -> bytes:
  """Content of a file or of an archive member.

  Raises:
    ValueError: the archive or the member is damaged.
  """
  archive, _, member = path.partition('!')
  if not member:
    return pathlib.Path(path).read_bytes()
  try:
    return _archive(archive).read(member)
  except (zipfile.BadZipFile, KeyError, OSError, EOFError) as error:
    raise ValueError(f'{path} is damaged: {error}') from error


def date_in(text: str) -> str | None:
  """The first date in a name: '..._20170617T...' -> '2017-06-17'."""
  for year, month, day in _DATE.findall(text):
    if 1 <= int(month) <= 12 and 1 <= int(day) <= 31:
      return f'{year}-{month}-{day}'
  return None


def band_tokens(sensor: contract.Sensor) -> dict[str, str]:
  """{lower-case token in a file name: name of the layer}.

  'b4' and 'b04' both mean B04. Complex bands come as one file per
  polarisation, so there the polarisations are the layers.
  """
  if sensor.kind == contract.Kind.SAR_COMPLEX:
    return {b.polarisation.lower(): b.polarisation for b in sensor.bands}
  tokens = {}
  for name in sensor.band_names:
    tokens[name.lower()] = name
    if short := re.fullmatch(r'([A-Za-z])0?(\d+[A-Za-z]?)', name):
      letter, number = short.groups()
      tokens[f'{letter}{number}'.lower()] = name
      tokens[f'{letter}{number:0>2}'.lower()] = name
  return tokens


def _stem_and_band(inside: str, sensor: contract.Sensor) -> tuple[str, str]:
  """'a/x_B04.tif' -> ('a/x', 'B04'); 'a/B04.tif' -> ('a', 'B04')."""
  path = pathlib.PurePosixPath(inside)
  stem = str(path.with_suffix(''))
  if path.suffix.lower() not in TIFF or len(sensor.bands) < 2:
    return stem, ''
  head, separator, last = re.fullmatch(
    r'(.*?)([/_.-]?)([^/_.-]*)', stem
  ).groups()
  band = band_tokens(sensor).get(last.lower(), '')
  if not band or not (separator or not head):
    return stem, ''
  return head or '.', band


def _total(sizes: Iterable[int | None]) -> int | None:
  sizes = list(sizes)
  return None if None in sizes else sum(sizes)


def files(
  source: str, table: str = '', *, suffixes: tuple[str, ...] = SUFFIXES
) -> Iterable[tuple[str, str, int | None]]:
  """(path within the source, path to open, bytes) of every scene file.

  Args:
    source: see `scenes`.
    table: names the files of a bucket.
    suffixes: of the files of a folder or .zip.

  Raises:
    ValueError: no folder, archive or scene file, or a bucket without a table.
  """
  if uris.scheme(source) != 'local':
    yield from _files_in_bucket(uris.whole(source), table)
    return
  # A worker may run in another folder than the client.
  source = os.path.abspath(source)
  root = pathlib.Path(source)
  if root.is_dir():
    for path in sorted(root.rglob('*')):
      if path.suffix.lower() in suffixes and path.is_file():
        inside = path.relative_to(root).as_posix()
        yield inside, str(path), path.stat().st_size
  elif root.suffix.lower() == '.zip' and root.is_file():
    for info in _archive(source).infolist():
      if pathlib.PurePath(info.filename).suffix.lower() in suffixes:
        yield info.filename, f'{source}!{info.filename}', info.file_size
  elif root.suffix.lower() in SUFFIXES and root.is_file():
    yield root.name, str(root), root.stat().st_size
  else:
    raise ValueError(
      f'{source} is no folder, .zip, scene file or tfds:NAME; scene files '
      f'end in {", ".join(SUFFIXES)}.'
    )


def _files_in_bucket(source: str, table: str):
  """Scenes that rasterio reads where they are, of unknown size."""
  name = source.rpartition('/')[2]
  if _is_tiff(name):
    names = {name: source}
  elif table and not pathlib.PurePath(name).suffix:
    names = {key: f'{source.rstrip("/")}/{key}' for key in _read_table(table)}
  else:
    raise ValueError(
      f'{source} is not a GeoTIFF, and nobody lists a bucket: name its '
      'GeoTIFFs in the first column of --table, or mount it.'
    )
  for inside, path in names.items():
    if uris.scheme(path) not in BUCKETS:
      uris.local(path, what='a scene', by='any reader', access='read')
    if not _is_tiff(inside):
      uris.local(
        path, what='a scene that is no GeoTIFF', by='its reader', access='read'
      )
    yield inside, path, None


def _is_tiff(path: str) -> bool:
  return pathlib.PurePath(path).suffix.lower() in TIFF


# One handle for all threads (zipfile locks its reads): parsing the directory
# of an archive of thousands of members costs more than reading a member.
@functools.lru_cache(maxsize=4)
def _archive(path: str) -> zipfile.ZipFile:
  try:
    return zipfile.ZipFile(path)
  except (zipfile.BadZipFile, OSError) as error:
    raise ValueError(f'{path} is not a readable zip: {error}') from error


def with_table(found: list[Scene], table: str) -> list[Scene]:
  """Fills label, split and date from a CSV.

  Raises:
    ValueError: the CSV and the scenes do not list the same.
  """
  rows = _read_table(table)
  used = set()
  filled = []
  unlisted = []
  for scene in found:
    key, row = _row_of(scene, rows)
    if row is None:
      unlisted.append(scene.id)
      continue
    used.add(key)
    folder = pathlib.PurePath(scene.id).name
    date = row.get('date') or row.get(folder)  # E.g. OSCD: date1, date2.
    filled.append(
      dataclasses.replace(
        scene,
        label=row.get('label') or scene.label,
        split=row.get('split') or scene.split,
        date=date_in(date or '') or scene.date,
      )
    )
  for what, names in (
    ('not listed in it', unlisted),
    ('listed but not found', sorted(set(rows) - used)),
  ):
    if names:
      raise ValueError(
        f'{table}: {len(names)} scenes are {what}, e.g. {names[:3]}.'
      )
  return filled


def _read_table(table: str) -> Mapping[str, dict[str, str]]:
  path = uris.local(table, what='a table', by='its reader', access='read')
  try:
    with open(path, newline='') as file:
      rows = list(csv.DictReader(file))
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise ValueError(f'{table} is not readable as CSV: {error}') from error
  if not rows or 'split' not in rows[0]:
    columns = list(rows[0]) if rows else []
    raise ValueError(f'{table} needs a column split; it has {columns}.')
  key = 'file' if 'file' in rows[0] else next(iter(rows[0]))
  return {row[key]: row for row in rows}


def _row_of(scene: Scene, rows: Mapping[str, dict[str, str]]):
  """The row of the scene's file, or of a folder that holds it."""
  id_ = pathlib.PurePosixPath(scene.id)
  suffix = pathlib.PurePath(scene.path.rpartition('!')[2]).suffix
  for key in (f'{id_}{suffix}', str(id_), *map(str, id_.parents)):
    if key in rows:
      return key, rows[key]
  return None, None
