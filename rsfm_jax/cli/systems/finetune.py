"""Fine-tuning: an encoder of any system, a head, a labelled store."""

from collections.abc import Iterator
import dataclasses
import pathlib
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import models as opening
from rsfm_jax.cli.systems import found as found_lib
from rsfm_jax.core import choices
from rsfm_jax.core import log
from rsfm_jax.core import trees
from rsfm_jax.data import adapt
from rsfm_jax.data import labelled
from rsfm_jax.data import labelled_cut
from rsfm_jax.data import labelled_evaluation
from rsfm_jax.data import shares
from rsfm_jax.data import store as stores
from rsfm_jax.evaluate import outcomes
from rsfm_jax.models import accounting
from rsfm_jax.models import build
from rsfm_jax.models import layers
from rsfm_jax.models import ringmoe
from rsfm_jax.models import sizes
from rsfm_jax.moe import expert_parallel
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import statistics as stats
from rsfm_jax.sharding import mesh as meshes
from rsfm_jax.tasks import contract as task_contract
from rsfm_jax.tasks import encoders
from rsfm_jax.tasks import finetuning
from rsfm_jax.tasks import mixing
from rsfm_jax.tasks import spec as task_spec

_SIZES = {'ringmoe': sizes.ringmoe_spec, 'skysense_v2': sizes.skysense_v2_spec}
# The kind of target that a kind of task is about.
_TARGETS = {
  'classes': 'class',
  'labels': 'bits',
  'scalar': 'number',
  'segmentation': 'codes',
  'change': 'codes',
  'map': 'numbers',
}
_TRAIN_PER_FORWARD = 3


class Stream(NamedTuple):
  """A labelled store and the samples that are trained on."""

  data: labelled.Labelled
  indices: np.ndarray


def model(config: config_dict.ConfigDict) -> build.Model:
  return build.build(encoder_spec(config))


def encoder_spec(config: config_dict.ConfigDict) -> Any:
  """Of the encoder: the checkpoint's, else of a named size; with changes.

  SkySense V2 keeps the tokenizer of one sensor and neither fusion nor
  geo-context (arXiv 2507.13812, section 4.2); a RingMoE its decoders no more.
  """
  section = config.model
  if section.checkpoint:
    spec = build.spec_from_json(opening.metadata(section.checkpoint)['spec'])
  else:
    choices.check(section.system, _SIZES, key='config.model.system')
    spec = _SIZES[section.system](section.size)
  changes = section.changes.to_dict()
  known = {field.name for field in dataclasses.fields(spec)}
  for name in changes:
    choices.check(name, known, key='key of config.model.changes')
  spec = _of_sensor(spec, config)
  return dataclasses.replace(spec, **changes)


def _of_sensor(spec: Any, config: config_dict.ConfigDict) -> Any:
  """The spec with what one sensor needs."""
  sensor = config.data.sensor
  if isinstance(spec, ringmoe.RingMoESpec):
    choices.check(sensor, spec.sensors, key='config.data.sensor')
    return dataclasses.replace(spec, decoders=False)
  like = _tokenizer(config)
  choices.check(like, spec.sensors, key='config.model.tokenizer')
  channels = spec.of('channels', like)
  if sensor != like:
    channels = len(catalogue.get(sensor).bands)
  return dataclasses.replace(
    spec,
    sensors=(sensor,),
    channels=(channels,),
    reduces=(spec.of('reduces', like),),
    image_sizes=(spec.of('image_sizes', like),),
    fusion_depth=0,
    prototypes_dim=0,
  )


def _tokenizer(config: config_dict.ConfigDict) -> str:
  """The sensor of the checkpoint that the data's sensor takes the place of."""
  return config.model.tokenizer or config.data.sensor


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
  section = config.data
  store = stores.Store(pathlib.Path(section.root) / section.store)
  sensor, statistics = _sensor(config, store)
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
    name=config.data.target, kind=_TARGETS[kind], classes=outputs
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


def _sensor(
  config: config_dict.ConfigDict, store: stores.Store
) -> tuple[contract.Sensor, stats.Statistics | None]:
  """Contract and statistics of what the encoder sees."""
  section, held = config.data, {}
  how = choices.check(
    section.normalisation,
    ('pretrained', 'dataset'),
    key='config.data.normalisation',
  )
  if config.model.checkpoint:
    held = opening.metadata(config.model.checkpoint)['contract']
  if section.sensor in held.get('sensors', {}):
    sensor = contract.Sensor.from_json(held['sensors'][section.sensor])
  else:
    sensor = catalogue.get(section.sensor)
  if sensor.kind == contract.Kind.SAR_COMPLEX:
    return sensor, None
  if how == 'dataset':
    return sensor, adapt.merged_statistics(
      sensor,
      (store,),
      splits=(section.train_split,),
      missing_bands=section.missing_bands,
    )
  known = held.get('statistics', {})
  if section.sensor not in known:
    raise ValueError(
      f'config.data.normalisation=pretrained: config.model.checkpoint='
      f'{config.model.checkpoint!r} has no statistics of {section.sensor}, '
      f"only of {sorted(known)}; use 'dataset'."
    )
  return sensor, stats.Statistics.from_json(known[section.sensor])


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
  side = {sensor: config.data.window.size}
  return times * count * accounting.skysense_flops(spec, side)


def rates(
  config: config_dict.ConfigDict, built: build.Model, params: trees.Tree
) -> trees.Tree:
  """Layer-wise factors of the learning rate; 0 for a frozen encoder."""
  found = layers.rates(built.spec, params, decay=config.optim.layer_decay)
  if config.model.encoder != 'frozen':
    return found
  heads = {build.HEADS}
  return {
    name: part if name in heads else jax.tree.map(lambda _: np.float32(0), part)
    for name, part in found.items()
  }


def initial(
  config: config_dict.ConfigDict, built: build.Model, state: trees.Tree
) -> trees.Tree:
  """A new state whose encoder is that of the checkpoint, if there is one.

  Raises:
    ValueError: parameters that the checkpoint lacks, or has in another shape,
      and that `model.fresh` does not name.
  """
  if not config.model.checkpoint:
    return state
  opened = opening.open_model(config.model.checkpoint, which=config.model.which)
  have = trees.flatten(_renamed(opened.params, config))
  fresh = [re.compile(pattern) for pattern in config.model.fresh]

  def take(name: str, leaf: jax.Array) -> jax.Array:
    given = have.get(name)
    if given is not None and given.shape == leaf.shape:
      return jax.device_put(given.astype(leaf.dtype), leaf.sharding)
    if any(pattern.fullmatch(name) for pattern in fresh):
      log.info('%s starts anew', name)
      return leaf
    raise ValueError(
      f'{config.model.checkpoint}: {name} is '
      f'{"absent" if given is None else given.shape} there and {leaf.shape} '
      'here; a parameter that may start anew is named by config.model.fresh.'
    )

  encoder = {k: v for k, v in state['params'].items() if k != build.HEADS}
  loaded = trees.map_named(take, encoder)
  out = {**state, 'params': state['params'] | loaded}
  if 'ema' in state:
    # A copy: one buffer cannot be donated twice.
    copies = jax.tree.map(lambda x: jnp.array(x, jnp.float32), loaded)
    out['ema'] = state['ema'] | copies
  return out


def _renamed(params: trees.Tree, config: config_dict.ConfigDict) -> trees.Tree:
  """Tokenizer, prompts and positions under the name of the data's sensor."""
  like, sensor = _tokenizer(config), config.data.sensor
  if like == sensor:
    return params
  flat = trees.flatten(params)
  place = re.compile(rf'^(embed|stage_\d+/(?:prompts|positions))/{like}(/.*|)$')
  renamed = lambda name: place.sub(rf'\1/{sensor}\2', name)
  return trees.unflatten({renamed(name): leaf for name, leaf in flat.items()})
