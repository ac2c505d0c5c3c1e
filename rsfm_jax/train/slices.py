"""Parts of the arrays of a checkpoint, without reading the rest."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorstore

from rsfm_jax.core import files
from rsfm_jax.core import trees
from rsfm_jax.train import checkpoint


class Stored:
  """An array on disk; indexing by integers and slices reads that part."""

  def __init__(self, store: tensorstore.TensorStore):
    self._store = store
    self.shape = tuple(store.shape)
    self.dtype = np.dtype(store.dtype.numpy_dtype)

  def __getitem__(self, index: Any) -> np.ndarray:
    return np.asarray(self._store[index].read().result())


class Opened(NamedTuple):
  """As `checkpoint.Loaded`, with arrays on disk as leaves."""

  step: int
  params: trees.Tree
  metadata: dict[str, Any]


def open_params(
  folder: files.Path, *, step: int | None = None, which: str = 'params'
) -> Opened:
  """As `checkpoint.load_params`, but nothing is read until it is asked for.

  Arrays too large to hold are stored in chunks of one matrix; see
  `checkpoint`. Chunks that were read are not kept.

  Raises:
    ValueError: no such step, no good step, or no such parameters in it.
  """
  index, place = checkpoint.good_step(folder, step)
  names = checkpoint.saved(place, which)
  context = tensorstore.Context({'cache_pool': {'total_bytes_limit': 0}})
  arrays = {name: Stored(_open(place / which, name, context)) for name in names}
  return Opened(index, trees.unflatten(arrays), checkpoint.metadata_of(place))


def _open(folder, name: str, context) -> tensorstore.TensorStore:
  spec: Mapping[str, Any] = {
    'driver': 'zarr3',
    'kvstore': {
      'driver': 'ocdbt',
      'base': f'file://{folder}/',
      'path': name.replace('/', '.') + '/',
    },
  }
  try:
    return tensorstore.open(spec, open=True, context=context).result()
  except ValueError as error:
    raise ValueError(
      f'{folder}: {name} cannot be read by parts: {error}'
    ) from error
