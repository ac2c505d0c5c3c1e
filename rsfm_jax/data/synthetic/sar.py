"""What radars see: fully polarimetric single-look complex images.

Every pixel is a draw from a zero-mean circular complex Gaussian with the 4x4
covariance of its class, as for fully developed speckle. Hence intensities are
exponential (coefficient of variation 1), amplitudes Rayleigh
(sqrt(4 / pi - 1) = 0.5227), and means of L independent looks have 1 / sqrt(L).

The covariances are plausible values set by hand for 35 degrees of incidence,
not measurements.
"""

import numpy as np

from rsfm_jax.data.synthetic import fields
from rsfm_jax.data.synthetic import ground as ground_lib
from rsfm_jax.data.synthetic import materials
from rsfm_jax.data.synthetic import terrain
from rsfm_jax.sensors import contract

POLARISATIONS = ('HH', 'HV', 'VH', 'VV')
NOISE_DB = -32.0  # Thermal noise of each channel, sigma0.
LOOKS = 3  # Window of amplitude products; LOOKS^2 looks in the interior.

_INCIDENCE = np.radians(35.0)
_Cover = materials.LandCover

# sigma0 in dB of HH, VV and HV; magnitude and phase (degrees) of the
# correlation of HH and VV. Surfaces correlate, volumes do not, and double
# bounces turn the phase.
_TABLE: dict[object, tuple[float, float, float, float, float]] = {
  _Cover.WATER: (-22, -20, -31, 0.9, 5),
  _Cover.FOREST: (-8, -8.5, -13, 0.3, 0),
  _Cover.CROP: (-11.5, -11, -18.5, 0.55, -10),
  _Cover.ORCHARD: (-9.5, -10.5, -15.5, 0.4, 15),
  _Cover.GRASS: (-14.5, -14, -22, 0.65, 0),
  _Cover.BARE_SOIL: (-15.5, -14, -25, 0.8, 3),
  _Cover.URBAN: (-8, -8.5, -16, 0.4, 120),
  _Cover.BUILDING: (-4, -6, -14, 0.45, 160),
  _Cover.ROAD: (-20, -18.5, -29, 0.8, 0),
  _Cover.WETLAND: (-9, -11.5, -18, 0.45, 110),
  _Cover.SNOW: (-13, -12.5, -20, 0.7, -20),
  _Cover.BEACH: (-17.5, -16.5, -27, 0.8, 0),
  'ship': (6, 4, -6, 0.5, 150),
  'vehicle': (-1, -2, -12, 0.5, 160),
  'tank': (5, 5, -8, 0.7, 20),
}
_NAMES = tuple(_TABLE)
SHADOW = len(_NAMES)  # Class of radar shadow: thermal noise alone.


def _class_of_material() -> np.ndarray:
  special = {'ship': 'ship', 'dark_ship': 'ship', 'tank': 'tank'}
  special |= {name: 'vehicle' for name in materials.INDEX if 'car' in name}
  return np.array(
    [
      _NAMES.index(special.get(name, material.cover))
      for name, material in materials.MATERIALS.items()
    ],
    np.int16,
  )


def _power(db: float) -> float:
  return 10.0 ** (db / 10.0)


def _covariances() -> np.ndarray:
  """[K, 4, 4] complex128 in the order of POLARISATIONS."""
  out = np.zeros((len(_NAMES) + 1, 4, 4), complex)
  for k, (hh, vv, hv, rho, degrees) in enumerate(_TABLE.values()):
    out[k, 0, 0], out[k, 3, 3] = _power(hh), _power(vv)
    # Reciprocity: HV and VH are one signal.
    out[k, 1:3, 1:3] = _power(hv)
    cross = rho * np.exp(1j * np.radians(degrees))
    out[k, 0, 3] = cross * np.sqrt(_power(hh) * _power(vv))
    out[k, 3, 0] = np.conj(out[k, 0, 3])
  return out + _power(NOISE_DB) * np.eye(4)


CLASS_OF_MATERIAL = _class_of_material()
COVARIANCE = _covariances()
_CHOLESKY = np.linalg.cholesky(COVARIANCE).astype(np.complex64)


def speckle(
  classes: np.ndarray, gain: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Draws the scattering of every pixel.

  Args:
    classes: int [H, W] rows of COVARIANCE.
    gain: float [H, W] factor on power.
    rng: source of the speckle.

  Returns:
    complex64 [H, W, 4] with E[s s^H] = gain * COVARIANCE[classes].
  """
  normal = rng.standard_normal((4, *classes.shape, 2), np.float32)
  z = normal.view(np.complex64)[..., 0] * np.sqrt(gain / 2).astype(np.float32)
  out = np.zeros((*classes.shape, 4), np.complex64)
  for i in range(4):
    for j in range(i + 1):
      factor = _CHOLESKY[:, i, j]
      if factor.any():  # Co- and cross-polarised channels do not correlate.
        out[..., i] += factor[classes] * z[j]
  return out


def scatter(
  ground: ground_lib.Ground, rng: np.random.Generator, *, green: np.ndarray
) -> np.ndarray:
  """The single-look complex image: complex64 [H, W, 4], sigma0 scale.

  Slopes towards the radar and walls that face it are bright, ground behind
  tall things is in shadow. Positions are not displaced, so that the image
  stays co-registered with the optical ones.

  Args:
    ground: the scene.
    rng: draws look direction, calibration and speckle.
    green: [H, W] green cover of the date, which adds to the backscatter of
      crops.
  """
  # Right-looking from a near-polar orbit: the radar is in the east or west.
  azimuth = np.radians(rng.choice([100.0, 260.0]) + rng.uniform(-8, 8))
  towards = {'azimuth': azimuth, 'elevation': np.pi / 2 - _INCIDENCE}
  textured = ground_lib.texture(ground)
  material = ground.patches.material[ground.patch]
  classes = CLASS_OF_MATERIAL[material]
  db = ground.patches.sar_db[ground.patch] + rng.uniform(-1, 1)
  db = db + _vegetation_db(material, textured, green)
  slope = terrain.shading(ground.terrain, ground.gsd_m, **towards)
  gain = 10 ** (db / 10) * np.clip(slope, 0.2, 4.0)
  gain *= _walls(ground.above, azimuth)
  shadow = terrain.cast_shadow(
    ground_lib.surface(ground, textured), ground.gsd_m, **towards
  )
  classes = np.where(shadow & (ground.above < 1), SHADOW, classes)
  return speckle(classes, np.where(classes == SHADOW, 1, gain), rng)


def _vegetation_db(
  material: np.ndarray, textured: np.ndarray, green: np.ndarray
) -> np.ndarray:
  """Growing crops scatter more; crowns and orchard rows have texture."""
  kind = materials.TEXTURE[material]
  crowns = kind == materials.Texture.CROWNS
  crowns |= kind == materials.Texture.TREES_IN_GRID
  crop = materials.COVER[material] == materials.LandCover.CROP
  return np.where(crop, 4 * (green - 0.4), 0) + np.where(
    crowns, 1.2 * np.clip(textured, -2, 2), 0
  )


def _walls(above: np.ndarray, azimuth: float) -> np.ndarray:
  """Factor on power where a wall meets the ground in view of the radar."""
  dx, dy = round(np.sin(azimuth)), -round(np.cos(azimuth))
  height, width = above.shape
  padded = np.pad(above, 1, mode='edge')

  def seen(x: int, y: int) -> np.ndarray:
    return padded[1 + y : 1 + y + height, 1 + x : 1 + x + width]

  edge = above - seen(dx, dy) > 2.5  # The building's side of the wall.
  foot = seen(-dx, -dy) - above > 2.5  # The ground in front of it.
  return np.where(edge, 14.0, 1.0) * np.where(foot, 5.0, 1.0)


def to_channels(image: np.ndarray, sensor: contract.Sensor) -> np.ndarray:
  """I and Q channels of a complex sensor, by band name: float32 [H, W, C].

  Args:
    image: complex [H, W, 4] in the order of POLARISATIONS.
    sensor: bands are called `<polarisation>_I` and `<polarisation>_Q`.
  """
  channels = []
  for band in sensor.bands:
    plane = image[..., POLARISATIONS.index(band.polarisation)]
    channels.append(plane.imag if band.name.endswith('_Q') else plane.real)
  return np.stack(channels, -1).astype(np.float32)


def multilook(image: np.ndarray, window: int = LOOKS) -> np.ndarray:
  """Mean power over a centred window, same grid: float32 [H, W, ...]."""
  return fields.box_mean(image.real**2 + image.imag**2, window)


def to_amplitude(image: np.ndarray, sensor: contract.Sensor) -> np.ndarray:
  """Multilooked amplitude of the same complex image: float32 [H, W, C].

  A band without a polarisation is VV. Units DB (20 log10 of the amplitude),
  LINEAR_AMPLITUDE or LINEAR_POWER.

  Raises:
    ValueError: another unit.
  """
  wanted = [
    POLARISATIONS.index(band.polarisation or 'VV') for band in sensor.bands
  ]
  power = multilook(image[..., wanted])
  if sensor.units == contract.Units.DB:
    return 10 * np.log10(power)
  if sensor.units == contract.Units.LINEAR_AMPLITUDE:
    return np.sqrt(power)
  if sensor.units == contract.Units.LINEAR_POWER:
    return power
  raise ValueError(
    f'{sensor.name}: an amplitude image cannot be in {sensor.units}; allowed '
    'are db, linear_amplitude and linear_power.'
  )


def scene_scale(image: np.ndarray) -> np.ndarray:
  """RMS amplitude over pixels and polarisations: float32 []."""
  power = image.real**2 + image.imag**2
  return np.sqrt(power.mean(dtype=np.float64)).astype(np.float32)
