"""A model as a folder that explains itself: weights, spec, contract.

`model.safetensors` (float arrays by '/'-joined name), `spec.json`,
`contract.json` (sensors and the statistics that normalise them) and
`record.json` (how it was made, content hash). Loaded by name, never by order.
"""

from collections.abc import Mapping
import functools
import json
import pathlib
import shutil
from typing import Any, Literal, NamedTuple

import numpy as np

from rsfm_jax.core import arrays
from rsfm_jax.core import files
from rsfm_jax.core import trees
from rsfm_jax.export import weights
from rsfm_jax.train import checkpoint

Tree = Any
WEIGHTS = 'model.safetensors'


class Exported(NamedTuple):
  """What a model folder holds; spec and contract as JSON."""

  params: Tree
  spec: dict[str, Any]
  contract: dict[str, Any]
  record: dict[str, Any]


def save(
  folder: files.Path,
  params: Tree,
  *,
  spec: Mapping[str, Any],
  contract: Mapping[str, Any],
  record: Mapping[str, Any],
  beside: Literal['checkpoint', 'nothing'] = 'checkpoint',
) -> str:
  """Writes a model folder; the weights come last, so that it is whole or not.

  An Orbax checkpoint of the parameters (step 0) stands beside the weights,
  for warm starts on any mesh, unless `beside` is 'nothing': then the folder is
  one to publish.

  Returns:
    The content hash of the parameters.

  Raises:
    ValueError: the folder holds a model already, or the checkpoints of a run;
      or a parameter of a type that could not be read back.
    OSError: no room; nothing that reads as a model is left.
  """
  entries = {
    name: weights.Entry(
      leaf.shape, leaf.dtype, functools.partial(arrays.blocks, leaf)
    )
    for name, leaf in trees.flatten(params).items()
  }

  def companions() -> None:
    if beside == 'nothing':
      return
    orbax = checkpoint.Checkpoints(pathlib.Path(folder) / 'checkpoints', keep=1)
    state = {'params': params, 'step': np.zeros((), np.int32)}
    orbax.save(0, state, {'spec': dict(spec), 'contract': dict(contract)})
    orbax.wait()
    orbax.close()

  return _write(folder, entries, spec, contract, record, companions)


def save_parts(
  folder: files.Path,
  entries: Mapping[str, weights.Entry],
  *,
  spec: Mapping[str, Any],
  contract: Mapping[str, Any],
  record: Mapping[str, Any],
) -> str:
  """As `save`, of arrays that come in parts and are never held whole.

  No Orbax checkpoint stands beside the weights: it would hold them.
  """
  return _write(folder, entries, spec, contract, record, lambda: None)


def _write(folder, entries, spec, contract, record, companions) -> str:
  folder = pathlib.Path(folder)
  if (folder / WEIGHTS).exists():
    raise ValueError(f'{folder} holds a model already; choose another --out.')
  if saved := checkpoint.steps(folder / 'checkpoints'):
    # Saving step 0 among them would remove the others.
    raise ValueError(
      f'{folder} holds the checkpoints {saved} of a run; choose another --out.'
    )

  def others(digest: str) -> None:
    companions()
    files.write_json(folder / 'spec.json', dict(spec))
    files.write_json(folder / 'contract.json', dict(contract))
    files.write_json(
      folder / 'record.json', dict(record) | {'content_hash': digest}
    )

  said = {
    'spec': json.dumps(dict(spec)),
    'contract': json.dumps(dict(contract)),
  }
  try:
    return weights.write(folder / WEIGHTS, entries, said, before=others)
  except OSError:
    shutil.rmtree(folder / 'checkpoints', ignore_errors=True)
    raise


def is_model(folder: files.Path) -> bool:
  return (pathlib.Path(folder) / WEIGHTS).is_file()


def load(folder: files.Path) -> Exported:
  """Reads a model folder.

  Raises:
    ValueError: a file is missing or damaged; it is named.
  """
  folder = pathlib.Path(folder)
  if not is_model(folder):
    raise ValueError(f'{folder} holds no {WEIGHTS}: not a model folder.')
  flat = {
    name: array[...] for name, array in weights.stored(folder / WEIGHTS).items()
  }
  params = trees.unflatten(flat)
  spec, contract, record = _companions(folder)
  # safetensors does not notice flipped bits of the weights.
  if checkpoint.content_hash(params) != record.get('content_hash'):
    raise ValueError(
      f'{folder / WEIGHTS} is damaged: its content is not what record.json '
      'says was saved.'
    )
  return Exported(params, spec, contract, record)


def open_parts(folder: files.Path) -> Exported:
  """As `load`, but the arrays stay on disk; their content is not checked."""
  folder = pathlib.Path(folder)
  params = trees.unflatten(weights.stored(folder / WEIGHTS))
  return Exported(params, *_companions(folder))


def _companions(folder: pathlib.Path) -> list[dict[str, Any]]:
  return [
    _read(folder / name)
    for name in ('spec.json', 'contract.json', 'record.json')
  ]


def _read(path: pathlib.Path) -> dict[str, Any]:
  if not path.is_file():
    raise ValueError(f'{path} is missing: not a whole model folder.')
  return files.read_json(path)
