"""Fine-tuning: an encoder of any system, a head, a labelled store."""

from collections.abc import Iterator, Sequence
import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
from ml_collections import config_dict
import numpy as np

from rsfm_jax.cli import config as configs
from rsfm_jax.cli.systems import finetune_encoder as encoder
from rsfm_jax.cli.systems import finetune_tiles as tiles
from rsfm_jax.cli.systems import found as found_lib
from rsfm_jax.core import choices
from rsfm_jax.core import log
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
  'semantic_change': 'codes',
  'map': 'numbers',
  'boxes': 'boxes',
  'oriented_boxes': 'oriented_boxes',
}
_TRAIN_PER_FORWARD = 3


class Stream(NamedTuple):
  """A labelled store and the samples that are trained on."""

  data: labelled.Data
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
  side = tiles.target_size(config)
  options = {'engine': config.model.engine, 'placement': placement}
  if tiles.used(config):
    encode = encoders.tiles(
      built.spec, size=(side, side), reduces=tiles.reduces(config), **options
    )
  else:
    encode = encoders.single(built.spec, **options)
  maps = jax.eval_shape(
    lambda p, x: encode(p, x, mode='eval').maps,
    built.abstract,
    finetuning.sensors_of(_abstract(config)),
  )
  features = task_contract.Features(maps, (side, side))
  known = encoder.prototypes(config, built.spec)
  return finetuning.FineTuning(spec, encode, features, known)


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
  spec = encoder.spec_of(config)  # Does the model have the sensors at all?
  section = config.data
  store = stores.Store(pathlib.Path(section.root) / section.store)
  names = tiles.sensors(config)
  found = {name: encoder.sensor_of(config, store, name) for name in names}
  contracts = {name: sensor for name, (sensor, _) in found.items()}
  statistics = {name: known for name, (_, known) in found.items() if known}
  if tiles.used(config):
    known = encoder.prototypes(config, spec)
    one = tiles.labelled(
      config,
      store,
      contracts,
      statistics,
      target(config, store),
      regions=known.shape[0] if known else 1,
    )
  else:
    one = labelled.Labelled(
      store=store,
      sensor=contracts[section.sensor],
      target=target(config, store),
      statistics=statistics.get(section.sensor),
      pair=section.pair,
      missing_bands=section.missing_bands,
    )
  indices = labelled.chosen(
    one,
    encoder.train_splits(config),
    fraction=section.label_fraction,
    seed=config.seed,
  )
  if overlap := _overlap(config, store):
    raise ValueError(f'{store.folder}: {overlap}.')
  log.info('%d labelled samples of %s', len(indices), store.folder)
  return found_lib.Data(
    [Stream(one, indices)],
    contracts,
    statistics,
    section.batch_size,
    len(indices),
    class_names(config, store),
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
  return _target(config, outputs)


def _target(
  config: config_dict.ConfigDict, classes: int
) -> labelled_cut.Target:
  kind = config.task.kind
  return labelled_cut.Target(
    name=config.data.target,
    kind=_TARGETS[kind],
    classes=classes,
    pair='after' if kind == 'semantic_change' else 'none',
    count=config.data.max_boxes,
  )


def _outputs(config: config_dict.ConfigDict, store: stores.Store | None) -> int:
  kind = config.task.kind
  if kind in ('scalar', 'map'):
    return 1
  names = class_names(config, store) if store is not None else ()
  if names and kind == 'change' and config.task.loss == 'soft_margin':
    return 1  # One score for two codes.
  if names:
    return len(names)
  raise ValueError(
    f'config.task.outputs is None, and config.data.store='
    f'{config.data.store!r} does not say how many classes '
    f'config.task.kind={kind} has; set it.'
  )


def class_names(
  config: config_dict.ConfigDict, store: stores.Store
) -> tuple[str, ...]:
  """Names of the target's classes: those of labels, or else of masks or boxes.

  () where there are none, or the store's are of labels and the target is not.
  """
  kind, names = config.task.kind, tuple(store.classes or ())
  if kind in ('scalar', 'map') or config.task.outputs not in _counts(names):
    return ()
  labelled = any(label is not None for label in store.column('label'))
  return names if labelled == (kind in ('classes', 'labels')) else ()


def _counts(names: Sequence[str]) -> tuple[int | None, ...]:
  """What `task.outputs` may say of so many classes; one score tells two."""
  return (None, len(names), *((1,) if len(names) == 2 else ()))


def _overlap(config: config_dict.ConfigDict, store: stores.Store) -> str:
  """Whether two splits of the config are one."""
  section = config.data
  splits = encoder.train_splits(config)
  if {section.val_split, section.test_split} & set(splits):
    return (
      f'config.data.train_split={section.train_split!r} is also evaluated on; '
      'choose '
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
  ((data, _),) = found.streams
  if tiles.used(config):
    dates = tiles.evaluation_dates(config)
    data = dataclasses.replace(data, dates=dates)
  return labelled_evaluation.batches(
    data,
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
  """Images that pass the encoder, of a pair both; or tiles."""
  if tiles.used(config):
    return {'tile': config.data.batch_size}
  dates = 2 if config.data.pair == 'after' else 1
  return {config.data.sensor: dates * config.data.batch_size}


def abstract_batch(
  config: config_dict.ConfigDict, spec: Any, mesh: jax.sharding.Mesh
) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
  """What the pipeline yields for a global batch, with shardings."""
  del spec
  sharding = meshes.batch_sharding(mesh)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    _abstract(config),
  )


def _abstract(
  config: config_dict.ConfigDict,
) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
  """{part: {array: shape and dtype}} of a global batch."""
  section, kind = config.data, _TARGETS[config.task.kind]
  if kind == 'bits' and config.task.outputs is None:
    raise ValueError('config.task.outputs: say how many labels there are.')
  wanted = _target(config, config.task.outputs or 0)
  if tiles.used(config):
    found = tiles.shapes(config, wanted)
  else:
    found = labelled.shapes(
      catalogue.get(section.sensor),
      wanted,
      batch_size=section.batch_size,
      size=section.window.size,
      pair=section.pair,
    )
  return {
    part: {name: jax.ShapeDtypeStruct(*like) for name, like in arrays.items()}
    for part, arrays in found.items()
  }


def flops(config: config_dict.ConfigDict, spec: Any) -> int:
  """Model FLOPs of a step: the encoder, forward and, if trained, backward."""
  ((sensor, count),) = images_per_step(config).items()
  times = 1 if config.model.encoder == 'frozen' else _TRAIN_PER_FORWARD
  if tiles.used(config):
    return times * count * tiles.flops(config, spec)
  if isinstance(spec, ringmoe.RingMoESpec):
    return times * count * accounting.flops(spec, sensor)
  if isinstance(spec, mapex_spec.MapexSpec):
    sized = dataclasses.replace(spec, image_size=config.data.window.size)
    return times * count * accounting.mapex_flops(sized, (sensor,))
  side = {sensor: config.data.window.size}
  return times * count * accounting.skysense_flops(spec, side)
