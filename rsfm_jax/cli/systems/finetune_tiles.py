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
from rsfm_jax.tasks import spec as task_spec


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
  for name in names:
    choices.check(name, catalogue.names(), key='config.data.sensors')
  evaluation_dates(config)
  if section.pair != 'none':
    raise ValueError(
      f'config.data.pair={section.pair!r} does not go with {together}: a pair '
      'is two images of config.data.sensor.'
    )
  if config.task.kind in task_spec.BOXES:
    raise ValueError(
      f'config.task.kind={config.task.kind!r} does not go with {together}: '
      'boxes are of one image of config.data.sensor.'
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
  tile_cut.Geometry.of(names, section.window.size, factors(config))


def check_unused(config: config_dict.ConfigDict) -> None:
  """Raises ValueError for keys that need `config.data.sensors`."""
  for key in (
    'model.reduces',
    'data.dates',
    'data.factors',
    'data.target_size',
  ):
    section, name = key.split('.')
    if value := config[section][name]:
      raise ValueError(
        f'config.{key}={value} is for the sensors of config.data.sensors, '
        'which is empty.'
      )


def dates(config: config_dict.ConfigDict) -> dict[str, int]:
  """{sensor: the most dates in training}, 1 where not given.

  Raises:
    ValueError: fewer than 1, or given for what is no sensor.
  """
  found = _of_sensors(config, config.data.dates.to_dict(), key='dates')
  for name, count in found.items():
    if count < 1:
      raise ValueError(f'config.data.dates.{name}={count} must be at least 1.')
  return found


def evaluation_dates(config: config_dict.ConfigDict) -> dict[str, int]:
  """{sensor: the most dates in evaluation}, those of training unless given."""
  given = dates(config) | config.evaluation.dates.to_dict()
  return _of_sensors(config, given, key='dates')


def factors(config: config_dict.ConfigDict) -> dict[str, int]:
  """{sensor: pixels of the finest per pixel}, 1 where not given."""
  return _of_sensors(config, config.data.factors.to_dict(), key='factors')


def _of_sensors(
  config: config_dict.ConfigDict, given: dict[str, int], *, key: str
) -> dict[str, int]:
  """Of what is given, what the sensors of the config need; one may be left out.

  Raises:
    ValueError: given for what is no sensor.
  """
  for name in given:
    choices.check(name, catalogue.names(), key=f'config.data.{key}')
  return {name: given.get(name, 1) for name in sensors(config)}


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
    dates=dates(config),
    factors=factors(config),
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
    dates=dates(config),
    factors=factors(config),
  )


def reduces(
  config: config_dict.ConfigDict,
) -> dict[str, skysense_v2_spec.Reduces]:
  """{sensor: where its grid halves}, in place of the model's."""
  found = config.model.reduces.to_dict()
  for name, value in found.items():
    choices.check(name, catalogue.names(), key='config.model.reduces')
    skysense_v2_spec.check_reduces(value, key=f'config.model.reduces.{name}')
  return {name: found[name] for name in sensors(config) if name in found}


def flops(
  config: config_dict.ConfigDict, spec: skysense_v2_spec.SkySenseV2Spec
) -> int:
  """Forward FLOPs of one sample: trunk of every date, and fusion."""
  wide, halved = factors(config), reduces(config)
  sides = {s: config.data.window.size // wide[s] for s in spec.sensors}
  sized = dataclasses.replace(
    spec,
    reduces=tuple(halved.get(s, spec.of('reduces', s)) for s in spec.sensors),
    image_sizes=tuple(sides.values()),
  )
  return accounting.skysense_flops(sized, sides, dates=dates(config))
