"""The composition root: config sections to models, streams and steps."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

from ml_collections import config_dict

from rsfm_jax.cli import config as configs
from rsfm_jax.cli.systems import finetune
from rsfm_jax.cli.systems import finetune_encoder
from rsfm_jax.cli.systems import found as found_lib
from rsfm_jax.cli.systems import mapex
from rsfm_jax.cli.systems import ringmoe
from rsfm_jax.cli.systems import skysense_v2
from rsfm_jax.core import choices
from rsfm_jax.core import durations
from rsfm_jax.core import trees
from rsfm_jax.data import shares
from rsfm_jax.models import build
from rsfm_jax.train import optim

SYSTEMS: dict[str, ModuleType] = {
  'ringmoe': ringmoe,
  'skysense_v2': skysense_v2,
  'mapex': mapex,
  'finetune': finetune,
}


def system(config: config_dict.ConfigDict) -> ModuleType:
  """The module of `config.system`; see `cli.systems`."""
  return SYSTEMS[choices.check(config.system, SYSTEMS, key='config.system')]


def model(config: config_dict.ConfigDict) -> build.Model:
  return system(config).model(config)


def objective(
  config: config_dict.ConfigDict, built: build.Model, **options: Any
) -> Any:
  """`init`, `loss` and `after_update` of a train step, and their `spec`.

  Options: `placement` of the experts, `total_steps` of the run, and `found`,
  its data, or None where only shapes matter.
  """
  return system(config).objective(config, built, **options)


def data(config: config_dict.ConfigDict) -> found_lib.Data:
  """Opens the run's stores."""
  return system(config).data(config)


def batches(
  config: config_dict.ConfigDict,
  found: found_lib.Data,
  *,
  step: int,
  share: shares.Share = shares.ALL,
) -> Iterator[Any]:
  """This host's batches from a step on, without end."""
  return system(config).batches(config, found, step=step, share=share)


def optimizer(
  config: config_dict.ConfigDict, *, total_steps: int, batch_size: int
) -> optim.OptimSpec:
  section = config.optim.to_dict()
  section.pop('layer_decay', None)  # See `rates`.
  warmup = {k: section.pop(k) for k in list(section) if k.startswith('warmup_')}
  section['warmup_learning_rate'] = warmup.pop('warmup_learning_rate')
  section['warmup_steps'] = min(
    durations.steps(
      warmup,
      'warmup',
      batch_size=batch_size,
      total_steps=total_steps,
      default=0,
    ),
    total_steps - 1,
  )
  for name, default in (('gamma', 1), ('held', 0)):
    given = {
      k: section.pop(k) for k in list(section) if k.startswith(f'{name}_')
    }
    if given:
      section[f'{name}_steps'] = durations.steps(
        given,
        name,
        batch_size=batch_size,
        total_steps=total_steps,
        default=default,
      )
  section['total_steps'] = total_steps
  return configs.build(optim.OptimSpec, section, key='optim')


def rates(
  config: config_dict.ConfigDict, built: build.Model, params: trees.Tree
) -> trees.Tree | None:
  """What multiplies the learning rate of each parameter; None for 1."""
  if config.system != 'finetune':
    return None
  return finetune_encoder.rates(config, built, params)


def total_steps(config: config_dict.ConfigDict, found: found_lib.Data) -> int:
  steps = durations.steps(
    config.train,
    'total',
    batch_size=found.batch_size,
    dataset_size=found.dataset_size,
  )
  if steps is None:
    raise ValueError('set config.train.total_steps, _examples or _epochs.')
  return steps


def contract_json(found: found_lib.Data) -> dict[str, Any]:
  """What travels with a checkpoint: sensors, what normalises them, classes."""
  classes = {'classes': list(found.classes)} if found.classes else {}
  return classes | {
    'sensors': {n: s.to_json() for n, s in found.contracts.items()},
    'statistics': {
      n: s.to_json() for n, s in found.statistics.items() if s is not None
    },
  }
