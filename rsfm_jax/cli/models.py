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
from rsfm_jax.train import slices


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
  read: Literal['whole', 'parts'] = 'whole',
) -> Opened:
  """Reads a model folder, or the newest good checkpoint of a workdir.

  Args:
    path: of either.
    which: of a run, what was optimised ('params') or its moving average
      ('ema'); 'auto' takes the average where it is the teacher.
    step: of a run; None for the newest.
    read: 'parts' leaves the arrays on disk, where indexing reads a part; the
      content of a model folder is then not checked.

  Raises:
    ValueError: neither is there, or names and shapes do not fit the spec, or
      the contract does not.
  """
  path = uris.local(path, what='a model', by='its reader', access='read')
  if folders.is_model(path) and step is None:
    load = folders.load if read == 'whole' else folders.open_parts
    found = load(path)
    params, spec, held, at = found.params, found.spec, found.contract, None
  elif (path / 'checkpoints').is_dir():
    if which == 'auto':
      which = _taught(path)
    load = checkpoint.load_params if read == 'whole' else slices.open_params
    at, params, metadata = load(path / 'checkpoints', step=step, which=which)
    spec, held = metadata['spec'], metadata['contract']
  else:
    raise ValueError(
      f'{path} is neither a model folder nor a workdir with checkpoints.'
    )
  model = build.build(build.spec_from_json(spec))
  params = {k: v for k, v in params.items() if k != build.HEADS}
  _check_fit(params, model, path)
  _check_contract(held, model.spec, path)
  if read == 'whole':
    params = jax.tree.map(jax.numpy.asarray, params)
  return opened_by(
    held,
    model,
    params,
    content_hash=checkpoint.content_hash(params),
    path=str(path),
    step=at,
  )


def opened_by(
  held: dict[str, Any], model: build.Model, params: Any, **fields: Any
) -> Opened:
  """A model with the sensors and statistics of a contract, as JSON.

  Args:
    held: the contract.
    model: of `params`.
    params: nested dict.
    **fields: the other attributes of `Opened`.
  """
  return Opened(
    model,
    params,
    held,
    {n: contract.Sensor.from_json(s) for n, s in held['sensors'].items()},
    {
      n: statistics.Statistics.from_json(s)
      for n, s in held['statistics'].items()
    },
    **fields,
  )


def prototypes_of(opened: Opened) -> jax.Array | None:
  """f32[R, Np, dp], those of the regions as the run of a model left them.

  They are no parameters (`objectives.geo_prototypes`): downstream they are
  frozen. None where the model has none, or is not that of a run.
  """
  if opened.step is None or not getattr(opened.model.spec, 'prototypes_dim', 0):
    return None
  folder = pathlib.Path(opened.path) / 'checkpoints'
  extra = checkpoint.load_params(folder, step=opened.step, which='extra')
  return extra.params.get('prototypes')


class Heads(NamedTuple):
  """What an objective trained beside a model, which `open_model` leaves out.

  Attributes:
    params: nested dict, those under `objective/`.
    objective: the constants of the losses, as JSON.
    step: of the checkpoint.
  """

  params: Any
  objective: dict[str, Any]
  step: int


def open_heads(
  workdir: str | pathlib.Path,
  *,
  which: Literal['auto', 'params', 'ema'] = 'auto',
  step: int | None = None,
) -> Heads:
  """The heads of a run, by default the teacher's; see `open_model`.

  Raises:
    ValueError: no checkpoint, or an objective without heads.
  """
  path = uris.local(workdir, what='a run', by='its reader', access='read')
  loaded = checkpoint.load_params(
    path / 'checkpoints',
    step=step,
    which=_taught(path) if which == 'auto' else which,
  )
  if build.HEADS not in loaded.params:
    raise ValueError(f'{path}: its objective has no heads.')
  return Heads(
    loaded.params[build.HEADS], loaded.metadata['objective'], loaded.step
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


def which_of(system: str | None) -> Literal['params', 'ema']:
  """What of a run's state a system is used with.

  SkySense V2: the teacher (arXiv 2507.13812, 3.3).
  """
  return 'ema' if system == 'skysense_v2' else 'params'


def _taught(workdir: pathlib.Path) -> Literal['params', 'ema']:
  config = workdir / 'config.json'
  system = files.read_json(config).get('system') if config.is_file() else None
  return which_of(system)


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


def _check_contract(held: Any, spec: Any, path: pathlib.Path) -> None:
  """Sensors of the contract are those of the weights, band for band.

  A model may have a place for a sensor that it was never trained on.
  """
  if not isinstance(held, dict) or not {'sensors', 'statistics'} <= set(held):
    raise ValueError(f'{path}: the contract lacks sensors or statistics.')
  for name, sensor in held['sensors'].items():
    if name not in spec.sensors:
      raise ValueError(
        f'{path}: the contract knows {name!r}, the weights are of '
        f'{list(spec.sensors)}.'
      )
    bands = len(sensor['bands'])
    channels = spec.channels[spec.sensors.index(name)]
    if bands not in (1, channels):  # One band may be repeated.
      raise ValueError(
        f'{path}: the contract gives {name} {bands} bands, the weights take '
        f'{channels}.'
      )
