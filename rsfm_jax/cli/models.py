"""Opens a model from wherever it lies: a run's workdir or a model folder."""

import pathlib
from typing import Any, Literal, NamedTuple

import jax

from rsfm_jax.core import files
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
  path: str | pathlib.Path,
  *,
  which: Literal['auto', 'params', 'ema'] = 'auto',
  step: int | None = None,
) -> Opened:
  """Reads a model folder, or the newest good checkpoint of a workdir.

  Args:
    path: of either.
    which: of a run, what was optimised ('params') or its moving average
      ('ema'); 'auto' takes the average where it is the teacher.
    step: of a run; None for the newest.

  Raises:
    ValueError: neither is there, or names and shapes do not fit the spec.
  """
  path = uris.local(path, what='a model', by='its reader', access='read')
  if folders.is_model(path) and step is None:
    found = folders.load(path)
    params, spec, held, at = found.params, found.spec, found.contract, None
  elif (path / 'checkpoints').is_dir():
    if which == 'auto':
      which = _taught(path)
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
  params = {k: v for k, v in params.items() if k != build.HEADS}
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


def metadata(path: str | pathlib.Path) -> dict[str, Any]:
  """`spec` and `contract` of a model, as JSON; no parameter is read.

  Raises:
    ValueError: there is no model.
  """
  path = uris.local(path, what='a model', by='its reader', access='read')
  if folders.is_model(path):
    return {
      name: files.read_json(path / f'{name}.json')
      for name in ('spec', 'contract')
    }
  if (path / 'checkpoints').is_dir():
    return checkpoint.metadata(path / 'checkpoints')
  raise ValueError(
    f'{path} is neither a model folder nor a workdir with checkpoints.'
  )


def _taught(workdir: pathlib.Path) -> str:
  """The teacher is what SkySense V2 is used with (arXiv 2507.13812, 3.3)."""
  config = workdir / 'config.json'
  system = files.read_json(config).get('system') if config.is_file() else None
  return 'ema' if system == 'skysense_v2' else 'params'


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
