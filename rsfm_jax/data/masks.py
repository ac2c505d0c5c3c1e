"""Files that say what every pixel of an image is: codes of classes, or numbers.

Codes become uint8 with 255 where nobody said, numbers float32 with NaN there,
which is what `labelled` reads. A value that a mask does not list is an error:
a class that is silently unlabelled is found by nobody.
"""

from collections.abc import Sequence
import dataclasses
import io
import pathlib
from typing import Literal, get_args

import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.data import arrays
from rsfm_jax.data import geotiff
from rsfm_jax.data import images
from rsfm_jax.data import sources
from rsfm_jax.data import tile_cut

Colour = tuple[int, int, int]
Form = Literal['values', 'one_hot', 'numbers']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask:
  """How a file tells classes or numbers, pixel by pixel.

  Attributes:
    name: of the array in the store.
    form: 'values', each of a class; 'one_hot', a channel that is not zero for
      every class; or 'numbers'.
    classes: names in the order of their codes; () of numbers.
    values: in the file of every class, integers or RGB colours; by default 0,
      1, ...
    ignore: values in the file of pixels that nobody has labelled. Of numbers,
      NaN and the file's own nodata are such too.
    key: array of an NPZ or HDF5 file.
    axes: see `readers.Layout`.
    channel: which one of several channels of an array holds the values.
    repeat: along both axes; a coarser mask is repeat x repeat pixels a value.
  """

  name: str = 'mask'
  form: Form = 'values'
  classes: tuple[str, ...] = ()
  values: tuple[int | Colour, ...] = ()
  ignore: tuple[int | Colour, ...] = ()
  key: str = ''
  axes: str = ''
  channel: int | None = None
  repeat: int = 1

  def __post_init__(self):
    choices.check(self.form, get_args(Form), key='form of a mask')
    if (self.form == 'numbers') == bool(self.classes):
      raise ValueError(
        f'a mask of {self.form} goes with {len(self.classes)} classes.'
      )
    if len(self.classes) > tile_cut.UNLABELLED:
      raise ValueError(
        f'{len(self.classes)} classes: {tile_cut.UNLABELLED} is unlabelled.'
      )
    known = (*self.coded, *self.ignore)
    if len(set(known)) < len(known) or len({*map(type, known)}) > 1:
      raise ValueError(
        f'values of a mask must be integers or colours, each once: {known}.'
      )
    if self.repeat < 1:
      raise ValueError(f'repeat={self.repeat} must be at least 1.')
    if self.values and len(self.values) != len(self.classes):
      raise ValueError(
        f'{len(self.values)} values for {len(self.classes)} classes.'
      )

  @property
  def coded(self) -> tuple[int | Colour, ...]:
    """The value of every class in the file."""
    return self.values or tuple(range(len(self.classes)))

  @property
  def in_colour(self) -> bool:
    return any(isinstance(value, tuple) for value in self.coded)


def read(path: str, mask: Mask, *, frame: int | None = None) -> np.ndarray:
  """The mask of one image.

  Args:
    path: GeoTIFF, PNG, NPY, NPZ or HDF5, of a file or an archive's member.
    mask: how it is told there.
    frame: along the first axis of an array that holds the masks of many.

  Returns:
    uint8 [H, W] codes, or float32 [H, W].

  Raises:
    ValueError: damaged, of another form, or with a value that is not listed;
      names the file.
  """
  found, nodata = _open(path, mask, frame)
  told = _told(found, nodata, mask, path)
  return told.repeat(mask.repeat, 0).repeat(mask.repeat, 1)


def _told(
  found: np.ndarray, nodata: tuple[float, ...], mask: Mask, path: str
) -> np.ndarray:
  """[H, W] of what is in the file: [H, W, C]."""
  if mask.form == 'one_hot':
    return _of_channels(found, mask, path)
  if mask.in_colour:
    if found.shape[-1] != 3:
      raise ValueError(f'{path} has {found.shape[-1]} channels, not RGB.')
    keys = found.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    return _codes(keys, mask, path)
  if found.shape[-1] != 1:
    raise ValueError(
      f'{path} has {found.shape[-1]} channels where a mask of {mask.form} has '
      'one.'
    )
  found = found[..., 0]
  if mask.form == 'numbers':
    return _numbers(found, (*mask.ignore, *nodata), path)
  return _codes(_whole(found, path), mask, path)


def _open(
  path: str, mask: Mask, frame: int | None
) -> tuple[np.ndarray, tuple[float, ...]]:
  """Values [H, W, C], and those that the file itself calls nodata."""
  suffix = pathlib.PurePath(path.rpartition('!')[2]).suffix.lower()
  if suffix in sources.TIFF:
    found, nodata = geotiff.read_whole(path)
    found = _channel(found, mask, path)
    return found, () if nodata is None else (nodata,)
  if suffix in sources.IMAGES:
    channels = 3 if mask.in_colour else 1
    data = sources.read_bytes(path)
    return images.read(data, name=path, channels=channels), ()
  if suffix in sources.ARRAYS:
    data = sources.read_bytes(path)
    content = arrays.read_numpy(data, name=path, key=mask.key)
    content = content if frame is None else content[frame]
  else:
    file = io.BytesIO(sources.read_bytes(path)) if '!' in path else path
    content = arrays.read_hdf5(file, {'': mask.key}, name=path, frame=frame)
    content = content[..., 0]
  (found,) = arrays.frames(content, axes=mask.axes, name=path)
  return _channel(found, mask, path), ()


def _channel(found: np.ndarray, mask: Mask, path: str) -> np.ndarray:
  if mask.channel is None:
    return found
  if mask.channel >= found.shape[-1]:
    raise ValueError(
      f'{path} has {found.shape[-1]} channels; channel {mask.channel} is the '
      'mask.'
    )
  return found[..., mask.channel : mask.channel + 1]


def _whole(found: np.ndarray, path: str) -> np.ndarray:
  """Values as integers; floats that are whole numbers are."""
  if found.dtype.kind != 'f':
    return found.astype(np.int64)
  whole = np.where(np.isfinite(found), found, 0.5)
  if (whole != np.round(whole)).any():
    raise ValueError(f'{path}: a mask of classes holds whole numbers only.')
  return found.astype(np.int64)


def _codes(keys: np.ndarray, mask: Mask, path: str) -> np.ndarray:
  """uint8 codes by a sorted table; keys: int64 [H, W]."""
  table = {_key(value): code for code, value in enumerate(mask.coded)}
  table |= dict.fromkeys(map(_key, mask.ignore), tile_cut.UNLABELLED)
  known = np.array(sorted(table))
  at = np.searchsorted(known, keys).clip(max=len(known) - 1)
  if (wrong := known[at] != keys).any():
    raise ValueError(
      f'{path}: {int(wrong.sum())} pixels are {_value(keys[wrong][0], mask)}, '
      f'which is none of {_listed(mask)}.'
    )
  return np.array([table[key] for key in known.tolist()], np.uint8)[at]


def _key(value: int | Colour) -> int:
  if isinstance(value, tuple):
    red, green, blue = value
    return (red << 16) + (green << 8) + blue
  return value


def _value(key: np.int64, mask: Mask) -> int | Colour:
  key = int(key)
  return (key >> 16, key >> 8 & 255, key & 255) if mask.in_colour else key


def _listed(mask: Mask) -> str:
  named = zip(mask.coded, mask.classes, strict=True)
  told = ', '.join(f'{value} {name}' for value, name in named)
  return f'{told}; unlabelled are {list(mask.ignore)}'


def _of_channels(found: np.ndarray, mask: Mask, path: str) -> np.ndarray:
  """Codes of one channel per class; unlabelled where none is set."""
  if found.shape[-1] != len(mask.classes):
    raise ValueError(
      f'{path} has {found.shape[-1]} channels, one for each of the '
      f'{len(mask.classes)} classes {list(mask.classes)} are needed.'
    )
  is_set = found != 0
  if (is_set.sum(-1) > 1).any():
    raise ValueError(f'{path}: pixels are of several classes at once.')
  codes = is_set.argmax(-1).astype(np.uint8)
  codes[~is_set.any(-1)] = tile_cut.UNLABELLED
  return codes


def _numbers(
  found: np.ndarray, unknown: Sequence[float], path: str
) -> np.ndarray:
  found = found.astype(np.float32)
  for value in unknown:
    found[found == np.float32(value)] = np.nan
  if np.isinf(found).any() or np.isnan(found).all():
    raise ValueError(
      f'{path}: {int(np.isfinite(found).sum())} of {found.size} pixels are '
      'finite numbers; NaN alone stands for unlabelled.'
    )
  return found
