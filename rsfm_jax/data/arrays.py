"""NPY, NPZ and HDF5 scenes: arrays only, never a pickle.

HDF5 and NetCDF attributes are looked up one by one among the CF conventions'
numeric ones; anything else in a file, pickled strings included, stays unread.
"""

from collections.abc import Mapping
import io
import zipfile

import h5py
import numpy as np

# N frames, C bands, H rows, W columns; what an unnamed array is taken for.
_DEFAULT_AXES = {2: 'HW', 3: 'HWC', 4: 'NHWC'}


def frames(array: np.ndarray, *, axes: str = '', name: str) -> np.ndarray:
  """Brings an array to [N, H, W, C].

  Args:
    array: any order of axes, N and C optional; H and W too, of single pixels.
    axes: letters of N, C, H, W in the array's order; by default HW, HWC, NHWC.
    name: the file, for messages.

  Raises:
    ValueError: the letters do not describe the array.
  """
  axes = axes or _DEFAULT_AXES.get(array.ndim, '')
  if (
    sorted(set(axes)) != sorted(axes)
    or not set(axes) <= set('NHWC')
    or len({'H', 'W'} & set(axes)) == 1
  ):
    raise ValueError(
      f'axes={axes!r}: use H and W, optionally N, C, once each; of single '
      'pixels N and C alone.'
    )
  if len(axes) != array.ndim:
    raise ValueError(
      f'{name} holds an array of shape {array.shape}; axes={axes!r} has '
      f'{len(axes)} letters.'
    )
  missing = [letter for letter in 'NHWC' if letter not in axes]
  array = array.reshape(array.shape + (1,) * len(missing))
  axes += ''.join(missing)
  return np.transpose(array, [axes.index(letter) for letter in 'NHWC'])


def read_numpy(data: bytes, *, name: str, key: str = '') -> np.ndarray:
  """An array of an NPY, or of an NPZ (its only one, or `key`).

  Raises:
    ValueError: damaged, of Python objects, or the key is not there.
  """
  try:
    content = np.load(io.BytesIO(data), allow_pickle=False)
    if isinstance(content, np.ndarray):
      return _numeric(content, name)
    with content:
      keys = list(content.keys())
      if not key and len(keys) == 1:
        key = keys[0]
      if key not in keys:
        raise ValueError(f'it holds {keys}; set --key (given: {key!r})')
      return _numeric(content[key], name)
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    raise ValueError(f'{name} is not a readable array: {error}') from error


def read_hdf5(
  file: str | io.BytesIO,
  names: Mapping[str, str],
  *,
  name: str,
  values: str = 'stored',
  frame: int | None = None,
) -> np.ndarray:
  """One dataset per band, stacked on a last axis.

  Args:
    file: an HDF5 or NetCDF-4 file.
    names: {band: dataset}.
    name: the file, for messages.
    values: 'stored' as in the file, or 'scaled' by the numeric attributes
      scale_factor and add_offset, fill values then NaN, as NetCDF readers do.
    frame: one of the first axis is read and nothing else; None for all.

  Returns:
    [..., C], bands in the order of `names`.

  Raises:
    ValueError: damaged, a dataset is missing or not numeric, shapes differ.
  """
  try:
    with h5py.File(file) as content:
      missing = [n for n in names.values() if n not in content]
      if missing:
        raise ValueError(f'no {missing} among {sorted(content)}')
      bands = [
        _dataset(content[n], name, values, frame) for n in names.values()
      ]
  except (OSError, RuntimeError, ValueError) as error:
    raise ValueError(f'{name} is not readable as HDF5: {error}') from error
  shapes = {band.shape for band in bands}
  if len(shapes) != 1:
    raise ValueError(f'{name}: data sets differ in shape: {sorted(shapes)}.')
  return np.stack(bands, -1)


def dataset_names(file: str | io.BytesIO, *, name: str) -> list[str]:
  """Data sets of two or more dimensions at the top of an HDF5 file, sorted.

  Raises:
    ValueError: not readable as HDF5.
  """
  try:
    with h5py.File(file) as content:
      return sorted(
        key
        for key, value in content.items()
        if isinstance(value, h5py.Dataset) and value.ndim >= 2
      )
  except (OSError, RuntimeError) as error:
    raise ValueError(f'{name} is not readable as HDF5: {error}') from error


def _dataset(
  dataset: h5py.Dataset, name: str, values: str, frame: int | None
) -> np.ndarray:
  array = _numeric(np.asarray(dataset[() if frame is None else frame]), name)
  # NetCDF classic has no unsigned types; this flag says what was meant.
  unsigned = dataset.attrs.get('_Unsigned')
  if unsigned in (b'true', 'true') and array.dtype.kind == 'i':
    array = array.view(array.dtype.str.replace('i', 'u'))
  if values == 'stored':
    return array
  scale, offset, fill = (
    _number(dataset, key)
    for key in ('scale_factor', 'add_offset', '_FillValue')
  )
  scaled = array.astype(np.float32) * np.float32(
    1.0 if scale is None else scale
  )
  scaled += np.float32(offset or 0.0)
  if fill is not None:
    scaled[array == fill] = np.nan
  return scaled


def _number(dataset: h5py.Dataset, key: str) -> float | None:
  value = np.asarray(dataset.attrs.get(key, ()))
  if value.size != 1 or value.dtype.kind not in 'iuf':
    return None
  return float(value.ravel()[0])


def _numeric(array: np.ndarray, name: str) -> np.ndarray:
  if array.dtype.kind not in 'biufc':
    raise ValueError(f'{name} holds {array.dtype}, not numbers')
  return array
