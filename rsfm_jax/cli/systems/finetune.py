"""Fine-tuning: an encoder of any system, a head, a labelled store."""

from collections.abc import Iterator
import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np

from rsfm_jax.cli import config as configs
from rsfm_jax.cli.systems import finetune_encoder as encoder
from rsfm_jax.cli.systems import found as found_lib
from rsfm_jax.core import choices
from rsfm_jax.core import log
from rsfm_jax.data import boxes as boxes_lib
from rsfm_jax.data import labelled
from rsfm_jax.data import labelled_cut
from rsfm_jax.data import labelled_evaluation
from rsfm_jax.data import shares
from rsfm_jax.data import store as stores
from rsfm_jax.evaluate import outcomes
from rsfm_jax.models import accounting
from rsfm_jax.models import build
from rsfm_jax.models import mapex_spec
from rsfm_jax.models import ringmoe
from rsfm_jax.moe import expert_parallel
from rsfm_jax.sensors import catalogue
from rsfm_jax.sharding import mesh as meshes
from rsfm_jax.tasks import contract as task_contract
from rsfm_jax.tasks import encoders
from rsfm_jax.tasks import finetuning
from rsfm_jax.tasks import mixing
from rsfm_jax.tasks import spec as task_spec

# The kind of target that a kind of task is about.
_TARGETS = {
  'classes': 'class',
  'labels': 'bits',
  'scalar': 'number',
  'segmentation': 'codes',
  'change': 'codes',
  'map': 'numbers',
  'boxes': 'boxes',
  'oriented_boxes': 'oriented_boxes',
}
_TRAIN_PER_FORWARD = 3


class Stream(NamedTuple):
  """A labelled store and the samples that are trained on."""

  data: labelled.Labelled
  indices: np.ndarray


def model(config: config_dict.ConfigDict) -> build.Model:
  return build.build(encoder.spec_of(config))


def objective(
  config: config_dict.ConfigDict,
  built: build.Model,
  *,
  placement: expert_parallel.Placement | None = None,
  total_steps: int,
  found: found_lib.Data | None = None,
) -> finetuning.FineTuning:
  """The task with a head for the encoder's features."""
  del total_steps
  store = found.streams[0].data.store if found else None
  spec = finetuning_spec(config, store)
  encode = encoders.single(
    built.spec, engine=config.model.engine, placement=placement
  )
  image = jax.ShapeDtypeStruct(_image_shape(config), jnp.float32)
  maps = jax.eval_shape(
    lambda p, x: dict(encode(p, {config.data.sensor: x}, mode='eval').maps),
    built.abstract,
    image,
  )
  size = tuple(image.shape[-3:-1])
  features = task_contract.Features(maps, size)
  return finetuning.FineTuning(spec, encode, features)


def finetuning_spec(
  config: config_dict.ConfigDict, store: stores.Store | None = None
) -> finetuning.FineTuningSpec:
  """Task, mixing and what becomes of the encoder.

  Raises:
    ValueError: `task.outputs` is None and there is no store to ask.
  """
  section = config.task.to_dict()
  if section['outputs'] is None:
    section['outputs'] = _outputs(config, store)
  task = configs.build(task_spec.TaskSpec, section, key='task')
  choices.check(
    config.evaluation.metric,
    outcomes.metrics_of(task.kind, outputs=task.outputs),
    key='config.evaluation.metric',
  )
  return finetuning.FineTuningSpec(
    task=task,
    mixing=configs.build(mixing.MixingSpec, config.mixing, key='mixing'),
    encoder=choices.check(
      config.model.encoder, ('trained', 'frozen'), key='config.model.encoder'
    ),
  )


def data(config: config_dict.ConfigDict) -> found_lib.Data:
  """Opens the store; normalises as the encoder was, or by its own pixels."""
  encoder.spec_of(config)  # Does the model have the sensor at all?
  section = config.data
  store = stores.Store(pathlib.Path(section.root) / section.store)
  sensor, statistics = encoder.sensor_of(config, store)
  one = labelled.Labelled(
    store=store,
    sensor=sensor,
    target=target(config, store),
    statistics=statistics,
    pair=section.pair,
    missing_bands=section.missing_bands,
  )
  indices = labelled.chosen(
    one,
    section.train_split,
    fraction=section.label_fraction,
    seed=config.seed,
  )
  if overlap := _overlap(config, store):
    raise ValueError(f'{store.folder}: {overlap}.')
  log.info('%d labelled samples of %s', len(indices), store.folder)
  return found_lib.Data(
    [Stream(one, indices)],
    {sensor.name: sensor},
    {} if statistics is None else {sensor.name: statistics},
    section.batch_size,
    len(indices),
  )


def target(
  config: config_dict.ConfigDict, store: stores.Store
) -> labelled_cut.Target:
  """What `config.task` and `config.data.target` say of a store."""
  kind = choices.check(config.task.kind, _TARGETS, key='config.task.kind')
  outputs = config.task.outputs
  if outputs is None:
    outputs = _outputs(config, store)
  if kind == 'change' and outputs == 1:
    outputs = 2  # One score for two codes.
  if kind in ('scalar', 'map'):
    outputs = 0
  return labelled_cut.Target(
    name=config.data.target,
    kind=_TARGETS[kind],
    classes=outputs,
    count=config.data.max_boxes,
  )


def _outputs(config: config_dict.ConfigDict, store: stores.Store | None) -> int:
  kind = config.task.kind
  if kind in ('scalar', 'map'):
    return 1
  if kind in ('classes', 'labels') and store is not None and store.classes:
    return len(store.classes)
  raise ValueError(
    f'config.task.outputs is None, and config.data.store='
    f'{config.data.store!r} does not say how many classes '
    f'config.task.kind={kind} has; set it.'
  )


def _overlap(config: config_dict.ConfigDict, store: stores.Store) -> str:
  """Whether two splits of the config are one."""
  section = config.data
  splits = [section.train_split, section.val_split, section.test_split]
  if splits[0] in splits[1:]:
    return (
      f'config.data.train_split={splits[0]!r} is also evaluated on; choose '
      f'other splits of {sorted({s for s in store.column("split") if s})}'
    )
  return ''


def batches(
  config: config_dict.ConfigDict,
  found: found_lib.Data,
  *,
  step: int,
  share: shares.Share = shares.ALL,
) -> Iterator[Any]:
  (stream,) = found.streams
  return labelled.batches(
    stream.data,
    stream.indices,
    window=window(config),
    batch_size=config.data.batch_size,
    seed=config.seed,
    step=step,
    share=share,
    workers=config.data.workers,
    threads=config.data.threads,
  )


def evaluation_batches(
  config: config_dict.ConfigDict, found: found_lib.Data, split: str
) -> Iterator[Any]:
  """A split once, in the size that the model is trained on."""
  (stream,) = found.streams
  return labelled_evaluation.batches(
    stream.data,
    split,
    config.data.batch_size,
    fit=config.evaluation.fit,
    size=config.data.window.size,
    threads=config.data.threads,
  )


def window(config: config_dict.ConfigDict) -> labelled_cut.Window:
  return configs.build(
    labelled_cut.Window, config.data.window, key='data.window'
  )


def images_per_step(config: config_dict.ConfigDict) -> dict[str, int]:
  """Images that pass the encoder: of a pair both."""
  dates = 2 if config.data.pair == 'after' else 1
  return {config.data.sensor: dates * config.data.batch_size}


def _image_shape(config: config_dict.ConfigDict) -> tuple[int, ...]:
  """[B, (2,) H, W, C] of a global batch."""
  section, side = config.data, config.data.window.size
  dates = (2,) if section.pair == 'after' else ()
  bands = len(catalogue.get(section.sensor).bands)
  return section.batch_size, *dates, side, side, bands


def abstract_batch(
  config: config_dict.ConfigDict, spec: Any, mesh: jax.sharding.Mesh
) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
  """What the pipeline yields for a global batch, with shardings."""
  del spec
  sharding = meshes.batch_sharding(mesh)
  *front, side, _, bands = _image_shape(config)
  kind = _TARGETS[config.task.kind]
  if kind == 'bits' and config.task.outputs is None:
    raise ValueError('config.task.outputs: say how many labels there are.')
  shape = {
    'bits': (config.task.outputs,),
    'codes': (side, side),
    'numbers': (side, side),
    'boxes': (config.data.max_boxes, len(boxes_lib.COLUMNS)),
    'oriented_boxes': (config.data.max_boxes, len(boxes_lib.COLUMNS)),
  }.get(kind, ())

  def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  return {
    config.data.sensor: {
      'image': array(jnp.float32, *front, side, side, bands),
      'band_valid': array(jnp.bool_, *front, bands),
      'pixel_valid': array(jnp.bool_, *front, side, side),
      'valid': array(jnp.bool_, front[0]),
    },
    labelled_cut.PLACE: {
      'target': array(labelled_cut.DTYPES[kind], front[0], *shape),
      'valid': array(jnp.bool_, front[0]),
    },
  }


def flops(config: config_dict.ConfigDict, spec: Any) -> int:
  """Model FLOPs of a step: the encoder, forward and, if trained, backward."""
  ((sensor, count),) = images_per_step(config).items()
  times = 1 if config.model.encoder == 'frozen' else _TRAIN_PER_FORWARD
  if isinstance(spec, ringmoe.RingMoESpec):
    return times * count * accounting.flops(spec, sensor)
  if isinstance(spec, mapex_spec.MapexSpec):
    sized = dataclasses.replace(spec, image_size=config.data.window.size)
    return times * count * accounting.mapex_flops(sized, (sensor,))
  side = {sensor: config.data.window.size}
  return times * count * accounting.skysense_flops(spec, side)
