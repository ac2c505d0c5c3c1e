"""Probes of a run's model while it trains, as rows of its metrics."""

import pathlib
from typing import Any

import jax
from ml_collections import config_dict

from rsfm_jax.cli import compose
from rsfm_jax.cli import config as configs
from rsfm_jax.cli import datasets
from rsfm_jax.cli import frozen
from rsfm_jax.cli import measure
from rsfm_jax.cli import models
from rsfm_jax.cli import running
from rsfm_jax.core import choices
from rsfm_jax.core import trees
from rsfm_jax.data import labelled_checks
from rsfm_jax.data import store as stores
from rsfm_jax.evaluate import protocols
from rsfm_jax.models import build
from rsfm_jax.sharding import mesh as meshes
from rsfm_jax.train import hooks
from rsfm_jax.train import writers

Datasets = dict[str, tuple[datasets.Dataset, stores.Store]]
ROWS = 'eval'  # Metrics are eval/<data set>/<protocol>/<metric>.


def found(config: config_dict.ConfigDict) -> Datasets:
  """What `config.evaluation` names, opened; {} for nothing.

  Raises:
    ValueError: an unknown key, protocol or sensor, no protocol, or a store
      that is no benchmark.
  """
  section = config.evaluation
  if section.datasets and not section.protocols:
    raise ValueError('config.evaluation.protocols is empty.')
  for name in section.protocols:
    protocols.get(name)
  out = {}
  for name, values in section.datasets.items():
    key = f'evaluation.datasets.{name}'
    data = configs.build(datasets.Dataset, values, key=key)
    for sensor in data.names:
      choices.check(sensor, config.model.sensors, key=f'config.{key}.sensor')
    store = stores.Store(pathlib.Path(config.data.root) / data.store)
    labelled_checks.check(store, measure.SPLITS)
    out[name] = data, store
  return out


def hook(
  run: running.Started, named: Datasets, written: list[writers.Writer]
) -> hooks.Evaluate:
  """Runs all probes by schedule and after the last step.

  They see the teacher where the run has one, else the parameters, on one
  device: the model has to fit there whole. They change no bit of the training.
  """
  every = running.every(run, 'evaluation')
  schedule = hooks.At((*range(every, run.total, every), run.total))
  return hooks.Evaluate(
    [Probes(run, name, *one, schedule) for name, one in named.items()],
    written,
    params_of=lambda state: kept(run, state),
  )


def kept(run: running.Started, state: trees.Tree) -> trees.Tree:
  """`params` and, of a model that has them, `prototypes`; on one device."""
  which = models.which_of(run.config.system)
  params = {k: v for k, v in state[which].items() if k != build.HEADS}
  out = {'params': params}
  if 'prototypes' in state['extra']:
    out['prototypes'] = state['extra']['prototypes']
  # Gathered by all processes, of which each takes its own copy.
  whole = jax.device_put(out, meshes.replicated(run.planned.mesh))
  return jax.tree.map(lambda x: x.addressable_data(0), whole)


class Probes:
  """The protocols of a run on one data set: a `hooks.Evaluator`."""

  def __init__(
    self,
    run: running.Started,
    name: str,
    data: datasets.Dataset,
    store: stores.Store,
    schedule: hooks.At,
  ):
    self.name, self.schedule = f'{ROWS}/{name}', schedule
    self._run, self._data, self._store = run, data, store

  def run(self, params: trees.Tree, step: int) -> dict[str, float]:
    """{'<protocol>/<metric>': value on the test split} of `kept`."""
    section = self._run.config.evaluation
    opened = _opened(self._run, params['params'])
    to = datasets.target(
      self._data, self._store, opened, batch_size=section.batch_size
    )
    if self._data.sensors:
      to = to._replace(prototypes=params.get('prototypes'))
    rows = frozen.model_rows(
      opened,
      to,
      name=f'step {step}',
      protocols=section.protocols,
      seed=self._run.config.seed,
    )
    return {f'{row.protocol}/{row.metric}': row.value for row in rows}


def _opened(run: running.Started, params: Any) -> models.Opened:
  """As `models.open_model` opens a checkpoint of the run."""
  return models.opened_by(
    compose.contract_json(run.found),
    run.planned.built,
    params,
    content_hash='',
    path=str(run.workdir),
    step=None,  # Not yet on disk.
  )
