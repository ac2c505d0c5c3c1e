"""One sensor of a store as one sensor of a model: records to model inputs."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Self

import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.data import augment
from rsfm_jax.data import store as stores
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import matching
from rsfm_jax.sensors import preprocess
from rsfm_jax.sensors import statistics as stats


@dataclasses.dataclass(frozen=True)
class Adapter:
  """Turns records of a store into inputs of a model, band by name.

  Picklable: workers get a copy. Made by `Adapter.of`.

  Attributes:
    name: the sensor in the store.
    have: contract of the store, cut down to the bands that are used.
    want: contract of the model.
    columns: channels of the stored image that make up `have`.
    found: how converted `have` becomes `want`.
    statistics: of `want`, None for complex SAR.
  """

  name: str
  have: contract.Sensor
  want: contract.Sensor
  columns: tuple[int, ...]
  found: matching.Match
  statistics: stats.Statistics | None

  @classmethod
  def of(
    cls,
    store: stores.Store,
    want: contract.Sensor,
    *,
    statistics: stats.Statistics | None,
    missing_bands: matching.Policy = 'error',
  ) -> Self:
    """Matches a store to a model.

    Which sensor of the store that is: see `sensor_in`.

    Raises:
      ValueError: no such sensor, bands or units that do not match, or
        statistics missing or of another number of bands.
    """
    name = sensor_in(store, want)
    found = preprocess.recipe(
      store.sensors[name],
      want,
      statistics=statistics,
      missing_bands=missing_bands,
    )
    return cls(name, *found)

  @property
  def exact(self) -> bool:
    """Whether pixels must never be interpolated."""
    return self.have.kind == contract.Kind.SAR_COMPLEX

  def shape(self, record: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """(H, W) of the stored image.

    Raises:
      ValueError: the sample lacks this sensor.
    """
    image = record.get(f'{self.name}/image')
    if image is None:
      raise ValueError(f'a sample has no {self.name}, only {sorted(record)}.')
    return image.shape[:2]

  def __call__(
    self,
    record: Mapping[str, np.ndarray],
    box: augment.Box,
    size: int | None = None,
    *,
    symmetry: int = 0,
    filter: augment.Filter = 'bicubic',
  ) -> dict[str, np.ndarray]:
    """Cuts, resamples, converts, matches and normalises.

    Args:
      record: arrays of a sample.
      box: window in pixels of the stored image.
      size: output pixels, square; None keeps the window's own.
      symmetry: see `augment.apply_symmetry`.
      filter: see `augment.Crop`.

    Returns:
      image f32 [S, S, C] normalised (complex SAR: over the scene's RMS
      amplitude), band_valid bool [C], pixel_valid bool [S, S]; whatever is
      invalid is zero in the image.

    Raises:
      ValueError: complex SAR would have to be interpolated.
    """
    image, valid = self._window(record, box)
    if size is not None:
      image, valid = self._fit(image, valid, box, size, filter)
    image = augment.apply_symmetry(image, symmetry)
    image, band_valid = self._measure(record, image)
    mask = band_valid
    if valid is None:
      valid = np.ones(image.shape[:2], bool)
    else:
      valid = np.ascontiguousarray(augment.apply_symmetry(valid, symmetry))
      mask = valid[..., None] & band_valid
    if not mask.all():
      image = np.where(mask, image, np.float32(0))
    return {
      'image': np.ascontiguousarray(image, np.float32),
      'band_valid': band_valid,
      'pixel_valid': valid,
    }

  def _window(
    self, record: Mapping[str, np.ndarray], box: augment.Box
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """Used bands and validity (None: all) of a window; never NaN."""
    image = augment.cut(record[f'{self.name}/image'], box)
    if len(self.columns) < image.shape[-1]:
      image = image[..., self.columns]
    present = self._present(record)
    if present is not None and not present.all():
      # Whatever stands in a band that is absent, it spoils no pixel.
      image = np.where(present, image, image.dtype.type(0))
    valid = record.get(f'{self.name}/valid')
    if valid is not None:
      valid = augment.cut(valid, box)
    if image.dtype.kind == 'f':
      finite = np.isfinite(image).all(axis=-1)
      valid = finite if valid is None else valid & finite
    if valid is None or valid.all():
      return image, None
    return np.where(valid[..., None], image, image.dtype.type(0)), valid

  def _fit(self, image, valid, box: augment.Box, size: int, filter):
    """The window at size x size pixels."""
    inside = box._replace(top=box.top % 1, left=box.left % 1)
    if self.exact:
      if box != tuple(map(round, box)) or image.shape[:2] != (size, size):
        raise ValueError(
          f'{self.have.name}: a window of {box.height} x {box.width} pixels '
          f'at ({box.top}, {box.left}) would have to be interpolated to '
          f'{size} x {size}; complex SAR is only cropped.'
        )
      return image, valid
    image = augment.resize(image, inside, size, filter=filter)
    if valid is not None:
      valid = augment.resize_valid(valid, inside, size, filter=filter)
    return image, valid

  def _measure(
    self, record: Mapping[str, np.ndarray], image: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Stored values to normalised values of the wanted bands."""
    scale = None
    if self.statistics is None:
      scale = record[f'{self.name}/scene_scale'].astype(np.float32)
    image, band_valid = preprocess.measured(
      image,
      have=self.have,
      want=self.want,
      found=self.found,
      statistics=self.statistics,
      scene_scale=scale,
    )
    present = self._present(record)
    if present is not None:
      here, _ = matching.apply(self.found, present)
      band_valid = band_valid & here
    return image, band_valid

  def _present(self, record: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Which used bands the sample has: bool [C], or None for all."""
    present = record.get(f'{self.name}/band_valid')
    return None if present is None else present[list(self.columns)]


def sensor_in(store: stores.Store, want: contract.Sensor) -> str:
  """The sensor of a store that feeds `want`.

  The one called like it, else the only one, else the only one that has all its
  bands in its units: groups of bands as sensors are cut out of a whole one.

  Raises:
    ValueError: the store has several, and none or several that would do.
  """
  if want.name not in store.sensors:
    for found in (list(store.sensors), _holding(store, want)):
      if len(found) == 1:
        return found[0]
  key = f'sensor of {store.folder}'
  return choices.check(want.name, store.sensors, key=key)


def feeds(store: stores.Store, want: contract.Sensor) -> bool:
  """Whether a store has a sensor with all bands of `want`, in its units."""
  return want.name in store.sensors or bool(_holding(store, want))


def _holding(store: stores.Store, want: contract.Sensor) -> list[str]:
  return [
    name
    for name, have in store.sensors.items()
    if have.units == want.units and matching.holds(have, want)
  ]


def merged_statistics(
  want: contract.Sensor,
  sources: tuple[stores.Store, ...],
  *,
  splits: Sequence[str | None] | None = None,
  missing_bands: matching.Policy = 'error',
) -> stats.Statistics:
  """The statistics of a run: those of its stores, merged exactly.

  Every valid pixel that a run may see counts once, whatever its weight.

  Args:
    want: sensor of the model.
    sources: the stores.
    splits: which split of each store is read; None, or None for a store,
      counts all of its samples.
    missing_bands: see `matching.match`.

  Raises:
    ValueError: a store in other units than `want`, without its bands, or
      without such a split.
  """
  total = stats.Accumulator(want.band_names)
  splits = [None] * len(sources) if splits is None else splits
  for store, split in zip(sources, splits, strict=True):
    name = sensor_in(store, want)
    if store.sensors[name].units != want.units:
      raise ValueError(
        f'{store.folder}: {name} is stored in {store.sensors[name].units}; '
        f'statistics of {want.name} need {want.units}. Pack it again so, or '
        'give the statistics.'
      )
    found = matching.match(store.sensors[name], want, policy=missing_bands)
    state = store.accumulator_of(name, split).to_json()
    part = stats.Accumulator(want.band_names).to_json()
    for row, (column, here) in enumerate(zip(found.indices, found.present)):
      if here:
        for field in ('moments', 'histograms'):
          part[field][row] = state[field][column]
    total.merge(stats.Accumulator.from_json(part))
  return total.result()
