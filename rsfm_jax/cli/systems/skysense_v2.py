"""SkySense V2: tiles of several sensors and dates, teacher and student."""

from collections.abc import Iterator
import functools
import pathlib
from typing import Any

import jax
from ml_collections import config_dict
import numpy as np

from rsfm_jax.cli import config as configs
from rsfm_jax.cli.systems import found as found_lib
from rsfm_jax.core import log
from rsfm_jax.data import adapt
from rsfm_jax.data import shares
from rsfm_jax.data import store as stores
from rsfm_jax.data import tiles
from rsfm_jax.data.synthetic import writing
from rsfm_jax.models import accounting
from rsfm_jax.models import build
from rsfm_jax.models import skysense_v2_spec
from rsfm_jax.moe import expert_parallel
from rsfm_jax.objectives import heads
from rsfm_jax.objectives import photometric
from rsfm_jax.objectives import skysense_v2
from rsfm_jax.objectives import views
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import class_table
from rsfm_jax.sensors import contract
from rsfm_jax.sharding import mesh as meshes

# Where no statistics are known, since only shapes matter: mean and deviation
# of intensities in [0, 1].
_UNKNOWN = (0.5, 0.25)
_WHITE = 255.0
_CLIP = (16, 768)  # Classes, and the width of CLIP ViT-L/14.


def model(config: config_dict.ConfigDict) -> build.Model:
  return build.build(
    configs.build(skysense_v2_spec.SkySenseV2Spec, config.model, key='model')
  )


def objective(
  config: config_dict.ConfigDict,
  built: build.Model,
  *,
  placement: expert_parallel.Placement | None = None,
  total_steps: int,
  found: found_lib.Data | None = None,
) -> skysense_v2.SkySenseV2Pretraining:
  """Teacher and student with all losses that have a weight."""
  section = config.objective.to_dict()
  cut = configs.build(
    views.ViewSpec, section.pop('views'), key='objective.views'
  )
  light = configs.build(
    photometric.PhotometricSpec,
    section.pop('photometric'),
    key='objective.photometric',
  )
  del section['class_table']
  spec = configs.build(
    heads.LossSpec, section | {'total_steps': total_steps}, key='objective'
  )
  return skysense_v2.SkySenseV2Pretraining(
    spec,
    model=built.spec,
    encode=functools.partial(built.apply, placement=placement),
    views=cut,
    photometric=light,
    colours=_colours(built.spec.sensors, found),
    table=_vectors(config, found) if spec.ita_weight else None,
  )


def data(config: config_dict.ConfigDict) -> found_lib.Data:
  """Opens the stores; normalises each sensor by the splits that it reads."""
  section, table = config.data.tiles, class_vectors(config)
  if table is not None:
    # Never a silent substitute: who trains knows what the words are worth.
    log.info('%d class vectors; origin: %s', len(table), table.origin)
  if not section.sources:
    raise ValueError('config.data.tiles.sources is empty: name a store.')
  root = pathlib.Path(config.data.root)
  opened = {name: stores.Store(root / name) for name, _, _ in section.sources}
  if table is not None:
    for name, store in opened.items():
      _check_classes(config, table, name, store)
  contracts = {name: catalogue.get(name) for name in config.model.sensors}
  used = tuple(opened[name] for name, _, _ in section.sources)
  splits = tuple(split for _, split, _ in section.sources)
  statistics = {}
  for name, sensor in contracts.items():
    holding = [i for i, store in enumerate(used) if _holds(store, sensor)]
    if sensor.kind != contract.Kind.SAR_COMPLEX:
      statistics[name] = adapt.merged_statistics(
        sensor,
        tuple(used[i] for i in holding) or used,
        splits=tuple(splits[i] for i in holding) or splits,
        missing_bands=section.missing_bands,
      )
  stream = tiles.TileStream(
    tuple(contracts.values()),
    sources=[(opened[n], split, w) for n, split, w in section.sources],
    statistics=statistics,
    regions=max(config.objective.regions, 1),
    classes=None if table is None else len(table),
    **_options(config),
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
  (stream,) = found.streams
  return tiles.batches(
    stream,
    seed=config.seed,
    step=step,
    share=share,
    workers=config.data.workers,
    threads=config.data.threads,
  )


def images_per_step(config: config_dict.ConfigDict) -> dict[str, int]:
  """A sample is a tile with all its sensors and dates."""
  return {'tile': config.data.tiles.batch_size}


def abstract_batch(
  config: config_dict.ConfigDict, spec: Any, mesh: jax.sharding.Mesh
) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
  """What the pipeline yields for a global batch, with shardings."""
  section = config.data.tiles
  shapes = tiles.shapes(
    [catalogue.get(name) for name in spec.sensors],
    batch_size=section.batch_size,
    tile=section.tile,
    dates=section.dates.to_dict(),
    factors=section.factors.to_dict(),
  )
  sharding = meshes.batch_sharding(mesh)
  return {
    part: {
      name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
      for name, (shape, dtype) in arrays.items()
    }
    for part, arrays in shapes.items()
  }


def flops(config: config_dict.ConfigDict, spec: Any) -> int:
  """Model FLOPs of a step: student forward and backward, teacher forward.

  Encoders alone; heads, fusion of absent sensors and views are not counted.
  """
  section, cut = config.data.tiles, config.objective.views
  total = 0
  for name in ('global', 'local'):
    sides = {
      sensor: cut[f'{name}_size'] // section.factors[sensor]
      for sensor in spec.sensors
    }
    total += cut[f'{name}_views'] * accounting.skysense_flops(
      spec, sides, dates=section.dates.to_dict()
    )
  return 4 * section.batch_size * total


def _options(config: config_dict.ConfigDict) -> dict[str, Any]:
  """The rest of `TileStream`'s arguments."""
  section = config.data.tiles.to_dict()
  del section['sources']
  return section


def _holds(store: stores.Store, sensor: contract.Sensor) -> bool:
  return sensor.name in store.sensors or len(store.sensors) == 1


def _colours(
  sensors: tuple[str, ...], found: found_lib.Data | None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """{optical sensor of three colours: (mean, deviation) in [0, 1]}."""
  out = {}
  for name in sensors:
    sensor = catalogue.get(name)
    if sensor.kind != contract.Kind.OPTICAL or len(sensor.bands) != 3:
      continue
    mean, deviation = (np.full(3, v, np.float32) for v in _UNKNOWN)
    if found is not None:
      of = found.statistics[name]
      mean = np.asarray(of.mean, np.float32) / _WHITE
      deviation = np.asarray(of.std, np.float32) / _WHITE
    out[name] = mean, deviation
  return out


def class_vectors(
  config: config_dict.ConfigDict,
) -> class_table.ClassTable | None:
  """The class table of a run, beside its stores; None without ITA.

  Raises:
    ValueError: no path, or no table there.
  """
  if not config.objective.ita_weight:
    return None
  if not config.objective.class_table:
    raise ValueError(
      'config.objective.class_table is empty: `rsfm data text-embeddings` '
      'makes a table, and config.objective.ita_weight=0 does without.'
    )
  root = pathlib.Path(config.data.root)
  return class_table.load(root / config.objective.class_table)


def _check_classes(
  config: config_dict.ConfigDict,
  table: class_table.ClassTable,
  name: str,
  store: stores.Store,
) -> None:
  """Raises ValueError where codes are known to mean other classes."""
  names = writing.landcover_of(store)
  if names is None:
    return
  try:
    table.check(names)
  except ValueError as error:
    raise ValueError(
      f'config.objective.class_table={config.objective.class_table} and the '
      f'land cover of the store {name}: {error}'
    ) from error


def _vectors(
  config: config_dict.ConfigDict, found: found_lib.Data | None
) -> np.ndarray:
  """f32[K, E] of the classes; any where only shapes matter."""
  if found is None:
    return np.ones(_CLIP, np.float32)
  return class_vectors(config).vectors
