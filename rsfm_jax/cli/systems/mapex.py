"""MAPEX-style: samples of several sensors, masked autoencoding of them all."""

from collections.abc import Iterator
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import config_dict

from rsfm_jax.cli import config as configs
from rsfm_jax.cli.systems import found as found_lib
from rsfm_jax.data import adapt
from rsfm_jax.data import augment
from rsfm_jax.data import pipeline
from rsfm_jax.data import shares
from rsfm_jax.data import store as stores
from rsfm_jax.models import accounting
from rsfm_jax.models import build
from rsfm_jax.models import mapex_spec
from rsfm_jax.moe import expert_parallel
from rsfm_jax.objectives import mae
from rsfm_jax.sensors import catalogue
from rsfm_jax.sharding import mesh as meshes

# Backward costs two forward passes; recomputation is not counted.
_TRAIN_PER_FORWARD = 3


def model(config: config_dict.ConfigDict) -> build.Model:
  return build.build(
    configs.build(mapex_spec.MapexSpec, config.model, key='model')
  )


def objective(
  config: config_dict.ConfigDict,
  built: build.Model,
  *,
  placement: expert_parallel.Placement | None = None,
  total_steps: int,
  found: found_lib.Data | None = None,
) -> mae.MAE:
  """MAE; its loss depends on no schedule and on no statistics."""
  del total_steps, found
  spec = configs.build(mae.MAESpec, config.objective, key='objective')
  encode = functools.partial(built.apply, placement=placement)
  return mae.MAE(spec, encode, built.spec)


def data(config: config_dict.ConfigDict) -> found_lib.Data:
  """Opens the stores; normalises each sensor by the splits that it reads."""
  section, root = config.data.samples, pathlib.Path(config.data.root)
  crop = configs.build(augment.Crop, config.data.crop, key='data.crop')
  if not section.sources:
    raise ValueError('config.data.samples.sources is empty: name a store.')
  opened = {name: stores.Store(root / name) for name, _, _ in section.sources}
  contracts = {name: catalogue.get(name) for name in config.model.sensors}
  statistics = {}
  for name, sensor in contracts.items():
    holding = [
      (opened[store], split)
      for store, split, _ in section.sources
      if section.missing_sensors == 'error'
      or adapt.feeds(opened[store], sensor)
    ]
    if not holding:
      raise ValueError(
        f'config.data.samples.sources: no store has {name} '
        f'{sensor.band_names} in {sensor.units}.'
      )
    statistics[name] = adapt.merged_statistics(
      sensor,
      tuple(store for store, _ in holding),
      splits=tuple(split for _, split in holding),
      missing_bands=section.missing_bands,
    )
  stream = pipeline.Stream(
    tuple(contracts.values()),
    sources=[(opened[n], split, w) for n, split, w in section.sources],
    batch_size=section.batch_size,
    crop=crop,
    statistics=statistics,
    missing_bands=section.missing_bands,
    missing_sensors=section.missing_sensors,
  )
  size = sum(len(opened[n].source(s)) for n, s, _ in section.sources)
  return found_lib.Data(
    [stream], contracts, statistics, section.batch_size, size
  )


def batches(
  config: config_dict.ConfigDict,
  found: found_lib.Data,
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


def images_per_step(config: config_dict.ConfigDict) -> dict[str, int]:
  """A sample is one place with all its sensors."""
  return {'sample': config.data.samples.batch_size}


def abstract_batch(
  config: config_dict.ConfigDict, spec: Any, mesh: jax.sharding.Mesh
) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
  """What the pipeline yields for a global batch, with shardings."""
  sharding, side = meshes.batch_sharding(mesh), config.data.crop.size
  count = config.data.samples.batch_size

  def array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  return {
    sensor: {
      'image': array((count, side, side, channels), jnp.float32),
      'band_valid': array((count, channels), jnp.bool_),
      'pixel_valid': array((count, side, side), jnp.bool_),
      'valid': array((count,), jnp.bool_),
    }
    for sensor, channels in zip(spec.sensors, spec.channels, strict=True)
  }


def flops(config: config_dict.ConfigDict, spec: Any) -> int:
  """Model FLOPs of a train step, forward and backward, no sensor dropped."""
  once = accounting.mapex_flops(
    spec, spec.sensors, keep_ratio=config.objective.keep_ratio
  )
  return _TRAIN_PER_FORWARD * config.data.samples.batch_size * once
