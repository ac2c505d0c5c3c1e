"""How often the experts are used, measured on calibration data."""

from collections.abc import Callable, Iterable, Mapping
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from rsfm_jax.core import once

Tree = Any


class Usage(NamedTuple):
  """Shares per layer, sensor and expert, averaged over the images.

  Attributes:
    specialised_load: share of a sensor's tokens per expert, f64[L, M, E].
    collaborative_load: f64[L, M, E'].
    specialised_mass: mean router probabilities, f64[L, M, E].
    collaborative_mass: f64[L, M, E'].
    specialised_gate: mean weight of each expert's output, f64[L, M, E].
    collaborative_gate: f64[L, M, E'].
    images: calibration images per sensor, i64[M].
  """

  specialised_load: np.ndarray
  collaborative_load: np.ndarray
  specialised_mass: np.ndarray
  collaborative_mass: np.ndarray
  specialised_gate: np.ndarray
  collaborative_gate: np.ndarray
  images: np.ndarray

  def to_json(self) -> dict[str, Any]:
    return {k: np.asarray(v).tolist() for k, v in self._asdict().items()}


_FIELDS = Usage._fields[:-1]


@functools.lru_cache(maxsize=8)
def _routed(apply: Callable[..., Any]) -> Callable[..., Any]:
  def routed(params, images):
    aux = apply(params, images, mode='eval').aux
    return {field: getattr(aux, field) for field in _FIELDS}

  return once.jit(routed)


def measure(
  apply: Callable[..., Any],
  params: Tree,
  batches: Iterable[Mapping[str, Any]],
  *,
  sensors: tuple[str, ...],
) -> Usage:
  """Routes calibration images (dropless) and averages what the routers do.

  Args:
    apply: of the model.
    params: of the model.
    batches: {sensor: f32[B, H, W, C]}; any subset of the sensors, B may vary.
    sensors: of the model, in its order.

  Raises:
    ValueError: no image at all.
  """

  routed = _routed(apply)
  totals: dict[str, np.ndarray] = {}
  seen = np.zeros(len(sensors), np.int64)
  for images in batches:
    counts = np.array([len(images.get(s, ())) for s in sensors])
    seen += counts
    for field, value in jax.device_get(routed(params, images)).items():
      weighted = value.astype(np.float64) * counts[None, :, None]
      totals[field] = totals.get(field, 0) + weighted
  if not seen.sum():
    raise ValueError('pruning: the calibration data holds no image.')
  divisor = np.maximum(seen, 1)[None, :, None]
  return Usage(**{k: v / divisor for k, v in totals.items()}, images=seen)
