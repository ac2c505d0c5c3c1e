"""Do the bands hold what their names say? A statistical answer.

The reference of a sensor is one Gaussian over the logarithms of a pixel's
bands: mean, deviation and inter-band correlation, every location with the same
weight. The statistics of the given samples are compared with it under other
assignments of bands to slots. Where another assignment explains them better by
more than `GAIN`, the slot is named: 'slot B09 looks like B10'.

The constants were chosen on the scenes of the Sentinel-2 L1C reference alone,
each location held out in turn (10 locations, 22 scenes). With them every swap
of two bands in an OSCD scene is found, 1 092 of 1 092, both slots and no third
one named; no correct scene is accused, and 3 of 254 crops of 64 px are, all in
one scene of dense green haze, the only one of its kind. A single chip of a
landscape that the reference does not hold can therefore be wrong: give several.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools
import pathlib
from typing import Any, NamedTuple

import numpy as np

from rsfm_jax.core import files
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import units

FOLDER = pathlib.Path(__file__).parent / 'references'

# Added to reflectance before the logarithm: below it lies mostly noise, haze.
HAZE = 0.03
# Standard deviation, in log reflectance, that any band may differ by beyond
# the reference: calibration, and the few locations it was made from.
TOLERANCE = 0.02
# The same for bands that measure the air, not the ground: water vapour, cirrus.
TOLERANCE_OF_AIR = 0.1
_AIR = ('nir09', 'cirrus')
# Squared Mahalanobis distance by which an assignment has to be better.
GAIN = 2.0
# Farther than this from the reference is another kind of data altogether:
# crops of held out locations lie below 70, an offset of 1000 DN above 190.
FAR = 120.0

_PIXELS = 1 << 16  # Of one sample: enough for second moments of 13 bands.
_RESTARTS = 12


class Moments(NamedTuple):
  """First two moments of log reflectance. mean: [C], second: [C, C]."""

  mean: np.ndarray
  second: np.ndarray


class Verdict(NamedTuple):
  """What the fingerprint says.

  Attributes:
    ok: True when nothing contradicts the names; None when nothing could be
      compared, and then `findings` says why.
    findings: sentences for people.
    distance: of the best assignment from the reference; nan when unknown.
  """

  ok: bool | None
  findings: tuple[str, ...]
  distance: float = float('nan')


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
  """What a sensor's pixels look like, in log(reflectance + HAZE).

  Attributes:
    sensor: name in the catalogue.
    bands: names, in the order of the arrays.
    mean: [C].
    std: [C], between pixels of all locations.
    correlation: [C, C].
    sources: where the pixels came from.
  """

  sensor: str
  bands: tuple[str, ...]
  mean: np.ndarray
  std: np.ndarray
  correlation: np.ndarray
  sources: tuple[str, ...] = ()

  def to_json(self) -> dict[str, Any]:
    # Six digits lie far below TOLERANCE, and the file can still be read.
    return {
      'sensor': self.sensor,
      'bands': list(self.bands),
      'mean': self.mean.round(6).tolist(),
      'std': self.std.round(6).tolist(),
      'correlation': self.correlation.round(6).tolist(),
      'sources': list(self.sources),
    }

  @classmethod
  def from_json(cls, value: Mapping[str, Any]) -> 'Reference':
    """Inverse of `to_json`.

    Raises:
      ValueError: unknown or missing keys.
    """
    value = dict(value)
    try:
      for key in ('mean', 'std', 'correlation'):
        value[key] = np.asarray(value[key], np.float64)
      for key in ('bands', 'sources'):
        value[key] = tuple(value[key])
      return cls(**value)
    except (KeyError, TypeError) as error:
      raise ValueError(f'not a fingerprint reference: {error}') from error


def available() -> tuple[str, ...]:
  """Sensors that have a reference."""
  return tuple(sorted(path.stem for path in FOLDER.glob('*.json')))


@functools.cache
def load(sensor: str) -> Reference:
  """The reference shipped for a sensor; see `available`."""
  return Reference.from_json(files.read_json(FOLDER / f'{sensor}.json'))


def measure(image: np.ndarray, sensor: contract.Sensor) -> Moments | None:
  """Moments of one image [..., C]; None without a usable pixel.

  Non-finite pixels, and those where every band is nodata, are left out.
  """
  pixels = np.asarray(image).reshape(-1, len(sensor.bands))
  usable = np.isfinite(pixels).all(-1)
  if sensor.nodata is not None:
    usable &= (pixels != sensor.nodata).any(-1)
  rows = np.flatnonzero(usable)
  if not rows.size:
    return None
  pixels = pixels[rows[:: -(-rows.size // _PIXELS)]]
  reflectance = units.convert(
    pixels, source=sensor, target=contract.Units.REFLECTANCE
  )
  log = np.log(np.maximum(reflectance.astype(np.float64), 0) + HAZE)
  return Moments(log.mean(0), log.T @ log / len(log))


def build(
  locations: Mapping[str, Sequence[np.ndarray]],
  sensor: contract.Sensor,
  *,
  sources: Sequence[str] = (),
) -> Reference:
  """A reference from correct images.

  Args:
    locations: name of a place -> its images [..., C]; places weigh the same,
      however many images or pixels each has.
    sensor: the contract that the images are known to keep.
    sources: what to record as provenance.
  """
  places = [_mean([measure(i, sensor) for i in v]) for v in locations.values()]
  moments = _mean(places)
  covariance = moments.second - np.outer(moments.mean, moments.mean)
  std = np.sqrt(np.diag(covariance))
  return Reference(
    sensor=sensor.name,
    bands=sensor.band_names,
    mean=moments.mean,
    std=std,
    correlation=covariance / np.outer(std, std),
    sources=tuple(sources),
  )


def verdict(
  samples: Sequence[np.ndarray],
  sensor: contract.Sensor,
  *,
  reference: Reference | None = None,
) -> Verdict:
  """Compares samples with the reference of their sensor.

  Every sample counts the same. A slot can only be said to look like another of
  the sensor's own bands. A handful of 64 px chips is enough; more make it
  surer.

  Args:
    samples: images [H, W, C] (or one array [N, H, W, C]) in `sensor.units`.
    sensor: the contract the samples claim to keep.
    reference: instead of the one shipped for `sensor.name`.
  """
  if reference is None:
    if sensor.name not in available():
      return Verdict(None, (f'there is no fingerprint of {sensor.name}',))
    reference = load(sensor.name)
  if missing := set(sensor.band_names) - set(reference.bands):
    return Verdict(
      None, (f'the fingerprint of {sensor.name} lacks {sorted(missing)}',)
    )
  measured = [m for m in (measure(s, sensor) for s in samples) if m is not None]
  if not measured:
    return Verdict(None, ('the samples have no valid pixel',))
  problem = _Problem(_mean(measured), reference, sensor.bands)
  best, distance = problem.solve()
  if distance > FAR:
    return Verdict(False, (_far(distance, sensor, problem),), distance)
  # Ordered by slot, as a reader goes through the bands.
  wrong = {s: b for b, s in enumerate(best) if s != b}
  findings = tuple(
    f'slot {sensor.band_names[slot]} looks like '
    f'{sensor.band_names[wrong[slot]]}'
    for slot in sorted(wrong)
    if problem.solve(fixed=slot, start=best)[1] - distance > GAIN
  )
  return Verdict(not findings, findings, distance)


def _far(distance: float, sensor: contract.Sensor, problem: '_Problem') -> str:
  at = int(np.argmax(np.abs(problem.surprise())))
  return (
    f'the values are far from every reference of {sensor.name} (distance '
    f'{distance:.0f}, usual below {FAR:.0f}; most of all '
    f'{sensor.band_names[at]}): wrong unit, an offset left in (Sentinel-2 '
    'baseline 04.00), thick cloud or snow; bands were not compared'
  )


def _mean(moments: Sequence[Moments]) -> Moments:
  return Moments(*(np.mean(part, axis=0) for part in zip(*moments)))


class _Problem:
  """Which slot holds which band: a quadratic assignment of C bands.

  An assignment is int [C]: entry b is the slot that holds band b. Its cost is
  the mean squared Mahalanobis distance of pixels from the reference.
  """

  def __init__(
    self,
    moments: Moments,
    reference: Reference,
    bands: Sequence[contract.Band],
  ):
    rows = [reference.bands.index(band.name) for band in bands]
    tolerance = [
      TOLERANCE_OF_AIR if band.common_name in _AIR else TOLERANCE
      for band in bands
    ]
    std = reference.std[rows]
    covariance = reference.correlation[np.ix_(rows, rows)]
    covariance = covariance * np.outer(std, std)
    covariance += np.diag(np.square(tolerance))
    self._moments = moments
    self._mean = reference.mean[rows]
    self._std = std
    self._precision = np.linalg.inv(covariance)
    self._identity = np.arange(len(rows))
    self._moves = _moves(len(rows))

  def surprise(self) -> np.ndarray:
    """Deviations by which the mean of each slot is off. [C]"""
    return (self._moments.mean - self._mean) / self._std

  def costs(self, assignments: np.ndarray) -> np.ndarray:
    """assignments: int [A, C] -> [A]."""
    second = self._moments.second[
      assignments[:, :, None], assignments[:, None, :]
    ]
    first = self._moments.mean[assignments]
    towards = self._precision @ self._mean
    return (
      second.reshape(len(second), -1) @ self._precision.reshape(-1)
      - 2 * first @ towards
      + self._mean @ towards
    )

  def solve(
    self, *, fixed: int | None = None, start: np.ndarray | None = None
  ) -> tuple[np.ndarray, float]:
    """The best assignment found, and its cost.

    Args:
      fixed: this slot must hold its own band.
      start: where to look first; otherwise many seeded restarts.
    """
    rng = np.random.default_rng(0)
    starts = [self._identity]
    if start is None:
      starts += [rng.permutation(self._identity) for _ in range(_RESTARTS)]
    else:
      starts.append(start)
    return min(
      (self._descend(s.copy(), fixed) for s in starts), key=lambda t: t[1]
    )

  def _descend(
    self, current: np.ndarray, fixed: int | None
  ) -> tuple[np.ndarray, float]:
    """Steepest descent over swaps and 3-cycles."""
    if fixed is not None:
      at = int(np.flatnonzero(current == fixed)[0])
      current[[at, fixed]] = current[[fixed, at]]
    cost = float(self.costs(current[None])[0])
    while True:
      near = current[self._moves]
      if fixed is not None:
        near = near[near[:, fixed] == fixed]
      if not len(near):
        return current, cost
      costs = self.costs(near)
      i = int(costs.argmin())
      if costs[i] >= cost - 1e-9:
        return current, cost
      current, cost = near[i], float(costs[i])


@functools.cache
def _moves(size: int) -> np.ndarray:
  """Every swap of two and rotation of three of `size` places. [A, size]"""
  moves = []
  for length in (2, 3):
    for places in itertools.permutations(range(size), length):
      if places[0] == min(places):
        move = list(range(size))
        for i, place in enumerate(places):
          move[place] = places[(i + 1) % length]
        moves.append(move)
  return np.asarray(moves, int).reshape(-1, size)
