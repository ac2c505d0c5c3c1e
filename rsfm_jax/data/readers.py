"""Opens a scene of any format as rasters."""

import dataclasses
import functools
import io
import pathlib
from typing import Literal

import numpy as np

from rsfm_jax.data import arrays
from rsfm_jax.data import geotiff
from rsfm_jax.data import images
from rsfm_jax.data import raster
from rsfm_jax.data import sources
from rsfm_jax.data import tfds_source
from rsfm_jax.sensors import contract


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
  """How the bands of a contract lie in the files.

  Attributes:
    bands: names in the order of the file's channels, '' skips one; of
      polarisations where the data is complex. By default the file's own names
      (GeoTIFF descriptions), else the order of the contract.
    datasets: {band: dataset} of an HDF5 file. By default the data sets whose
      names are those of bands.
    axes: order of the axes of an array, letters of N (frames), C, H, W.
    key: array of an NPZ, or feature of a TFDS example.
    values: 'stored' or 'scaled' by the scale_factor of a NetCDF.
    nodata: overrides the contract's, for files that declare none.
    resampling: for GeoTIFF bands that are coarser than the finest.
  """

  bands: tuple[str, ...] = ()
  datasets: tuple[tuple[str, str], ...] = ()
  axes: str = ''
  key: str = ''
  values: Literal['stored', 'scaled'] = 'stored'
  nodata: float | None = None
  resampling: Literal['bilinear', 'nearest'] = 'bilinear'


def open_scene(
  scene: sources.Scene, *, sensor: contract.Sensor, layout: Layout = Layout()
) -> list[raster.Raster]:
  """The frames of a scene; most have one.

  GeoTIFF is read window by window; other formats are read whole.

  Args:
    scene: what to open.
    sensor: contract of the files.
    layout: how the bands lie in them.

  Raises:
    ValueError: damaged, or the bands are not those of the contract.
  """
  nodata = sensor.nodata if layout.nodata is None else layout.nodata
  if is_windowed(scene):
    found = [_open_tiff(scene, sensor, layout, nodata)]
  else:
    found = _open_arrays(scene, sensor, layout, nodata)
  for frame in found:
    unknown = set(frame.bands) - set(sensor.band_names)
    if unknown:
      raise ValueError(
        f'{scene.path}: bands {sorted(unknown)} are not of {sensor.name} '
        f'{sensor.band_names}; name them by --bands, empty to skip one.'
      )
  return found


def is_windowed(scene: sources.Scene) -> bool:
  """Whether parts of the scene can be read without the whole."""
  return pathlib.PurePath(scene.path).suffix.lower() in sources.TIFF


def _open_tiff(scene, sensor, layout, nodata) -> geotiff.GeoTiff:
  files = dict(scene.files)
  return geotiff.GeoTiff(
    scene.path if '' in files else files,
    layers=layout.bands,
    default_layers=_contract_layers(sensor),
    nodata=nodata,
    resampling=layout.resampling,
    grid=scene.grid,
  )


def _open_arrays(scene, sensor, layout, nodata) -> list[raster.ArrayRaster]:
  """Formats that are read whole."""
  path = scene.path
  suffix = pathlib.PurePath(path).suffix.lower()
  layers = layout.bands or _contract_layers(sensor)
  axes, label = layout.axes, None
  if path.startswith('tfds:'):
    content, label = tfds_source.read(path, key=layout.key)
  elif suffix in sources.IMAGES:
    data = sources.read_bytes(path)
    content = images.read(data, name=path, channels=len(layers))
  elif suffix in sources.ARRAYS:
    if scene.frame is None:
      data = sources.read_bytes(path)
      content = arrays.read_numpy(data, name=path, key=layout.key)
    else:
      stamp = pathlib.Path(path.partition('!')[0]).stat().st_mtime_ns
      content = _of_many(path, layout.key, stamp)[scene.frame]
  else:
    content, layers = _read_hdf5(scene, sensor, layout, layers)
    axes = f'{axes}C' if axes and not layout.key else axes
  stack = arrays.frames(content, axes=axes, name=path)
  if stack.shape[-1] != len(layers):
    raise ValueError(
      f'{path} has {stack.shape[-1]} bands, not {len(layers)}: '
      f'{list(layers)}; name them by --bands, empty to skip one.'
    )
  keep = [i for i, layer in enumerate(layers) if layer]
  if len(keep) < len(layers):
    stack = stack[..., keep]
  digits = len(str(len(stack) - 1))
  return [
    raster.ArrayRaster(
      name=f'{i:0{digits}d}' if len(stack) > 1 else '',
      label=label,
      layers=tuple(layers[k] for k in keep),
      image=image,
      nodata=nodata,
    )
    for i, image in enumerate(stack)
  ]


@functools.lru_cache(maxsize=1)
def _of_many(path: str, key: str, stamp: int) -> np.ndarray:
  """An array of many scenes, decoded once for all of them."""
  del stamp
  return arrays.read_numpy(sources.read_bytes(path), name=path, key=key)


def _read_hdf5(scene, sensor, layout, layers):
  """(array, its layers): one data set by key, or one per band stacked."""
  path, how = scene.path, {'values': layout.values, 'frame': scene.frame}
  file = io.BytesIO(sources.read_bytes(path)) if '!' in path else path
  if layout.key:
    content = arrays.read_hdf5(file, {'': layout.key}, name=path, **how)
    return content[..., 0], layers
  datasets = dict(layout.datasets) or _datasets(file, path, sensor)
  content = arrays.read_hdf5(file, datasets, name=path, **how)
  return content, tuple(datasets)


def _contract_layers(sensor: contract.Sensor) -> tuple[str, ...]:
  if sensor.kind == contract.Kind.SAR_COMPLEX:
    return tuple(dict.fromkeys(b.polarisation for b in sensor.bands))
  return sensor.band_names


def _datasets(file, path: str, sensor: contract.Sensor) -> dict[str, str]:
  """Data sets called like bands of the sensor, or ending in '-B04'."""
  tokens = sources.band_tokens(sensor)
  names = arrays.dataset_names(file, name=path)
  found = {}
  for name in names:
    band = tokens.get(name.replace('_', '-').rpartition('-')[2].lower())
    if band:
      found[band] = name
  if not found:
    raise ValueError(
      f'{path}: no data set of {names} is called like a band of '
      f'{sensor.name}; set --datasets BAND=NAME,...'
    )
  return found
