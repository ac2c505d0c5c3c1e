"""Live fuel moisture of single pixels, in percent, from three months.

Sentinel-2 L1C alone of what each row holds; rows of a site stay together,
since its values resemble each other.
"""

from collections.abc import Iterator

from rsfm_jax.data import arrays
from rsfm_jax.data import readers
from rsfm_jax.data import recipe
from rsfm_jax.data import sources
from rsfm_jax.data import splits
from rsfm_jax.data.datasets import dataset
from rsfm_jax.data.datasets import layout

_POLICY = splits.Policy(kind='random', shares=(0.7, 0.15, 0.15))
# VV and VH before, weather, terrain and NDVI behind; B9 is no band of the
# sensor.
_BANDS = ('', '', *'B02 B03 B04 B05 B06 B07 B08 B8A'.split(), '', 'B11', 'B12')


def _rows(found: layout.Found) -> Iterator[dataset.Row]:
  """Target and split of every row."""
  data = sources.read_bytes(found.path)
  target, place = (
    arrays.read_numpy(data, name=found.path, key=key)
    for key in ('target', 'latlon')
  )
  for value, (latitude, longitude) in zip(target, place, strict=True):
    site = f'{latitude:.4f} {longitude:.4f}'
    yield dataset.Row(float(value), splits.assign(_POLICY, scene=site))


DATASETS = (
  dataset.Dataset(
    name='fuel_moisture',
    source='README of the samples, fuel_moisture_s1s2_pixels',
    recipe=recipe.Recipe(
      sensor='sentinel2_skysense',
      layout=readers.Layout(
        bands=_BANDS + ('',) * 5, key='s1_s2_era5_srtm', axes='NC'
      ),
      frames_as='series',
      licence='MIT',
    ),
    image='{id}.npz',
    labels='number',
    rows=_rows,
    total=1578,
  ),
)
