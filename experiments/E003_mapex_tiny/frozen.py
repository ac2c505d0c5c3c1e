"""What a MAPEX-style model knows of one sensor or two, pruned or not."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rsfm_jax.cli import frozen
from rsfm_jax.cli import measure
from rsfm_jax.cli import models
from rsfm_jax.cli import pruned
from rsfm_jax.core import trees
from rsfm_jax.data import store as stores
from rsfm_jax.evaluate import baselines
from rsfm_jax.evaluate import features as features_lib
from rsfm_jax.models import build
from rsfm_jax.moe import balance
from rsfm_jax.pruning import keep as keep_lib
from rsfm_jax.pruning import surgery
from rsfm_jax.pruning import usage as usage_lib

SIZE = 32  # Pixels, of pre-training: the whole scene is resized to it.
KEEP = 'top:1'  # The union of the most used expert of each sensor.


class Scenes(NamedTuple):
  """A labelled store, read once: splits as lists of batches of all sensors."""

  to: measure.Target
  batches: dict[str, list[dict[str, Any]]]


def read(
  store: stores.Store, opened: models.Opened, sensors: Sequence[str]
) -> Scenes:
  """Every sensor of every sample, normalised as the model wants it."""
  targets = [
    measure.target(store, s, opened, fit='resize', size=SIZE) for s in sensors
  ]
  found = {}
  for split in measure.SPLITS:
    streams = [to.batches(split) for to in targets]
    found[split] = [
      parts[0]
      | {'image': {s: p['image'] for s, p in zip(sensors, parts, strict=True)}}
      for parts in zip(*streams, strict=True)
    ]
  return Scenes(targets[0], found)


def calibrate(
  opened: models.Opened, images: Iterable[Mapping[str, np.ndarray]]
) -> usage_lib.Usage:
  """Usage of the experts, each sensor fed alone: {sensor: f32[B, H, W, C]}."""
  return usage_lib.measure(
    opened.model.spec, opened.model.apply, opened.params, images
  )


def shares(usage: usage_lib.Usage) -> np.ndarray:
  """f64[L, M, E]: of the tokens of a sensor."""
  return np.stack([layer.share for layer in usage.layers.values()])


def information(share: np.ndarray) -> list[float]:
  """I(sensor; expert) by layer in nats, all sensors weighing the same."""
  weight = jnp.full(share.shape[1], 1 / share.shape[1])
  return np.asarray(balance.mutual_information(share, weight)).tolist()


def plans(
  opened: models.Opened,
  usage: usage_lib.Usage,
  sensors: Sequence[str],
  *,
  seed: int,
) -> Iterator[tuple[str, keep_lib.Keep, surgery.Pruned]]:
  """(rule, keep set, plan), by use and by controls of equal sizes."""
  spec = opened.model.spec
  best = keep_lib.choose(KEEP, spec, sensors, usage=usage)
  others = keep_lib.controls(best, spec, sensors, usage, seed=seed)
  for rule, kept in {'most used': best, **others}.items():
    yield (
      rule,
      kept,
      pruned.plan(
        opened, sensors=tuple(sensors), keep=kept, usage=usage, seed=seed
      ),
    )


def probe(
  opened: models.Opened,
  scenes: Scenes,
  sensors: Sequence[str],
  *,
  protocols: Sequence[str],
  seed: int,
) -> list[dict[str, Any]]:
  """Probes of the final tokens of all sensors together, fed together."""
  extract = _extractor(opened.model.spec, tuple(sensors))
  rows = frozen.probe(
    lambda images: extract.describe(opened.params, images),
    functools.partial(_cut, scenes, sensors),
    scenes.to,
    name='',
    protocols=protocols,
    seed=seed,
  )
  size = trees.count(opened.params) - trees.count(
    opened.params.get('decoder', {})
  )
  return [kept(row) | {'parameters': size} for row in rows]


def raw(
  scenes: Scenes,
  sensors: Sequence[str],
  *,
  protocols: Sequence[str],
) -> list[dict[str, Any]]:
  """The same of statistics of pixels."""
  out = []
  for name, describe in baselines.BASELINES.items():
    rows = frozen.probe(
      lambda images, of=describe: np.concatenate(
        [of(images[s]) for s in sensors], -1
      ),
      functools.partial(_cut, scenes, sensors),
      scenes.to,
      name='',
      protocols=protocols,
      seed=0,
    )
    out += [kept(row) | {'model': name.replace('_', ' ')} for row in rows]
  return out


def kept(row: Any) -> dict[str, Any]:
  """What is recorded of a row; the interval is over test scenes."""
  return {
    'protocol': row.protocol,
    'accuracy': row.value,
    'low': row.low,
    'high': row.high,
  }


def _cut(
  scenes: Scenes, sensors: Sequence[str], split: str
) -> Iterator[dict[str, Any]]:
  for batch in scenes.batches[split]:
    yield batch | {'image': {s: batch['image'][s] for s in sensors}}


@functools.lru_cache(maxsize=64)
def _extractor(spec: Any, sensors: tuple[str, ...]) -> features_lib.Extractor:
  """Means and deviations over the tokens of all sensors (DEFAULT)."""
  apply = build.build(spec).apply

  def encode(params: Any, images: Any) -> dict[str, Any]:
    found = apply(params, images, mode='eval').features
    return {'final': jnp.concatenate([found[s] for s in sensors], 1)}

  return features_lib.Extractor(encode, ('final',))
