"""Opens a model from wherever it lies: a run's workdir or a model folder."""

import pathlib
from typing import Any, NamedTuple

import jax

from rsfm_jax.core import trees
from rsfm_jax.core import uris
from rsfm_jax.export import folder as folders
from rsfm_jax.models import build
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import statistics
from rsfm_jax.train import checkpoint


class Opened(NamedTuple):
  """A model ready to run.

  Attributes:
    model: built from the spec that came with it.
    params: nested dict.
    contract: JSON, as it travels.
    sensors: contracts by name.
    statistics: what normalises each sensor; complex SAR has none.
    content_hash: of the parameters.
    path: where it came from.
    step: of a run's checkpoint, or None.
  """

  model: build.Model
  params: Any
  contract: dict[str, Any]
  sensors: dict[str, contract.Sensor]
  statistics: dict[str, statistics.Statistics]
  content_hash: str
  path: str
  step: int | None


def open_model(
  path: str | pathlib.Path, *, which: str = 'params', step: int | None = None
) -> Opened:
  """Reads a model folder, or the newest good checkpoint of a workdir.

  Raises:
    ValueError: neither is there, or names and shapes do not fit the spec.
  """
  path = uris.local(path, what='a model', by='its reader', access='read')
  if folders.is_model(path) and step is None:
    found = folders.load(path)
    params, spec, held, at = found.params, found.spec, found.contract, None
  elif (path / 'checkpoints').is_dir():
    loaded = checkpoint.load_params(
      path / 'checkpoints', step=step, which=which
    )
    params, at = loaded.params, loaded.step
    spec, held = loaded.metadata['spec'], loaded.metadata['contract']
  else:
    raise ValueError(
      f'{path} is neither a model folder nor a workdir with checkpoints.'
    )
  model = build.build(build.spec_from_json(spec))
  _check_fit(params, model, path)
  params = jax.tree.map(jax.numpy.asarray, params)
  return Opened(
    model,
    params,
    held,
    {n: contract.Sensor.from_json(s) for n, s in held['sensors'].items()},
    {
      n: statistics.Statistics.from_json(s)
      for n, s in held['statistics'].items()
    },
    checkpoint.content_hash(params),
    str(path),
    at,
  )


def _check_fit(params, model: build.Model, path: pathlib.Path) -> None:
  have = {n: tuple(x.shape) for n, x in trees.flatten(params).items()}
  want = {n: tuple(x.shape) for n, x in trees.flatten(model.abstract).items()}
  wrong = sorted(n for n in have | want if have.get(n) != want.get(n))
  if wrong:
    name = wrong[0]
    raise ValueError(
      f'{path}: {len(wrong)} arrays do not fit the spec; {name} is '
      f'{have.get(name, "absent")} and should be '
      f'{want.get(name, "absent")}.'
    )
