"""Features of SkySense V2 from tiles: series of a sensor, several sensors.

As the paper uses its model (arXiv 2507.13812, section 4.1): tokenizer and trunk
for one image (`cli/measure`), the fusion over dates for a series, over sensors
and dates for several sensors. The prototypes of a sample's region are used as
the run left them; a sample without coordinates, and a model without prototypes,
does without.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.cli import encoders
from rsfm_jax.cli import models
from rsfm_jax.core import choices
from rsfm_jax.data import adapt
from rsfm_jax.data import samples
from rsfm_jax.data import store as stores
from rsfm_jax.data import tiles
from rsfm_jax.evaluate import baselines
from rsfm_jax.evaluate import features as features_lib
from rsfm_jax.models import clean
from rsfm_jax.models import encoder
from rsfm_jax.models import skysense_v2_spec
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import statistics as stats

DATES = 10  # Of Sentinel-2 in the paper's pre-training (section 4).


class Target(NamedTuple):
  """A labelled store seen as some sensors of a model, with their dates.

  Attributes:
    store: with splits train, val, test.
    dataset: its name in rows, with the sensors.
    sensors: contracts of the model.
    tile: side in pixels of the finest of them.
    dates: {sensor: T}.
    factors: {sensor: pixels of the finest per pixel, on each axis}.
    statistics: what normalises them, by name.
    normalisation: in words, for rows.
    prototypes: f32[R, Np, dp], frozen, or None.
    missing_bands: policy.
    missing_sensors: policy.
    batch_size: samples per batch.
  """

  store: stores.Store
  dataset: str
  sensors: tuple[contract.Sensor, ...]
  tile: int
  dates: dict[str, int]
  factors: dict[str, int]
  statistics: dict[str, stats.Statistics]
  normalisation: str
  prototypes: jax.Array | None = None
  missing_bands: str = 'error'
  missing_sensors: str = 'error'
  batch_size: int = 64

  def statistics_of(self, sensor: str) -> stats.Statistics | None:
    return self.statistics.get(sensor)

  def batches(self, split: str) -> Iterator[dict[str, Any]]:
    """{'image', 'valid', 'label'} of a split, in order.

    'image' is {'sensors': {sensor: as `tiles.batches` has it}, 'region':
    i32[B]}.

    Raises:
      ValueError: the split has no labels.
    """
    for batch in tiles.evaluation_batches(
      self.store,
      split,
      self.sensors,
      self.batch_size,
      tile=self.tile,
      dates=self.dates,
      factors=self.factors,
      statistics=self.statistics,
      regions=1 if self.prototypes is None else len(self.prototypes),
      missing_bands=self.missing_bands,
      missing_sensors=self.missing_sensors,
    ):
      place = batch.pop('place')
      if 'label' not in place:
        raise ValueError(f'{self.store.folder}: split {split!r} has no labels.')
      yield {
        'image': {'sensors': batch, 'region': place['region']},
        'valid': place['valid'],
        'label': place['label'],
      }

  def describer(
    self,
    opened: models.Opened,
    *,
    stages: Sequence[str] | None = None,
    pools: Sequence[str] = ('mean', 'std'),
    views: features_lib.Views = 'identity',
    prompts: encoder.Prompts = 'keep',
  ) -> Callable[[Any], Any]:
    """Tiles to the model's frozen features.

    Raises:
      ValueError: views of tiles, or a stage that does not exist.
    """
    if views != 'identity':
      raise ValueError(
        f'--views {views} is not for --sensors, only for --sensor.'
      )
    spec = opened.model.spec
    chosen = stages or encoder.last_of_tiles(
      spec, [s.name for s in self.sensors]
    )
    extract = extractor(spec, tuple(chosen), tuple(pools), prompts)
    return functools.partial(
      extract.describe, encoders.Known(opened.params, self.prototypes)
    )

  def baseline(self, name: str) -> Callable[[Any], Any]:
    """Tiles to statistics of their bands, means over dates."""
    choices.check(name, baselines.BASELINES, key='baseline')
    return functools.partial(_raw, baselines.BASELINES[name])


def target(
  store: stores.Store,
  names: Sequence[str],
  opened: models.Opened | None,
  *,
  fit: str = 'native',
  size: int | None = None,
  dates: int = DATES,
  **options: Any,
) -> Target:
  """The target of a model; without a model, normalised by its own pixels.

  How many dates a sensor has, and how its pixels lie on those of the others,
  is what the first sample that has it says.

  Args:
    store: labelled, co-registered.
    names: sensors of the model.
    opened: the model, or None.
    fit: 'native', the whole ground, or 'crop', its centre.
    size: of the crop, in pixels of the finest of the sensors.
    dates: at most so many of each series.
    **options: of `Target`.

  Raises:
    ValueError: a sensor that the model or the store does not have, a model
      that takes no series, or a fit that tiles do not have.
  """
  choices.check(fit, ('native', 'crop'), key='--fit of --sensors')
  if (size is None) != (fit == 'native'):
    raise ValueError(f'--fit {fit} does not go with --size {size}.')
  if dates < 1:
    raise ValueError(f'--dates {dates} must be at least 1.')
  if opened is None:
    have, words = store.sensors, 'dataset'
  else:
    _check_model(opened)
    have, words = opened.sensors, 'pretrained'
  wanted = tuple(have[choices.check(n, have, key='--sensors')] for n in names)
  shapes = _first_shapes(store, wanted)
  finest = max(shape[1] for shape in shapes.values())
  if opened is None:
    found = {s.name: adapt.merged_statistics(s, (store,)) for s in wanted}
  else:
    found = opened.statistics
  return Target(
    store,
    f'{store.folder.name} ({" + ".join(names)})',
    wanted,
    tile=size or finest,
    dates={name: min(dates, shape[0]) for name, shape in shapes.items()},
    factors={name: finest // shape[1] for name, shape in shapes.items()},
    statistics=found,
    normalisation=words,
    prototypes=None if opened is None else models.prototypes_of(opened),
    **options,
  )


@functools.lru_cache(maxsize=4)
def extractor(
  spec: skysense_v2_spec.SkySenseV2Spec,
  stages: tuple[str, ...],
  pools: tuple[str, ...],
  prompts: encoder.Prompts,
) -> features_lib.Extractor:
  """The same arguments give the same compiled program."""
  return features_lib.Extractor(
    encoders.of_tiles(spec, prompts), stages, pools=pools
  )


def _raw(describe, inputs: Mapping[str, Any]) -> np.ndarray:
  parts = []
  for entry in inputs['sensors'].values():
    image = entry['image']
    dated = describe(image.reshape(-1, *image.shape[2:]))
    dated = dated.reshape(*image.shape[:2], -1)
    parts.append(encoder.over_dates(jnp.asarray(dated), clean.dates(entry)))
  return np.concatenate(parts, -1)


def _check_model(opened: models.Opened) -> None:
  if not isinstance(opened.model.spec, skysense_v2_spec.SkySenseV2Spec):
    raise ValueError(
      f'{opened.path}: --sensors needs a SkySense V2; --sensor probes one '
      'image of other models.'
    )


def _first_shapes(
  store: stores.Store, sensors: Sequence[contract.Sensor]
) -> dict[str, tuple[int, int, int]]:
  """{sensor: (dates, H, W)} of the first sample that has it.

  Raises:
    ValueError: no sample has it.
  """
  names = {s.name: adapt.sensor_in(store, s) for s in sensors}
  found: dict[str, tuple[int, int, int]] = {}
  for record in store.source():
    for name in names.keys() - found.keys():
      if (dates := samples.pixels(record, names[name])) is not None:
        found[name] = dates[0].shape[:3]
    if len(found) == len(names):
      return {name: found[name] for name in names}
  raise ValueError(
    f'{store.folder}: no sample has {sorted(names.keys() - found.keys())}.'
  )
