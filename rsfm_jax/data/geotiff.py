"""GeoTIFF scenes: windows, mixed resolutions, nodata, CRS. Rasterio lives here.

A scene is one file with many bands or one file per band. The finest band sets
the grid; coarser bands, or bands on another grid, are warped to it. Complex
bands are never interpolated.
"""

from collections.abc import Mapping, Sequence
import contextlib
import warnings

import numpy as np
import rasterio
from rasterio import crs as rio_crs
from rasterio import enums
from rasterio import errors
from rasterio import vrt
from rasterio import warp
from rasterio import windows as rio_windows

from rsfm_jax.core import choices
from rsfm_jax.core import uris
from rsfm_jax.data import raster

RESAMPLING = {
  'bilinear': enums.Resampling.bilinear,
  'nearest': enums.Resampling.nearest,
}
# Files of one grid may differ by rounding; a tenth of a pixel is below what
# any of the sensors is registered to.
_SAME_GRID_PIXELS = 0.1
# A scene without a place is legitimate: its CRS and bounds are null.
warnings.filterwarnings('ignore', category=errors.NotGeoreferencedWarning)


class GeoTiff:
  """An open scene (see `raster.Raster`); for one thread at a time."""

  name = ''
  label = None

  def __init__(
    self,
    files: Mapping[str, str] | str,
    *,
    layers: Sequence[str] = (),
    default_layers: Sequence[str] = (),
    nodata: float | None = None,
    resampling: str = 'bilinear',
    grid: str = '',
  ):
    """Opens the headers only.

    Args:
      files: one path of a multi-band file, or {layer: path}. A path inside an
        archive is 'ARCHIVE.zip!MEMBER'; gs:// and s3:// lead into buckets.
      layers: names of the bands of a multi-band file in its order (of
        polarisations, if complex); '' skips one. Without names the file's own
        band descriptions are used.
      default_layers: names for a file that describes none of its bands.
      nodata: used where a file itself declares none.
      resampling: key of `RESAMPLING`, for bands on a coarser grid.
      grid: a raster whose grid all layers are brought to; '' for that of the
        finest layer.

    Raises:
      ValueError: a file is not a readable raster, the number of names is not
        that of the bands, or the files cannot be aligned.
    """
    choices.check(resampling, RESAMPLING, key='resampling')
    self._resampling = RESAMPLING[resampling]
    self._stack = contextlib.ExitStack()
    try:
      if isinstance(files, str):
        self._layers = self._multi_band(
          files, tuple(layers), tuple(default_layers)
        )
      else:
        self._layers = {name: (self._open(p), 1) for name, p in files.items()}
      self._align(nodata, grid)
    except BaseException:
      self.close()
      raise
    self.bands = raster.bands_of(tuple(self._layers), self._dtype)

  def _open(self, path: str) -> rasterio.DatasetReader:
    archive, _, member = path.partition('!')
    options = {}
    if uris.scheme(path) != 'local':
      # GDAL looks for side files; listing a bucket for them costs seconds.
      options['GDAL_DISABLE_READDIR_ON_OPEN'] = 'EMPTY_DIR'
    try:
      with rasterio.Env(**options) if options else contextlib.nullcontext():
        dataset = rasterio.open(
          f'/vsizip/{archive}/{member}' if member else path
        )
      return self._stack.enter_context(dataset)
    except errors.RasterioError as error:
      raise ValueError(f'{path} is not a readable raster: {error}') from error

  def _multi_band(self, path, layers, default_layers):
    dataset = self._open(path)
    if not layers:
      layers = tuple(d or '' for d in dataset.descriptions)
      layers = layers if any(layers) else default_layers
    if len(layers) != dataset.count or not any(layers):
      raise ValueError(
        f'{path} has {dataset.count} bands, not {len(layers)}: '
        f'{list(layers)}; name them by --bands, empty to skip one.'
      )
    return {name: (dataset, i) for i, name in enumerate(layers, 1) if name}

  @property
  def grid(self) -> str:
    """The raster whose grid this is."""
    return self._grid.name

  @property
  def georeference(self) -> raster.Georeference:
    """Where its pixels lie."""
    crs = self._grid.crs
    return raster.Georeference(
      '' if crs is None else crs.to_wkt(), tuple(self._grid.transform)[:6]
    )

  @property
  def crs_name(self) -> str:
    """E.g. 'EPSG:32632'; '' without a CRS."""
    crs = self._grid.crs
    return '' if crs is None else crs.to_string()

  def lies_on(self, other: 'GeoTiff', *, factor: int) -> bool:
    """Whether its pixels are squares of factor x factor pixels of `other`.

    Same CRS, same ground, to a tenth of a pixel of `other`.
    """
    one, two = self._grid, other._grid
    where = self.georeference.transform
    wanted = other.georeference.coarser(factor).transform
    reach = max(self.height, self.width)
    tolerance = _SAME_GRID_PIXELS * abs(two.transform.a)
    gaps = np.abs(np.subtract(where, wanted)) * ([reach, reach, 1] * 2)
    size = self.height * factor, self.width * factor
    return (
      one.crs == two.crs
      and size == (other.height, other.width)
      and bool((gaps <= tolerance).all())
    )

  def _align(self, nodata: float | None, onto: str) -> None:
    """Takes the finest grid and replaces layers that lie on another one."""
    finest = grid = min(
      (dataset for dataset, _ in self._layers.values()),
      key=lambda d: abs(d.transform.a * d.transform.e),
    )
    self._dtype = np.dtype(finest.dtypes[0])
    self.nodata = nodata if finest.nodata is None else finest.nodata
    if onto:
      grid = self._open(onto)
      if self.nodata is None and self._dtype.kind == 'f':
        nodata = self.nodata = np.nan  # Where the layers do not reach.
    self._grid = grid
    self.height, self.width = grid.shape
    for name, (dataset, index) in self._layers.items():
      if _same_grid(dataset, grid):
        continue
      if self._dtype.kind == 'c':
        raise ValueError(
          f'{dataset.name} lies on another grid than {grid.name}; complex '
          'bands are cropped and never interpolated.'
        )
      if dataset.crs is None or grid.crs is None:
        raise ValueError(
          f'{dataset.name} {dataset.shape} and {grid.name} {grid.shape} '
          'differ in size and have no CRS by which to align them.'
        )
      own = nodata if dataset.nodata is None else dataset.nodata
      warped = vrt.WarpedVRT(
        dataset,
        crs=grid.crs,
        transform=grid.transform,
        width=grid.width,
        height=grid.height,
        src_nodata=own,
        nodata=self.nodata,
        resampling=self._resampling,
      )
      self._layers[name] = (self._stack.enter_context(warped), index)

  def read(self, window: raster.Window, bands: Sequence[str]) -> raster.Pixels:
    """Reads `bands` of a window.

    Returns:
      image [H, W, C], a transposed view of one plane after another, and valid
      bool [H, W].

    Raises:
      ValueError: the file is truncated or corrupt there.
    """
    area = rio_windows.Window(
      window.column, window.row, window.width, window.height
    )
    layers = raster.layers_of(bands, self._dtype)
    # One call per data set: interleaved files decode each block once.
    groups: dict[rasterio.DatasetReader, list[str]] = {}
    for layer in layers:
      groups.setdefault(self._layers[layer][0], []).append(layer)
    planes = [
      _read(dataset, [self._layers[n][1] for n in names], area)
      for dataset, names in groups.items()
    ]
    image = planes[0] if len(planes) == 1 else np.concatenate(planes)
    order = [name for names in groups.values() for name in names]
    if order != list(layers):
      image = image[[order.index(layer) for layer in layers]]
    found = raster.pixels(
      np.moveaxis(image, 0, -1),
      layers=layers,
      bands=bands,
      nodata=self.nodata,
    )
    if enums.MaskFlags.per_dataset in self._grid.mask_flag_enums[0]:
      found.valid[self._grid.dataset_mask(window=area) == 0] = False
    return found

  def places(self, windows: Sequence[raster.Window]) -> list[raster.Place]:
    """CRS, bounds, centre and corners; one call for many windows is fast."""
    crs = self._grid.crs
    if crs is None or not windows:
      return [raster.Place()] * len(windows)
    row, column, height, width = np.array(windows, float).T[..., None]
    # Upper left, upper right, lower right, lower left, centre.
    across = (column + width * np.array([0, 1, 1, 0, 0.5])).ravel()
    down = (row + height * np.array([0, 0, 1, 1, 0.5])).ravel()
    t = self._grid.transform
    x = t.a * across + t.b * down + t.c
    y = t.d * across + t.e * down + t.f
    lonlat = np.stack(warp.transform(crs, 'EPSG:4326', x, y), -1)
    lonlat = np.round(lonlat, 7).reshape(-1, 5, 2).tolist()  # 1 cm.
    x, y = x.reshape(-1, 5), y.reshape(-1, 5)
    bounds = np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], -1).tolist()
    name = crs.to_string()
    return [
      raster.Place(
        crs=name,
        bounds=tuple(bounds[i]),
        lonlat=tuple(points[4]),
        corners=tuple(map(tuple, points[:4])),
      )
      for i, points in enumerate(lonlat)
    ]

  def close(self) -> None:
    self._stack.close()


def read_whole(path: str) -> tuple[np.ndarray, float | None]:
  """All bands of a file [H, W, C], as stored, and what it calls nodata.

  Raises:
    ValueError: the file is not a readable raster.
  """
  archive, _, member = path.partition('!')
  try:
    with rasterio.open(f'/vsizip/{archive}/{member}' if member else path) as f:
      return np.moveaxis(f.read(), 0, -1), f.nodata
  except errors.RasterioError as error:
    raise ValueError(f'{path} is not a readable raster: {error}') from error


def located(
  wkt: str, bounds: tuple[float, float, float, float]
) -> raster.Place:
  """A place by the well-known text of its CRS; empty if that is not one."""
  try:
    crs = rio_crs.CRS.from_wkt(wkt)
  except errors.CRSError:
    return raster.Place()
  left, bottom, right, top = bounds
  x, y = [left, right, right, left], [top, top, bottom, bottom]
  x.append((left + right) / 2)
  y.append((bottom + top) / 2)
  points = np.round(np.stack(warp.transform(crs, 'EPSG:4326', x, y), -1), 7)
  *corners, centre = map(tuple, points.tolist())
  return raster.Place(crs.to_string(), bounds, centre, tuple(corners))


def _read(dataset, indexes: list[int], area: rio_windows.Window) -> np.ndarray:
  try:
    return dataset.read(indexes, window=area)
  except errors.RasterioError as error:
    # The reason that GDAL gives is the cause; rasterio says "read failed".
    raise ValueError(
      f'{dataset.name} is truncated or corrupt at row {area.row_off}: '
      f'{error.__cause__ or error}'
    ) from error


def _same_grid(one, other) -> bool:
  if one is other:
    return True
  if one.shape != other.shape or one.crs != other.crs:
    return False
  tolerance = _SAME_GRID_PIXELS * abs(other.transform.a)
  difference = np.subtract(one.bounds, other.bounds)
  return bool(np.all(np.abs(difference) <= tolerance))
