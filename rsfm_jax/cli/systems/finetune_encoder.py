"""The encoder of a fine-tuning: its spec, weights, normalisation and rates."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np

from rsfm_jax.cli import models as opening
from rsfm_jax.cli.systems import finetune_tiles as tiles
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
from rsfm_jax.tasks import finetuning

# Where parameters lie of which each sensor has its own.
_OF_SENSOR = r'embed|stage_\d+/(?:prompts|positions)|fusion/(?:input|up)'
_SIZES = {
  'ringmoe': sizes.ringmoe_spec,
  'skysense_v2': sizes.skysense_v2_spec,
  'mapex': sizes.mapex_spec,
}


def spec_of(config: config_dict.ConfigDict) -> Any:
  """Of the encoder: the checkpoint's, else of a named size; with changes.

  SkySense V2 keeps the tokenizers of the sensors that it sees, and fusion and
  geo-context where the head reads fused features (arXiv 2507.13812, section
  4.1); a RingMoE its decoders no more, a MAPEX-style model its decoder no more.
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
  if tiles.used(config):
    tiles.check(config, spec)
  else:
    tiles.check_unused(config)
  spec = _of_sensors(spec, config)
  return dataclasses.replace(spec, **changes)


def _of_sensors(spec: Any, config: config_dict.ConfigDict) -> Any:
  """The spec with what the sensors need."""
  sensor = config.data.sensor
  if isinstance(spec, ringmoe.RingMoESpec):
    choices.check(sensor, spec.sensors, key='config.data.sensor')
    return dataclasses.replace(spec, decoders=False)
  if isinstance(spec, mapex_spec.MapexSpec):
    choices.check(sensor, spec.sensors, key='config.data.sensor')
    return dataclasses.replace(spec, decoder_depth=0)
  places = _tokenizers(config)
  for sensor, like in places.items():
    key = f'config.model.tokenizers of {sensor}'
    choices.check(like, spec.sensors, key=key)
  of = lambda field: tuple(spec.of(field, like) for like in places.values())
  fused = tiles.fused(config) and spec.fusion_depth
  return dataclasses.replace(
    spec,
    sensors=tuple(places),
    channels=tuple(
      spec.of('channels', like) if s == like else len(catalogue.get(s).bands)
      for s, like in places.items()
    ),
    reduces=of('reduces'),
    image_sizes=of('image_sizes'),
    fusion_depth=spec.fusion_depth if fused else 0,
    prototypes_dim=spec.prototypes_dim if fused and _regions(config) else 0,
  )


def _tokenizers(config: config_dict.ConfigDict) -> dict[str, str]:
  """{sensor: the one of the checkpoint whose place it takes}."""
  given = config.model.tokenizers.to_dict()
  for name in given:
    choices.check(name, catalogue.names(), key='config.model.tokenizers')
  return {name: given.get(name, name) for name in tiles.sensors(config)}


def _regions(config: config_dict.ConfigDict) -> tuple[int, int] | None:
  """(R, Np) of the prototypes that a run of pre-training left, if it did."""
  if not config.model.checkpoint:
    return None
  about = opening.metadata(config.model.checkpoint).get('objective') or {}
  found = about.get('regions', 0), about.get('prototypes', 0)
  return found if all(found) else None


def prototypes(
  config: config_dict.ConfigDict, spec: Any
) -> jax.ShapeDtypeStruct | None:
  """f32[R, Np, dp] of the regions, abstract; None where there are none."""
  dim = getattr(spec, 'prototypes_dim', 0)
  if not dim or not tiles.used(config):
    return None
  return jax.ShapeDtypeStruct((*_regions(config), dim), jnp.float32)


def sensor_of(
  config: config_dict.ConfigDict, store: stores.Store, name: str
) -> tuple[contract.Sensor, stats.Statistics | None]:
  """Contract and statistics of a sensor that the encoder sees."""
  section, held = config.data, {}
  how = choices.check(
    section.normalisation,
    ('pretrained', 'dataset'),
    key='config.data.normalisation',
  )
  if config.model.checkpoint:
    held = opening.metadata(config.model.checkpoint)['contract']
  if name in held.get('sensors', {}):
    sensor = contract.Sensor.from_json(held['sensors'][name])
  else:
    sensor = catalogue.get(name)
  if sensor.kind == contract.Kind.SAR_COMPLEX:
    return sensor, None
  if how == 'dataset':
    splits = train_splits(config)
    return sensor, adapt.merged_statistics(
      sensor,
      (store,) * len(splits),
      splits=splits,
      missing_bands=section.missing_bands,
    )
  known = held.get('statistics', {})
  if name not in known:
    raise ValueError(
      f'config.data.normalisation=pretrained: config.model.checkpoint='
      f'{config.model.checkpoint!r} has no statistics of {name}, '
      f"only of {sorted(known)}; use 'dataset'."
    )
  return sensor, stats.Statistics.from_json(known[name])


def train_splits(config: config_dict.ConfigDict) -> tuple[str, ...]:
  """What is trained on: a split, or the folds of a cross-validation."""
  given = config.data.train_split
  return (given,) if isinstance(given, str) else tuple(given)


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
  if finetuning.PROTOTYPES in state['extra']:
    out['extra'] = state['extra'] | {
      finetuning.PROTOTYPES: jax.device_put(
        opening.prototypes_of(opened),
        state['extra'][finetuning.PROTOTYPES].sharding,
      )
    }
  elif tiles.fused(config) and opened.model.spec.prototypes_dim:
    log.info('%s left no prototypes of regions', config.model.checkpoint)
  return out


def _renamed(params: trees.Tree, config: config_dict.ConfigDict) -> trees.Tree:
  """What belongs to one sensor, under the names of those that the data has."""
  flat = trees.flatten(params)
  out = dict(flat)
  for sensor, like in _tokenizers(config).items():
    if sensor == like:
      continue
    place = re.compile(rf'^({_OF_SENSOR})/{re.escape(like)}(/.*|)$')
    for name, leaf in flat.items():
      if place.match(name):
        out[place.sub(rf'\1/{sensor}\2', name)] = leaf
  return trees.unflatten(out)
