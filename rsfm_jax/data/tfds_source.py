"""Examples of a TensorFlow Datasets builder as scenes, without TensorFlow."""

import functools
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

_SPLITS = {'validation': 'val', 'valid': 'val', 'dev': 'val'}


def examples(source: str) -> list[dict[str, Any]]:
  """Fields of `sources.Scene` for every example of 'tfds:NAME'.

  A data set that is not prepared yet is downloaded by its builder.

  Raises:
    ValueError: no such builder, or it cannot be prepared or read here.
  """
  name = source.removeprefix('tfds:')
  return [
    {
      'id': f'{split}/{i:07d}',
      'files': (('', f'tfds:{name}#{split}#{i}'),),
      'split': _SPLITS.get(split, split),
    }
    for split, info in _builder(name).info.splits.items()
    for i in range(info.num_examples)
  ]


def classes(source: str) -> list[str] | None:
  """Names of the classes of 'tfds:NAME', or None."""
  features = _builder(source.removeprefix('tfds:')).info.features
  if not isinstance(features, tfds.features.FeaturesDict):
    return None
  return getattr(dict(features.items()).get('label'), 'names', None)


def read(path: str, *, key: str = '') -> tuple[np.ndarray, str | None]:
  """Image and class name of one example.

  Args:
    path: 'tfds:NAME#SPLIT#INDEX'.
    key: feature that holds the image; by default 'image', else the only one
      of three dimensions.

  Raises:
    ValueError: no such feature.
  """
  name, split, i = path.removeprefix('tfds:').rsplit('#', 2)
  example = _data(name, split)[int(i)]
  images = [k for k, v in example.items() if np.ndim(v) == 3]
  key = key or ('image' if 'image' in images else '')
  if not key and len(images) == 1:
    key = images[0]
  if key not in images:
    raise ValueError(f'tfds:{name} has the images {images}; set --key.')
  names = classes(name)
  label = names[int(example['label'])] if names else None
  return np.asarray(example[key]), label


@functools.cache
def _builder(name: str) -> tfds.core.DatasetBuilder:
  try:
    builder = tfds.builder(name, file_format='array_record')
    builder.download_and_prepare()
    return builder
  except Exception as error:  # Builders raise anything at all.
    reason = str(error).strip().splitlines()[0] if str(error) else repr(error)
    raise ValueError(f'tfds:{name} is not available: {reason}') from error


@functools.cache
def _data(name: str, split: str) -> Any:
  try:
    return _builder(name).as_data_source(split=split)
  except NotImplementedError as error:
    raise ValueError(
      f'tfds:{name} was prepared as TFRecord; prepare it again with '
      '--file_format=array_record.'
    ) from error
