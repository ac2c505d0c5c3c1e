"""A run's step and state on a mesh, planned before a byte of it exists."""

from collections.abc import Mapping, Sequence
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import config_dict

from rsfm_jax.cli import compose
from rsfm_jax.core import log
from rsfm_jax.core import memory
from rsfm_jax.core import rng
from rsfm_jax.core import trees
from rsfm_jax.models import accounting
from rsfm_jax.models import build
from rsfm_jax.models import partition
from rsfm_jax.objectives import simmim
from rsfm_jax.sensors import catalogue
from rsfm_jax.sharding import mesh as meshes
from rsfm_jax.sharding import state as states
from rsfm_jax.train import optim
from rsfm_jax.train import step as steps

# Backward costs two forward passes; recomputation is not counted.
_TRAIN_PER_FORWARD = 3
# Schedules are constants of the program: their length changes no cost.
_UNKNOWN_STEPS = 100_000


class Training(NamedTuple):
  """Everything that a step needs but data.

  Attributes:
    built: the model.
    objective: its loss.
    mesh: the devices.
    plan: the train state, abstract, with shardings and how to create it.
    step_fn: `(state, batch, key) -> (state, metrics)`; jitted, donates.
    batch: abstract batch with shardings.
    key: abstract key of the run.
    images: per step, all sensors.
    flops: model FLOPs of a train step, forward and backward.
  """

  built: build.Model
  objective: simmim.SimMIM
  mesh: jax.sharding.Mesh
  plan: states.Plan
  step_fn: steps.Step
  batch: dict[str, dict[str, jax.ShapeDtypeStruct]]
  key: jax.ShapeDtypeStruct
  images: int
  flops: int

  @property
  def abstract(self) -> tuple[Any, Any, Any]:
    """Arguments of `step_fn`, abstract, with shardings."""
    return self.plan.abstract, self.batch, self.key

  def compiled(self) -> steps.Step:
    """`step_fn`, compiled before data and state need memory."""
    begin = time.monotonic()
    ready = self.step_fn.lower(*self.abstract).compile()
    memory.trim()
    log.info('compiled the step in %.0f s', time.monotonic() - begin)
    return ready

  @property
  def state(self) -> trees.Tree:
    """Abstract state with shardings."""
    return self.plan.abstract


def plan(
  config: config_dict.ConfigDict,
  *,
  total_steps: int,
  mesh_sizes: Mapping[str, int] | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> Training:
  """Plans a run from its config alone; opens no store, allocates nothing.

  Args:
    config: as of `configs/pretrain`.
    total_steps: where the schedules end.
    mesh_sizes: instead of those of `config.mesh`.
    devices: instead of `jax.devices()`; those of an ahead-of-time topology
      serve too.

  Raises:
    ValueError: sizes that do not fit each other, by config key.
  """
  sizes = config.mesh.to_dict()
  kind = sizes.pop('placement')
  mesh = meshes.make_mesh(**(sizes | dict(mesh_sizes or {})), devices=devices)
  built = compose.model(config)
  counts = images_per_step(config)
  micro = {s: n // config.train.accumulate for s, n in counts.items()}
  placement = partition.placement(built.spec, mesh, micro, kind=kind)
  objective = compose.objective(config, built, placement)
  batch = abstract_batch(built.spec, counts, mesh)
  meshes.check_batch(batch, mesh)
  images = sum(counts.values())
  spec = compose.optimizer(config, total_steps=total_steps, batch_size=images)
  tx = optim.make(spec, built.abstract, global_batch=images)
  ema_decay = config.train.ema_decay
  state = states.plan(
    lambda key: steps.init_state(
      optim.stored(built.init(key), spec), {}, tx, ema=ema_decay is not None
    ),
    rng.named(rng.key_for(config.seed), 'init'),
    mesh=mesh,
    rules=partition.rules(built.spec, placement),
  )
  step = steps.make_train_step(
    objective.loss,
    tx,
    accumulate=config.train.accumulate,
    ema_decay=ema_decay,
  )
  return Training(
    built=built,
    objective=objective,
    mesh=mesh,
    plan=state,
    step_fn=steps.jit_step(step, state_shardings=state.shardings),
    batch=batch,
    key=jax.eval_shape(lambda: rng.key_for(config.seed)),
    images=images,
    flops=_TRAIN_PER_FORWARD
    * sum(n * accounting.flops(built.spec, s) for s, n in counts.items()),
  )


def abstract(config: config_dict.ConfigDict, **options: Any) -> Training:
  """`plan` where nobody knows the stores, so epochs cannot be counted."""
  total = config.train.total_steps or _UNKNOWN_STEPS
  return plan(config, total_steps=total, **options)


def images_per_step(config: config_dict.ConfigDict) -> dict[str, int]:
  """{sensor: images of a global batch}, in the model's order."""
  counts = dict.fromkeys(config.model.sensors, 0)
  for section in config.data.streams.values():
    for sensor in section.sensors:
      counts[sensor] += section.batch_size
  return {sensor: count for sensor, count in counts.items() if count}


def abstract_batch(
  spec: Any, counts: Mapping[str, int], mesh: jax.sharding.Mesh
) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
  """What the pipeline yields for a global batch, with shardings."""
  sharding = meshes.batch_sharding(mesh)

  def array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  side = spec.image_size
  out = {}
  for sensor, count in counts.items():
    bands = len(catalogue.get(sensor).bands)
    out[sensor] = {
      'image': array((count, side, side, bands), jnp.float32),
      'band_valid': array((count, bands), jnp.bool_),
      'pixel_valid': array((count, side, side), jnp.bool_),
      'valid': array((count,), jnp.bool_),
    }
  return out
