"""RingMoE: streams of one image per sample, masked image modelling."""

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
from rsfm_jax.models import ringmoe
from rsfm_jax.moe import expert_parallel
from rsfm_jax.objectives import simmim
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import contract
from rsfm_jax.sharding import mesh as meshes

# Backward costs two forward passes; recomputation is not counted.
_TRAIN_PER_FORWARD = 3


def model(config: config_dict.ConfigDict) -> build.Model:
  return build.build(
    configs.build(ringmoe.RingMoESpec, config.model, key='model')
  )


def objective(
  config: config_dict.ConfigDict,
  built: build.Model,
  *,
  placement: expert_parallel.Placement | None = None,
  total_steps: int,
  found: found_lib.Data | None = None,
) -> simmim.SimMIM:
  """SimMIM; its loss depends on no schedule and on no statistics."""
  del total_steps, found
  section = config.objective.to_dict()
  section['sar_l1_head'] = built.spec.sar_l1_head
  spec = configs.build(simmim.SimMIMSpec, section, key='objective')
  encode = functools.partial(built.apply, placement=placement)
  return simmim.SimMIM(spec, encode)


def data(config: config_dict.ConfigDict) -> found_lib.Data:
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
  return found_lib.Data(streams, contracts, per_sensor, batch, size)


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
  """{sensor: images of a global batch}, in the model's order."""
  counts = dict.fromkeys(config.model.sensors, 0)
  for section in config.data.streams.values():
    for sensor in section.sensors:
      counts[sensor] += section.batch_size
  return {sensor: count for sensor, count in counts.items() if count}


def abstract_batch(
  config: config_dict.ConfigDict, spec: Any, mesh: jax.sharding.Mesh
) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
  """What the pipeline yields for a global batch, with shardings."""
  sharding = meshes.batch_sharding(mesh)

  def array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  side = spec.image_size
  out = {}
  for sensor, count in images_per_step(config).items():
    bands = len(catalogue.get(sensor).bands)
    out[sensor] = {
      'image': array((count, side, side, bands), jnp.float32),
      'band_valid': array((count, bands), jnp.bool_),
      'pixel_valid': array((count, side, side), jnp.bool_),
      'valid': array((count,), jnp.bool_),
    }
  return out


def flops(config: config_dict.ConfigDict, spec: Any) -> int:
  """Model FLOPs of a train step, forward and backward."""
  return _TRAIN_PER_FORWARD * sum(
    count * accounting.flops(spec, sensor)
    for sensor, count in images_per_step(config).items()
  )
