"""Small scene files for the tests of reading and packing."""

import numpy as np
import rasterio


def write_tiff(
  path,
  image,
  *,
  pixel=10.0,
  origin=(500000.0, 5000000.0),
  crs='EPSG:32632',
  names=(),
  **options,
):
  """image: [C, H, W]."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if crs is not None:
    options |= {
      'crs': crs,
      'transform': rasterio.Affine(pixel, 0, origin[0], 0, -pixel, origin[1]),
    }
  with rasterio.open(
    path,
    'w',
    driver='GTiff',
    count=len(image),
    height=image.shape[1],
    width=image.shape[2],
    dtype=image.dtype,
    **options,
  ) as file:
    file.write(image)
    for i, name in enumerate(names, 1):
      file.set_band_description(i, name)
  return str(path)


def digital_numbers(bands, height, width, *, seed=0):
  """Plausible Sentinel-2 DN, uint16 [C, H, W]; no zero, so no nodata."""
  rng = np.random.default_rng(seed)
  return rng.integers(300, 4000, (bands, height, width)).astype(np.uint16)
