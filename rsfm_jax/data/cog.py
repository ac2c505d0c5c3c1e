"""Maps on disk: written strip by strip, resumable, then a COG.

A map grows in a folder beside its place: an uncompressed tiled GeoTIFF whose
tiles are all there from the start, so that strips are written in place and a
kill leaves a readable file, and a record of the finished steps. At the end
GDAL's own driver makes the Cloud Optimized GeoTIFF of it (tiles, overviews,
IFDs first), which then takes its name. Rasterio's second home.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import os
import pathlib
import shutil
import time
from typing import Any, Self

import numpy as np
import rasterio
from rasterio import crs as rio_crs
from rasterio import errors
from rasterio import shutil as rio_shutil
from rasterio import windows as rio_windows

from rsfm_jax.core import files
from rsfm_jax.core import uris
from rsfm_jax.data import raster

LAYOUT = 'COG'
_RECORD, _MAP, _COG = 'done.json', 'map.tif', 'cog.tif'
_TILE_BYTES = 1 << 20  # All bands of a tile; GDAL takes at least 128 pixels.
_TILES = (512, 256, 128)
# Of blocks, in all; GDAL's own default grows with the machine.
_CACHE = {'GDAL_CACHEMAX': 64}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """What kind of map it is.

  Attributes:
    height: rows.
    width: columns.
    bands: a description of each.
    dtype: 'uint8' or 'float32'.
    nodata: stands where the scene has nothing.
    georeference: of the map.
    colours: (red, green, blue) of each class, () for none.
    tags: told by the file, as text.
  """

  height: int
  width: int
  bands: tuple[str, ...]
  dtype: str
  nodata: float
  georeference: raster.Georeference
  colours: tuple[tuple[int, int, int], ...] = ()
  tags: tuple[tuple[str, str], ...] = ()

  @property
  def tile(self) -> int:
    """Edge of the tiles of the file, in pixels."""
    each = len(self.bands) * np.dtype(self.dtype).itemsize
    fits = [t for t in _TILES if t * t * each <= _TILE_BYTES]
    return fits[0] if fits else _TILES[-1]


class MapWriter:
  """Writes one map; a context that keeps what is done when it is left.

  Attributes:
    path: of the COG.
    folder: what it grows in; removed at the end, or if nothing was done.
    layout: of the map.
    done: finished steps that are on disk.
  """

  def __init__(
    self,
    path: files.Path,
    layout: Layout,
    *,
    job: Mapping[str, Any],
    commit_seconds: float = 10.0,
  ):
    """Begins a map, or goes on with one that was killed.

    Args:
      path: of the COG.
      layout: of the map.
      job: JSON values that the map is a function of.
      commit_seconds: at most so much work is lost by a kill.

    Raises:
      ValueError: an unfinished map of another job, naming what differs.
      RuntimeError: another process is at it.
    """
    self.path = uris.local(path, what='a map', by='its writer', access='write')
    self.folder = self.path.with_name(f'.{self.path.name}.unfinished')
    self.layout, self._every = layout, commit_seconds
    self._job = dict(job)
    self._stack = contextlib.ExitStack()
    self._map: rasterio.io.DatasetWriter | None = None

  def __enter__(self) -> Self:
    with contextlib.ExitStack() as stack:
      stack.enter_context(files.exclusive(self.folder))
      stack.enter_context(rasterio.Env(**_CACHE))
      record = self.folder / _RECORD
      self.done = 0
      if record.exists():
        found = files.read_json(record)
        _check_same(self.folder, found['job'], self._job)
        self.done = found['done']
      else:
        self._create()
        self._note()
      self._stack = stack.pop_all()
    self._written, self._since = self.done, time.monotonic()
    return self

  def __exit__(self, *error) -> None:
    try:
      if self._map is not None:
        self._commit()
    finally:
      if not self.done:
        shutil.rmtree(self.folder, ignore_errors=True)
      self._stack.close()

  def write(self, window: raster.Window, values: np.ndarray, done: int) -> None:
    """Writes a window in place.

    Args:
      window: of the map.
      values: [H, W, bands] of the map's type.
      done: steps that are finished with it.
    """
    # GDAL belongs to threads: the environment is not that of `__enter__`.
    with rasterio.Env(**_CACHE):
      if self._map is None:
        self._map = rasterio.open(self.folder / _MAP, 'r+')
      area = rio_windows.Window(
        window.column, window.row, window.width, window.height
      )
      self._map.write(np.moveaxis(values, -1, 0), window=area)
      self._written = done
      if time.monotonic() - self._since >= self._every:
        self._commit()

  def finish(self) -> pathlib.Path:
    """Makes the COG of a whole map, and removes what it grew in.

    Raises:
      ValueError: what was written is no COG.
    """
    self._commit()
    made = self.folder / _COG
    rio_shutil.copy(
      self.folder / _MAP,
      made,
      driver='COG',
      BLOCKSIZE=self.layout.tile,
      COMPRESS='DEFLATE',
      PREDICTOR='YES',
      OVERVIEW_RESAMPLING='NEAREST' if self.layout.colours else 'AVERAGE',
      BIGTIFF='IF_SAFER',
    )
    check(made)
    os.replace(made, self.path)
    self._stack.close()
    shutil.rmtree(self.folder)
    return self.path

  def _create(self) -> None:
    """All tiles, filled with nodata."""
    layout = self.layout
    profile = {
      'driver': 'GTiff',
      'height': layout.height,
      'width': layout.width,
      'count': len(layout.bands),
      'dtype': layout.dtype,
      'nodata': layout.nodata,
      'crs': rio_crs.CRS.from_wkt(layout.georeference.crs),
      'transform': rasterio.Affine(*layout.georeference.transform),
      'tiled': True,
      'blockxsize': layout.tile,
      'blockysize': layout.tile,
      'interleave': 'pixel',
      'bigtiff': 'IF_SAFER',
    }
    with rasterio.open(self.folder / _MAP, 'w', **profile) as new:
      new.descriptions = layout.bands
      new.update_tags(**dict(layout.tags))
      if layout.colours:
        table = {i: (*rgb, 255) for i, rgb in enumerate(layout.colours)}
        new.write_colormap(1, table | {int(layout.nodata): (0, 0, 0, 0)})

  def _commit(self) -> None:
    """Brings what is written to the disk, then says so."""
    if self._map is not None:
      self._map.close()
      self._map = None
      with open(self.folder / _MAP, 'rb') as file:
        os.fsync(file.fileno())
    self.done = self._written
    self._note()
    self._since = time.monotonic()

  def _note(self) -> None:
    note = {'job': self._job, 'done': self.done}
    files.write_json(self.folder / _RECORD, note)


def check(path: files.Path) -> None:
  """Refuses a file that is no Cloud Optimized GeoTIFF.

  Raises:
    ValueError: not tiled, without overviews though larger than a tile, or
      not in the order of a COG.
  """
  with rasterio.open(path) as found:
    structure = found.tags(ns='IMAGE_STRUCTURE')
    tiled = found.profile.get('tiled', False)
    large = max(found.shape) > max(found.block_shapes[0])
    whole = structure.get('LAYOUT') == LAYOUT
    if not (whole and tiled and (found.overviews(1) or not large)):
      raise ValueError(
        f'{path} is no COG: LAYOUT={structure.get("LAYOUT")}, '
        f'tiled={tiled}, overviews {found.overviews(1)}.'
      )


def wkt_of(name: str) -> str:
  """The well-known text of 'EPSG:32632' and the like.

  Raises:
    ValueError: no such CRS.
  """
  try:
    return rio_crs.CRS.from_user_input(name).to_wkt()
  except (errors.CRSError, ValueError) as error:
    raise ValueError(f'--crs {name!r} is no CRS: {error}') from error


def _check_same(
  folder: pathlib.Path, old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
  other = sorted(k for k in old | new if old.get(k) != new.get(k))
  if other:
    changes = [f'{k}: {old.get(k)!r} -> {new.get(k)!r}' for k in other]
    raise ValueError(
      f'{folder} holds an unfinished map of another job; these differ (its '
      f'value -> yours): {"; ".join(changes)}. Set them back, or remove it.'
    )
