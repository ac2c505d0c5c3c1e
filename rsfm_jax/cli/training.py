"""A run's step and state on a mesh, planned before a byte of it exists."""

from collections.abc import Callable, Mapping, Sequence
import time
from typing import Any, NamedTuple

import jax
from ml_collections import config_dict

from rsfm_jax.cli import compose
from rsfm_jax.cli.systems import found as found_lib
from rsfm_jax.core import log
from rsfm_jax.core import memory
from rsfm_jax.core import rng
from rsfm_jax.core import schedules
from rsfm_jax.core import trees
from rsfm_jax.models import build
from rsfm_jax.models import partition
from rsfm_jax.sharding import mesh as meshes
from rsfm_jax.sharding import state as states
from rsfm_jax.train import optim
from rsfm_jax.train import step as steps

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
  objective: Any
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
  found: found_lib.Data | None = None,
  mesh_sizes: Mapping[str, int] | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> Training:
  """Plans a run from its config alone; opens no store, allocates nothing.

  Args:
    config: as of `configs/pretrain`.
    total_steps: where the schedules end.
    found: the run's data; None where only shapes matter.
    mesh_sizes: instead of those of `config.mesh`.
    devices: instead of `jax.devices()`; those of an ahead-of-time topology
      serve too.

  Raises:
    ValueError: sizes that do not fit each other, by config key.
  """
  sizes = config.mesh.to_dict()
  kind = sizes.pop('placement')
  mesh = meshes.make_mesh(**(sizes | dict(mesh_sizes or {})), devices=devices)
  system, built = compose.system(config), compose.model(config)
  counts = system.images_per_step(config)
  micro = {s: n // config.train.accumulate for s, n in counts.items()}
  placement = partition.placement(built.spec, mesh, micro, kind=kind)
  objective = compose.objective(
    config, built, placement=placement, total_steps=total_steps, found=found
  )
  batch = system.abstract_batch(config, built.spec, mesh)
  meshes.check_batch(batch, mesh)
  images = sum(counts.values())
  spec = compose.optimizer(config, total_steps=total_steps, batch_size=images)

  def create(key: jax.Array) -> tuple[trees.Tree, trees.Tree]:
    heads, extra = objective.init(key)
    return built.init(key) | ({build.HEADS: heads} if heads else {}), extra

  seed = rng.named(rng.key_for(config.seed), 'init')
  params, extra = jax.eval_shape(create, seed)
  tx = optim.make(
    spec,
    params,
    global_batch=images,
    rates=compose.rates(config, built, params),
  )
  ema_decay = _ema_decay(config, total_steps)

  def init(key: jax.Array) -> trees.Tree:
    params, extra = create(key)
    return steps.init_state(
      optim.stored(params, spec), extra, tx, ema=ema_decay is not None
    )

  state = states.plan(
    init,
    seed,
    mesh=mesh,
    rules=partition.rules(params, placement, extra=extra),
  )
  step = steps.make_train_step(
    objective.loss,
    tx,
    accumulate=config.train.accumulate,
    ema_decay=ema_decay,
    after_update=objective.after_update,
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
    flops=system.flops(config, built.spec),
  )


def _ema_decay(
  config: config_dict.ConfigDict, total_steps: int
) -> float | Callable[[jax.Array], jax.Array] | None:
  """A constant, a function of the step, or None for no moving average."""
  start, end = config.train.ema_decay, config.train.final_ema_decay
  if start is None or end is None:
    return start
  return lambda step: schedules.cosine(
    step, start=start, end=end, steps=total_steps
  )


def abstract(config: config_dict.ConfigDict, **options: Any) -> Training:
  """`plan` where nobody knows the stores, so epochs cannot be counted."""
  total = config.train.total_steps or _UNKNOWN_STEPS
  return plan(config, total_steps=total, **options)
