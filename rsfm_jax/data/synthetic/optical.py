"""What optical sensors see: sunlit ground through a hazy atmosphere."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from rsfm_jax.data.synthetic import fields
from rsfm_jax.data.synthetic import ground as ground_lib
from rsfm_jax.data.synthetic import materials
from rsfm_jax.data.synthetic import season
from rsfm_jax.data.synthetic import spectra
from rsfm_jax.data.synthetic import terrain
from rsfm_jax.sensors import contract

_LOWEST_SUN = np.radians(25.0)  # Lower, few images are taken.
_CLOUD_REFLECTANCE = 0.75
_SATURATION = 1.6  # Sunlit slopes of snow exceed 1; detectors end somewhere.
_CLOUD_HEIGHT_M = 60.0  # Low, so that shadows fall into the image.


class View(NamedTuple):
  """Ground, light and air at one date, before any sensor. [H, W] each."""

  green: np.ndarray  # Share of green cover, 0..1.
  brightness: np.ndarray  # Factor on reflectance: texture and patch gain.
  direct: np.ndarray  # Direct sunlight, 1 on flat ground without shadow.
  cloud: np.ndarray  # Opacity, 0..1.
  haze: float  # Aerosol path reflectance at 550 nm.
  tint: np.ndarray  # [E, 2] gain and slope over wavelength of each endmember.


def view(
  ground: ground_lib.Ground,
  rng: np.random.Generator,
  *,
  latitude: float,
  day: float,
  cloudiness: float = 0.0,
  tint: np.ndarray,
) -> View:
  """The state of a date that all optical sensors share.

  Args:
    ground: the scene.
    rng: weather of this date.
    latitude: degrees.
    day: of the year.
    cloudiness: share of the image under clouds.
    tint: [E, 2], see `draw_tint`.
  """
  patches, patch = ground.patches, ground.patch
  textured = ground_lib.texture(ground)
  green = season.greenness(
    materials.CYCLE[patches.material],
    day,
    latitude=latitude,
    delay=patches.delay,
  )
  thinning = materials.THINNING[patches.material]
  relief = materials.RELIEF[patches.material]
  sun = season.sun(latitude, day)
  azimuth, elevation = sun.azimuth, max(sun.elevation, _LOWEST_SUN)
  light = terrain.shading(
    ground.terrain + ground.above,
    ground.gsd_m,
    azimuth=azimuth,
    elevation=elevation,
  )
  shadow = terrain.cast_shadow(
    ground_lib.surface(ground, textured),
    ground.gsd_m,
    azimuth=azimuth,
    elevation=elevation,
  )
  cloud, shade = _clouds(ground, rng, cloudiness, azimuth, elevation)
  direct = np.minimum(light, 1.7) * ~shadow * (1 - 0.9 * shade)
  return View(
    green=np.clip((green[patch] * (1 + thinning[patch] * textured)), 0, 1),
    brightness=patches.gain[patch]
    * np.clip(1 + relief[patch] * textured, 0.2, 2.0),
    direct=direct.astype(np.float32),
    cloud=cloud,
    haze=float(rng.gamma(2.0, 0.012)),
    tint=tint,
  )


def draw_tint(rng: np.random.Generator) -> np.ndarray:
  """How this place's soils, leaves and roofs differ from the table: [E, 2]."""
  shape = (len(spectra.ENDMEMBERS), 2)
  return rng.standard_normal(shape, np.float32) * np.float32([0.13, 0.13])


def _clouds(
  ground: ground_lib.Ground,
  rng: np.random.Generator,
  share: float,
  azimuth: float,
  elevation: float,
) -> tuple[np.ndarray, np.ndarray]:
  """Opacity of clouds and of their shadows, displaced away from the sun."""
  size = ground.size
  if share <= 0:
    clear = np.zeros((size, size), np.float32)
    return clear, clear
  field = fields.filtered(rng, [fields.fractal(size, 2.0)])[0]
  opacity = np.clip((field - special.ndtri(1 - share)) / 0.7 + 0.5, 0, 1)
  shift = _CLOUD_HEIGHT_M / np.tan(elevation) / ground.gsd_m
  away = (shift * np.cos(azimuth), -shift * np.sin(azimuth))
  # The field is periodic, so that rolling brings in clouds from outside.
  return opacity, np.roll(opacity, np.round(away).astype(int), (0, 1))


def _path_reflectance(nm: np.ndarray, haze: float) -> np.ndarray:
  """Light scattered into the view: Rayleigh and aerosol parts. [C]."""
  return 0.035 * (480.0 / nm) ** 4 + haze * (550.0 / nm) ** 1.3


def reflectance(
  ground: ground_lib.Ground,
  seen: View,
  bands: Sequence[contract.Band],
) -> np.ndarray:
  """Top-of-atmosphere reflectance before noise: float32 [H, W, C].

  Patches meet in the point spread function, which mixes their spectra.
  """
  nm, _ = spectra.wavelengths(bands)
  tilt = np.clip(np.log(nm / 800.0), -1, 1)
  tint = np.exp(seen.tint[:, :1] + seen.tint[:, 1:] * tilt)
  table = spectra.integrate(tuple(bands)) * tint.astype(np.float32)
  material = ground.patches.material
  dormant = materials.DORMANT[material] @ table
  peak = materials.PEAK[material] @ table
  rho = dormant[ground.patch]
  rho += seen.green[..., None] * (peak - dormant)[ground.patch]
  # The sky lights shadows, and is blue.
  sky = (0.1 + 0.1 * (550.0 / nm) ** 2).astype(np.float32)
  lit = seen.direct[..., None] * (1 - sky) + sky
  rho = fields.smooth(rho * (lit * seen.brightness[..., None]))
  cloud = seen.cloud[..., None]
  rho = rho * (1 - cloud) + _CLOUD_REFLECTANCE * cloud
  path = _path_reflectance(nm, seen.haze).astype(np.float32)
  return rho * (1 - 1.3 * path) + path


def render(
  ground: ground_lib.Ground,
  seen: View,
  sensor: contract.Sensor,
  rng: np.random.Generator,
) -> np.ndarray:
  """The image of an optical sensor, in its contract unit: [H, W, C].

  REFLECTANCE is float32 at the top of the atmosphere; DN is uint16 by the
  sensor's scale and offset; UINT8 goes through a camera whose exposure, white
  balance and contrast differ from scene to scene.

  Raises:
    ValueError: a unit that an optical image cannot have.
  """
  rho = reflectance(ground, seen, sensor.bands)
  noise = rng.standard_normal(rho.shape, np.float32)
  rho += np.float32(rng.uniform(0.001, 0.004)) * noise
  if sensor.units == contract.Units.REFLECTANCE:
    return np.clip(rho, 0, _SATURATION)
  if sensor.units == contract.Units.DN:
    stored = np.rint((rho - sensor.offset) / sensor.scale)
    return np.clip(stored, 1, 65535).astype(np.uint16)
  if sensor.units == contract.Units.UINT8:
    return _develop(rho, seen.cloud, rng)
  raise ValueError(
    f'{sensor.name}: an optical image cannot be in {sensor.units}; allowed '
    'are reflectance, dn and uint8.'
  )


def _develop(
  rho: np.ndarray, cloud: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Reflectance to display values, as an unknown processor would do it."""
  # It keeps seven eighths of bright ground below white, and lets clouds burn.
  levels = rho[::4, ::4].mean(-1)[cloud[::4, ::4] < 0.1]
  bright = np.quantile(levels, 0.875) if levels.size else 0.0
  white = max(rng.uniform(0.28, 0.5), 1.15 * bright)
  balance = np.exp(0.04 * rng.standard_normal(rho.shape[-1]))
  black = rng.uniform(0.0, 0.05)
  gamma = rng.uniform(1.1, 1.7)
  scaled = (rho - black) * (balance / (white - black)).astype(np.float32)
  display = np.clip(scaled, 0, 1) ** np.float32(1 / gamma)
  return np.rint(255 * display).astype(np.uint8)
