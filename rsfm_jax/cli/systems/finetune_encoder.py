"""The encoder of a fine-tuning: its spec, weights, normalisation and rates."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np

from rsfm_jax.cli import models as opening
from rsfm_jax.core import choices
from rsfm_jax.core import log
from rsfm_jax.core import trees
from rsfm_jax.data import adapt
from rsfm_jax.data import store as stores
from rsfm_jax.models import build
from rsfm_jax.models import layers
from rsfm_jax.models import mapex_spec
from rsfm_jax.models import ringmoe
from rsfm_jax.models import sizes
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import statistics as stats

_SIZES = {
  'ringmoe': sizes.ringmoe_spec,
  'skysense_v2': sizes.skysense_v2_spec,
  'mapex': sizes.mapex_spec,
}


def spec_of(config: config_dict.ConfigDict) -> Any:
  """Of the encoder: the checkpoint's, else of a named size; with changes.

  SkySense V2 keeps the tokenizer of one sensor and neither fusion nor
  geo-context, as for the paper's single-sensor tasks (arXiv 2507.13812); a
  RingMoE its decoders no more, a MAPEX-style model its decoder no more.
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
  if isinstance(spec, mapex_spec.MapexSpec):
    choices.check(sensor, spec.sensors, key='config.data.sensor')
    return dataclasses.replace(spec, decoder_depth=0)
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


def sensor_of(
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
