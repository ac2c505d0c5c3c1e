"""What every scene reader returns: pixels by band name, window by window."""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple, Protocol

import numpy as np


class Window(NamedTuple):
  """A rectangle of pixels of a scene."""

  row: int
  column: int
  height: int
  width: int


class Pixels(NamedTuple):
  """`image: [H, W, C]` in the file's values, `valid: bool[H, W]`."""

  image: np.ndarray
  valid: np.ndarray


class Place(NamedTuple):
  """Where a window lies; every field is None when the file does not say.

  Attributes:
    crs: e.g. 'EPSG:32632', or WKT where there is no code.
    bounds: (left, bottom, right, top) in units of `crs`.
    lonlat: centre in degrees.
    corners: the four corners as (longitude, latitude) in degrees.
  """

  crs: str | None = None
  bounds: tuple[float, float, float, float] | None = None
  lonlat: tuple[float, float] | None = None
  corners: tuple[tuple[float, float], ...] | None = None


class Georeference(NamedTuple):
  """The grid of a scene.

  Attributes:
    crs: as WKT, '' where the file has none.
    transform: (a, b, c, d, e, f); x = a column + b row + c and y likewise.
  """

  crs: str
  transform: tuple[float, ...]

  def coarser(self, cell: int) -> 'Georeference':
    """The grid of squares of cell x cell pixels from the same corner."""
    a, b, c, d, e, f = self.transform
    return self._replace(
      transform=(a * cell, b * cell, c, d * cell, e * cell, f)
    )


class Raster(Protocol):
  """An open scene, or one frame of it.

  Attributes:
    name: frame of its file, '' when the file holds one scene.
    label: class name where the file itself tells it, or None.
    bands: names of what `read` can give.
    height: rows.
    width: columns.
  """

  name: str
  label: str | None
  bands: tuple[str, ...]
  height: int
  width: int

  def read(self, window: Window, bands: Sequence[str]) -> Pixels: ...

  def places(self, windows: Sequence[Window]) -> list[Place]: ...

  def close(self) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrayRaster:
  """A scene that is in memory, without a place on Earth (see `Raster`).

  Attributes:
    layers: names of the last axis: bands, or polarisations of complex data.
    image: [H, W, layers].
    nodata: the value that means "nothing here", or None.
  """

  name: str = ''
  label: str | None = None
  layers: tuple[str, ...]
  image: np.ndarray
  nodata: float | None = None

  @property
  def bands(self) -> tuple[str, ...]:
    return bands_of(self.layers, self.image.dtype)

  @property
  def height(self) -> int:
    return self.image.shape[0]

  @property
  def width(self) -> int:
    return self.image.shape[1]

  def read(self, window: Window, bands: Sequence[str]) -> Pixels:
    """The window, bands in the asked order."""
    image = self.image[
      window.row : window.row + window.height,
      window.column : window.column + window.width,
    ]
    layers = layers_of(bands, self.image.dtype)
    if layers != self.layers:
      image = image[..., [self.layers.index(layer) for layer in layers]]
    return pixels(image, layers=layers, bands=bands, nodata=self.nodata)

  def places(self, windows: Sequence[Window]) -> list[Place]:
    return [Place()] * len(windows)

  def close(self) -> None:
    pass


def bands_of(layers: Sequence[str], dtype: np.dtype) -> tuple[str, ...]:
  """Complex layers ('HH') hold two bands each ('HH_I', 'HH_Q')."""
  if np.dtype(dtype).kind != 'c':
    return tuple(layers)
  return tuple(f'{layer}_{part}' for layer in layers for part in 'IQ')


def layers_of(bands: Sequence[str], dtype: np.dtype) -> tuple[str, ...]:
  """The layers that hold `bands`; inverse of `bands_of`."""
  if np.dtype(dtype).kind != 'c':
    return tuple(bands)
  return tuple(dict.fromkeys(band.rpartition('_')[0] for band in bands))


def pixels(
  image: np.ndarray,
  *,
  layers: Sequence[str],
  bands: Sequence[str],
  nodata: float | None,
) -> Pixels:
  """Splits complex values and finds nodata.

  A real pixel is invalid when any band is nodata or not finite: at the edge of
  a swath the detectors of a push-broom sensor do not end at the same place. A
  complex one is when all its polarisations are exactly zero, the fill of
  single-look products.

  Args:
    image: [H, W, layers].
    layers: names of the last axis.
    bands: those wanted, all of them within `layers`.
    nodata: the value that means "nothing here", or None; real data only.
  """
  if image.dtype.kind == 'c':
    valid = (image != 0).any(-1) & np.isfinite(image).all(-1)
    have = bands_of(layers, image.dtype)
    image = np.ascontiguousarray(image, np.complex64).view(np.float32)
    if have != tuple(bands):
      image = image[..., [have.index(band) for band in bands]]
    return Pixels(image, valid)
  valid = np.ones(image.shape[:-1], bool)
  if nodata is not None and not np.isnan(nodata):
    for layer in np.moveaxis(image, -1, 0):  # Readers give whole planes.
      valid &= layer != nodata
  if image.dtype.kind == 'f':
    valid &= np.isfinite(image).all(-1)
  return Pixels(image, valid)
