"""Fine-tuning on series and several sensors: what `config.data.sensors` adds.

A model of one sensor and one image is what is left where it is empty. As the
paper uses SkySense V2 (arXiv 2507.13812, section 4.1): a series passes the
fusion over its dates, several sensors that over sensors and dates, and the
prototypes of regions, where the run left any, stay as they are.
"""

import dataclasses
from typing import Any

from ml_collections import config_dict

from rsfm_jax.core import choices
from rsfm_jax.data import labelled_cut
from rsfm_jax.data import labelled_tiles
from rsfm_jax.data import store as stores
from rsfm_jax.data import tile_cut
from rsfm_jax.data import tiles
from rsfm_jax.models import accounting
from rsfm_jax.models import encoder
from rsfm_jax.models import skysense_v2_spec
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import statistics as stats


def used(config: config_dict.ConfigDict) -> bool:
  return bool(config.data.sensors)


def sensors(config: config_dict.ConfigDict) -> tuple[str, ...]:
  """Names of what the encoder sees.

  Raises:
    ValueError: a sensor twice.
  """
  names = tuple(config.data.sensors) or (config.data.sensor,)
  if len(set(names)) < len(names):
    raise ValueError(f'config.data.sensors={names}: name each once.')
  return names


def dataset(config: config_dict.ConfigDict) -> str:
  """The store's name in rows, with the sensors where there are several."""
  of = f' ({" + ".join(sensors(config))})' if used(config) else ''
  return f'{config.data.store}{of}'


def fused(config: config_dict.ConfigDict) -> bool:
  """Whether the head reads features of all sensors and dates."""
  return used(config) and encoder.FUSED in config.task.levels


def check(config: config_dict.ConfigDict, spec: Any) -> None:
  """Holds the rest of a config against several sensors, or series.

  Raises:
    ValueError: names the key that does not go with `config.data.sensors`.
  """
  section, names = config.data, sensors(config)
  together = f'config.data.sensors={names}'
  if not isinstance(spec, skysense_v2_spec.SkySenseV2Spec):
    raise ValueError(
      f'{together} needs a SkySense V2, not a {type(spec).__name__}: leave '
      'config.data.sensors empty and name one sensor by config.data.sensor.'
    )
  for key in ('dates', 'factors'):
    for name in section[key]:
      choices.check(name, names, key=f'config.data.{key}')
  for name, count in section.dates.items():
    if count < 1:
      raise ValueError(f'config.data.dates.{name}={count} must be at least 1.')
  for name in config.evaluation.dates:
    choices.check(name, names, key='config.evaluation.dates')
  if section.pair != 'none':
    raise ValueError(
      f'config.data.pair={section.pair!r} does not go with {together}: a pair '
      'is two images of config.data.sensor.'
    )
  for key in ('erasing', 'mixup'):
    if config.mixing[key]:
      raise ValueError(
        f'config.mixing.{key}={config.mixing[key]} does not go with '
        f'{together}: it is for one image of config.data.sensor.'
      )
  form, scale = section.window.form, tuple(section.window.scale)
  if form not in ('whole', 'scale') or form == 'scale' and scale != (1, 1):
    raise ValueError(
      f'config.data.window.form={form!r}, scale={scale} does not go with '
      f"{together}: use 'whole', or 'scale' with scale=(1, 1), a plain crop."
    )
  # Raises, where no whole pixels of all sensors fit into a window.
  tile_cut.Geometry.of(
    names,
    section.window.size,
    labelled_tiles.factors_of(names, section.factors.to_dict()),
  )


def target_size(config: config_dict.ConfigDict) -> int:
  """Pixels of a target of pixels on a side of a window."""
  return config.data.target_size or config.data.window.size


def labelled(
  config: config_dict.ConfigDict,
  store: stores.Store,
  contracts: dict[str, contract.Sensor],
  statistics: dict[str, stats.Statistics],
  target: labelled_cut.Target,
  *,
  regions: int,
) -> labelled_tiles.LabelledTiles:
  section = config.data
  return labelled_tiles.LabelledTiles(
    store=store,
    sensors=tuple(contracts.values()),
    target=target,
    statistics=statistics,
    tile=section.window.size,
    target_size=target_size(config),
    dates=section.dates.to_dict(),
    factors=section.factors.to_dict(),
    regions=regions,
    missing_bands=section.missing_bands,
    missing_sensors=section.missing_sensors,
  )


def shapes(
  config: config_dict.ConfigDict, target: labelled_cut.Target
) -> tiles.Shapes:
  """Those of a global batch; see `labelled_tiles.shapes`."""
  section = config.data
  return labelled_tiles.shapes(
    [catalogue.get(name) for name in sensors(config)],
    target,
    batch_size=section.batch_size,
    tile=section.window.size,
    target_size=target_size(config),
    dates=section.dates.to_dict(),
    factors=section.factors.to_dict(),
  )


def reduces(
  config: config_dict.ConfigDict,
) -> dict[str, skysense_v2_spec.Reduces]:
  """{sensor: where its grid halves}, in place of the model's."""
  found = config.model.reduces.to_dict()
  for name, value in found.items():
    choices.check(name, sensors(config), key='config.model.reduces')
    skysense_v2_spec.check_reduces(value, key=f'config.model.reduces.{name}')
  return found


def flops(
  config: config_dict.ConfigDict, spec: skysense_v2_spec.SkySenseV2Spec
) -> int:
  """Forward FLOPs of one sample: trunk of every date, and fusion."""
  factors, halved = config.data.factors.to_dict(), reduces(config)
  size = config.data.window.size
  sides = {name: size // factors.get(name, 1) for name in spec.sensors}
  sized = dataclasses.replace(
    spec,
    reduces=tuple(halved.get(s, spec.of('reduces', s)) for s in spec.sensors),
    image_sizes=tuple(sides.values()),
  )
  dates = config.data.dates.to_dict()
  return accounting.skysense_flops(sized, sides, dates=dates)
