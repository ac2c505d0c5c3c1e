"""GEO-Bench 1: m-eurosat, m-so2sat, m-brick-kiln; one HDF5 file per sample.

Arrays are read and attributes never: they hold pickles. Labels are those of
label_map.json, splits those of default_partition.json.

m-eurosat is published with its bands after B08 under each other's names
(github.com/ServiceNow/geo-bench/issues/28). `@published` takes the names as
they are, which is what published numbers have; `@corrected` takes the bands.
Of m-so2sat the ten bands of Sentinel-2 are taken, which are reflectance.
"""

import functools
import json

from rsfm_jax.data import readers
from rsfm_jax.data import recipe
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import division
from rsfm_jax.data.datasets import eurosat
from rsfm_jax.data.datasets import layout
from rsfm_jax.data.datasets import so2sat

_NAMES = {
  'B01': '01 - Coastal aerosol',
  'B02': '02 - Blue',
  'B03': '03 - Green',
  'B04': '04 - Red',
  'B05': '05 - Vegetation Red Edge',
  'B06': '06 - Vegetation Red Edge',
  'B07': '07 - Vegetation Red Edge',
  'B08': '08 - NIR',
  'B8A': '08A - Vegetation Red Edge',
  'B09': '09 - Water vapour',
  'B10': '10 - SWIR - Cirrus',
  'B11': '11 - SWIR',
  'B12': '12 - SWIR',
}
# {band: the one under whose name it is}.
_MOVED = {'B09': 'B8A', 'B10': 'B09', 'B11': 'B10', 'B12': 'B11', 'B8A': 'B12'}
_CORRECTED = {band: _NAMES[_MOVED.get(band, band)] for band in _NAMES}
_PARTS = {'train': 'train', 'valid': 'val', 'test': 'test'}


@functools.lru_cache(maxsize=4)
def _told(source: str, file: str) -> dict[str, str]:
  """{sample: what a JSON of lists has it under}.

  Raises:
    ValueError: not such a JSON, or a sample in two of its lists.
  """
  told: dict[str, str] = {}
  try:
    lists = json.loads(division.read_text(source, file))
    pairs = [(key, str(name)) for key in lists for name in lists[key]]
  except (TypeError, json.JSONDecodeError) as error:
    raise ValueError(
      f'{source}: {file} is no JSON of lists: {error}'
    ) from error
  for key, name in pairs:
    if told.setdefault(name, key) != key:
      raise ValueError(
        f'{source}/{file}: {name} is in {told[name]} and in {key}; they must '
        'not overlap.'
      )
  return told


def _splits(found: list[layout.Found], source: str) -> list[str | None]:
  told = _told(source, 'default_partition.json')
  return [_PARTS.get(told.get(one.fields['id'])) for one in found]


def _label(classes: tuple[str, ...], found: layout.Found, source: str) -> str:
  code = _told(source, 'label_map.json').get(found.fields['id'], '')
  if not code.isdecimal() or int(code) >= len(classes):
    raise ValueError(
      f'{found.path}: label_map.json gives it {code!r}, not 0 to '
      f'{len(classes) - 1}.'
    )
  return classes[int(code)]


def _of(
  name, names, classes, sizes, *, sensor='sentinel2_l1c', **options
) -> dataset.Dataset:
  return dataset.Dataset(
    name=name,
    source='github.com/ServiceNow/geo-bench; torchgeo-bench, datasets/',
    recipe=recipe.Recipe(
      sensor=sensor,
      layout=readers.Layout(datasets=tuple(names.items())),
      **options,
    ),
    image='{id}.hdf5',
    id='{id}',
    label=functools.partial(_label, classes),
    classes=classes,
    division=_splits,
    counts=dict(zip(('train', 'val', 'test'), sizes, strict=True)),
  )


_KILNS = ('not brick kiln', 'brick kiln')
DATASETS = (
  _of('m-eurosat@published', _NAMES, eurosat.CLASSES, (2000, 1000, 1000)),
  _of('m-eurosat@corrected', _CORRECTED, eurosat.CLASSES, (2000, 1000, 1000)),
  _of('m-brick-kiln', _NAMES, _KILNS, (15063, 999, 999)),
  _of(
    'm-so2sat',
    {band: _NAMES[band] for band in so2sat.SENSOR.band_names},
    so2sat.CLASSES,
    (19992, 986, 986),
    sensor=so2sat.SENSOR,
    store_as=so2sat.STORE_AS,
  ),
)
