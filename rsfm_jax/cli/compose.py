"""The composition root: config sections to models, streams and steps."""

from collections.abc import Iterator
import functools
import pathlib
from typing import Any, NamedTuple

from ml_collections import config_dict

from rsfm_jax.cli import config as configs
from rsfm_jax.core import durations
from rsfm_jax.data import adapt
from rsfm_jax.data import augment
from rsfm_jax.data import pipeline
from rsfm_jax.data import shares
from rsfm_jax.data import store as stores
from rsfm_jax.models import build
from rsfm_jax.models import ringmoe
from rsfm_jax.moe import expert_parallel
from rsfm_jax.objectives import simmim
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import statistics
from rsfm_jax.train import optim


class Data(NamedTuple):
  """The streams of a run and what the checkpoint must know of them.

  Attributes:
    streams: in the order of the config.
    contracts: per sensor of the model.
    statistics: per sensor, merged over the run's stores.
    batch_size: samples per step, all sensors.
    dataset_size: samples of the stores, all sensors, repeats not counted.
  """

  streams: list[pipeline.Stream]
  contracts: dict[str, contract.Sensor]
  statistics: dict[str, statistics.Statistics]
  batch_size: int
  dataset_size: int


def model(config: config_dict.ConfigDict) -> build.Model:
  return build.build(
    configs.build(ringmoe.RingMoESpec, config.model, key='model')
  )


def objective(
  config: config_dict.ConfigDict,
  built: build.Model,
  placement: expert_parallel.Placement | None = None,
) -> simmim.SimMIM:
  section = config.objective.to_dict()
  section['sar_l1_head'] = built.spec.sar_l1_head
  spec = configs.build(simmim.SimMIMSpec, section, key='objective')
  encode = functools.partial(built.apply, placement=placement)
  return simmim.SimMIM(spec, encode)


def optimizer(
  config: config_dict.ConfigDict, *, total_steps: int, batch_size: int
) -> optim.OptimSpec:
  section = config.optim.to_dict()
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
  section['total_steps'] = total_steps
  return configs.build(optim.OptimSpec, section, key='optim')


def total_steps(config: config_dict.ConfigDict, found: Data) -> int:
  steps = durations.steps(
    config.train,
    'total',
    batch_size=found.batch_size,
    dataset_size=found.dataset_size,
  )
  if steps is None:
    raise ValueError('set config.train.total_steps, _examples or _epochs.')
  return steps


def data(config: config_dict.ConfigDict) -> Data:
  """Opens the stores; normalises each sensor by the splits that it reads."""
  root = pathlib.Path(config.data.root)
  crop = configs.build(augment.Crop, config.data.crop, key='data.crop')
  if not config.data.streams:
    raise ValueError('config.data.streams is empty: name at least one store.')
  opened: dict[str, stores.Store] = {}
  contracts, per_sensor = {}, {}
  for section in config.data.streams.values():
    for name, _, _ in section.sources:
      if name not in opened:
        opened[name] = stores.Store(root / name)
    for sensor in section.sensors:
      contracts[sensor] = catalogue.get(sensor)
      used = tuple(opened[name] for name, _, _ in section.sources)
      splits = tuple(split for _, split, _ in section.sources)
      if contracts[sensor].kind != contract.Kind.SAR_COMPLEX:
        per_sensor[sensor] = adapt.merged_statistics(
          contracts[sensor],
          used,
          splits=splits,
          missing_bands=section.missing_bands,
        )
  streams, size = [], 0
  for section in config.data.streams.values():
    wanted = tuple(contracts[s] for s in section.sensors)
    streams.append(
      pipeline.Stream(
        wanted,
        sources=[(opened[n], split, w) for n, split, w in section.sources],
        batch_size=section.batch_size,
        crop=crop,
        statistics={s: per_sensor.get(s) for s in section.sensors},
        missing_bands=section.missing_bands,
      )
    )
    rows = sum(len(opened[n].source(s)) for n, s, _ in section.sources)
    size += rows * len(wanted)
  batch = sum(s.batch_size * len(s.sensors) for s in streams)
  return Data(streams, contracts, per_sensor, batch, size)


def batches(
  config: config_dict.ConfigDict,
  found: Data,
  *,
  step: int,
  share: shares.Share = shares.ALL,
) -> Iterator[Any]:
  return pipeline.batches(
    found.streams,
    seed=config.seed,
    step=step,
    share=share,
    workers=config.data.workers,
    threads=config.data.threads,
  )


def contract_json(found: Data) -> dict[str, Any]:
  """What travels with a checkpoint: sensors and what normalises them."""
  return {
    'sensors': {n: s.to_json() for n, s in found.contracts.items()},
    'statistics': {
      n: s.to_json() for n, s in found.statistics.items() if s is not None
    },
  }
