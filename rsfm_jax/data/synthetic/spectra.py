"""Reflectance spectra of ground materials, integrated over a sensor's bands.

The table holds representative values set by hand at a few wavelengths with
the shapes that matter: chlorophyll absorption and the red edge, water dark
beyond the red, soil rising, snow bright in the visible and dark in the
short-wave infrared. It is not a measured library.
"""

from collections.abc import Sequence
import functools

import numpy as np

from rsfm_jax.sensors import contract

_KNOTS_NM = (
    400, 450, 500, 550, 600, 650, 680, 700, 740, 800,
    900, 1000, 1200, 1450, 1650, 1940, 2200, 2500,
)  # fmt: skip

# Reflectance in percent at the knots.
_PERCENT = {
    'leaf': (3, 3, 4, 9, 6, 4, 3, 9, 33, 46, 48, 48, 43, 18, 27, 9, 15, 6),
    'needle': (2, 2, 3, 5, 4, 3, 2, 5, 18, 25, 26, 26, 23, 9, 13, 4, 7, 3),
    'straw': (8, 10, 13, 17, 21, 25, 27, 28, 31, 34, 38, 41, 44, 36, 44, 28,
              33, 22),
    'soil': (6, 8, 10, 14, 18, 21, 22, 23, 25, 27, 30, 32, 36, 34, 40, 32, 36,
             30),
    'sand': (18, 23, 28, 33, 37, 40, 41, 42, 43, 45, 47, 49, 52, 50, 55, 47,
             52, 46),
    'rock': (9, 11, 13, 15, 17, 18, 18, 19, 20, 21, 22, 23, 25, 25, 27, 25, 26,
             24),
    'water': (5, 5, 4, 4, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0),
    'silt': (6, 8, 10, 13, 13, 12, 11, 10, 6, 4, 3, 2, 1, 0, 0, 0, 0, 0),
    'snow': (95, 96, 96, 95, 94, 92, 91, 90, 88, 86, 80, 70, 45, 6, 10, 2, 5,
             2),
    'asphalt': (6, 6, 7, 8, 8, 9, 9, 9, 10, 10, 11, 11, 12, 13, 14, 14, 15, 15),
    'concrete': (18, 21, 24, 27, 29, 30, 31, 31, 32, 33, 34, 35, 36, 35, 37,
                 33, 35, 32),
    'tile': (5, 6, 7, 10, 17, 22, 24, 26, 28, 30, 33, 35, 40, 41, 43, 40, 42,
             40),
    'metal': (38, 42, 44, 46, 47, 48, 48, 48, 48, 48, 48, 48, 47, 45, 44, 42,
              40, 38),
    'blue_paint': (20, 30, 28, 18, 10, 8, 8, 9, 12, 16, 20, 22, 24, 22, 24, 20,
                   22, 20),
}  # fmt: skip

ENDMEMBERS = tuple(_PERCENT)

# Cameras named by colour only (`opt`, `naip`): centre and width in nm. Nominal
# values of a frame camera, our choice; the contract leaves them open.
_COLOURS_NM = {
  'blue': (480.0, 70.0),
  'green': (555.0, 70.0),
  'red': (650.0, 70.0),
  'nir': (835.0, 110.0),
}

_GRID_NM = np.arange(400.0, 2501.0, 2.0)


def centre_and_width(band: contract.Band) -> tuple[float, float]:
  """Centre wavelength and full width at half maximum of a band, in nm.

  Raises:
    ValueError: neither the band nor its common name says where it looks.
  """
  if band.wavelength_nm is not None and band.bandwidth_nm is not None:
    return band.wavelength_nm, band.bandwidth_nm
  if band.common_name in _COLOURS_NM:
    return _COLOURS_NM[band.common_name]
  raise ValueError(
    f'band {band.name!r} has no wavelength_nm and bandwidth_nm, and its '
    f'common name {band.common_name!r} is none of {sorted(_COLOURS_NM)}; '
    'an optical band cannot be rendered without.'
  )


@functools.lru_cache(maxsize=64)
def integrate(bands: tuple[contract.Band, ...]) -> np.ndarray:
  """Reflectance of each endmember in each band.

  The response of a band is a Gaussian of its width (FWHM).

  Returns:
    float32 [E, C] in the order of ENDMEMBERS.
  """
  table = np.array([_PERCENT[name] for name in ENDMEMBERS]) / 100.0
  fine = np.stack([np.interp(_GRID_NM, _KNOTS_NM, row) for row in table])
  centre, width = wavelengths(bands)
  sigma = np.maximum(width, 2.0) / (2 * np.sqrt(2 * np.log(2)))
  response = np.exp(-0.5 * ((_GRID_NM[:, None] - centre) / sigma) ** 2)
  return (fine @ (response / response.sum(0))).astype(np.float32)


def wavelengths(bands: Sequence[contract.Band]) -> tuple[np.ndarray, ...]:
  """Centres and widths of bands in nm: two float64 [C]."""
  centre, width = zip(*(centre_and_width(band) for band in bands), strict=True)
  return np.array(centre), np.array(width)
