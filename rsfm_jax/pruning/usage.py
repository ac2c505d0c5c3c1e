"""How often the experts are used, measured on calibration data."""

from collections.abc import Callable, Iterable, Mapping
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.core import once
from rsfm_jax.pruning import layout

Tree = Any


class LayerUsage(NamedTuple):
  """Of one layer by M sensors, f64[M, E] each; zeros for absent sensors.

  Attributes:
    share: of the tokens, those whose top-K holds the expert.
    gate: mean weight of its output on those tokens.
    mass: mean probability over all tokens.
    salience: mean of weight x length of the output on those tokens: the
      criterion of REAP (arXiv 2510.13999).
  """

  share: np.ndarray
  gate: np.ndarray
  mass: np.ndarray
  salience: np.ndarray


class Usage(NamedTuple):
  """A calibration record.

  Attributes:
    sensors: M names, in the model's order.
    images: calibration images per sensor, i64[M].
    layers: by name of the layer; see `layout.Layer`.
  """

  sensors: tuple[str, ...]
  images: np.ndarray
  layers: dict[str, LayerUsage]

  def rows(self, sensors: Iterable[str]) -> list[int]:
    """Rows of some sensors.

    Raises:
      ValueError: one that was not measured.
    """
    out = []
    for sensor in sensors:
      row = self.sensors.index(
        choices.check(sensor, self.sensors, key='sensor of the calibration')
      )
      if not self.images[row]:
        raise ValueError(
          f'the calibration holds no image of {sensor}; it has '
          f'{dict(zip(self.sensors, self.images.tolist(), strict=True))}.'
        )
      out.append(row)
    return out

  def pooled(self, layer: str, sensors: Iterable[str]) -> LayerUsage:
    """Of several sensors together, each with its images: f64[1, E] each."""
    found = self.layers[layer]
    rows = self.rows(sensors)
    weight = self.images[rows] / self.images[rows].sum()
    mean = lambda x: (weight @ x[rows])[None]
    share = mean(found.share)
    safe = np.where(share > 0, share, 1)
    return LayerUsage(
      share,
      mean(found.share * found.gate) / safe,
      mean(found.mass),
      mean(found.share * found.salience) / safe,
    )

  def to_json(self) -> dict[str, Any]:
    return {
      'sensors': list(self.sensors),
      'images': self.images.tolist(),
      'layers': {
        name: {k: v.tolist() for k, v in of._asdict().items()}
        for name, of in self.layers.items()
      },
    }

  @classmethod
  def from_json(cls, value: Mapping[str, Any]) -> 'Usage':
    """Inverse of `to_json`.

    Raises:
      ValueError: another kind of file, or arrays that do not fit.
    """
    try:
      found = cls(
        tuple(value['sensors']),
        np.array(value['images'], np.int64),
        {
          name: LayerUsage(**{k: np.array(v) for k, v in of.items()})
          for name, of in value['layers'].items()
        },
      )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
      raise ValueError(f'not a calibration record: {error!r}.') from error
    for name, of in found.layers.items():
      shapes = {v.shape for v in of}
      if len(shapes) != 1 or len(of.share) != len(found.sensors):
        raise ValueError(
          f'not a calibration record: {name} has arrays of {shapes} for '
          f'{len(found.sensors)} sensors.'
        )
    return found

  def check(self, spec: Any) -> None:
    """Whether it was measured on a model of this spec.

    Raises:
      ValueError: other sensors, layers or numbers of experts.
    """
    want = {x.name: x.experts for x in layout.layers(spec)}
    have = {n: x.share.shape[1] for n, x in self.layers.items()}
    if have != want or self.sensors != tuple(spec.sensors):
      raise ValueError(
        f'the calibration is of sensors {list(self.sensors)} and layers {have},'
        f' the model has {list(spec.sensors)} and {want}.'
      )


@functools.lru_cache(maxsize=8)
def _routed(spec: Any, apply: Callable[..., Any]) -> Callable[..., Any]:
  means = layout.of(spec).means
  return once.jit(
    lambda params, images: means(spec, apply(params, images, mode='eval').aux)
  )


def measure(
  spec: Any,
  apply: Callable[..., Any],
  params: Tree,
  batches: Iterable[Mapping[str, Any]],
) -> Usage:
  """Routes calibration images (dropless) and averages what the routers do.

  Args:
    spec: of the model.
    apply: of the model.
    params: of the model.
    batches: {sensor: f32[B, H, W, C]}; any subset of the sensors, B may vary.
      Sensors that see each other are measured as they come: alone, or
      together.

  Raises:
    ValueError: no image at all.
  """
  routed = _routed(spec, apply)
  totals: dict[str, list[np.ndarray]] = {}
  seen = np.zeros(len(spec.sensors), np.int64)
  for images in batches:
    counts = np.array([len(images.get(s, ())) for s in spec.sensors])
    if not counts.any():
      continue
    seen += counts
    for branch, means in jax.device_get(routed(params, images)).items():
      new = [np.float64(v) * counts[None, :, None] for v in means]
      old = totals.get(branch, [0] * len(new))
      totals[branch] = [a + b for a, b in zip(old, new, strict=True)]
  if not seen.sum():
    raise ValueError('pruning: the calibration data holds no image.')
  divisor = np.maximum(seen, 1)[None, :, None]
  found = {
    branch: layout.Means(*(v / divisor for v in values))
    for branch, values in totals.items()
  }
  return Usage(
    tuple(spec.sensors),
    seen,
    {x.name: _of_layer(x, found[x.branch]) for x in layout.layers(spec)},
  )


def _of_layer(layer: layout.Layer, means: layout.Means) -> LayerUsage:
  share, gate, mass, salience = (
    v[layer.row, :, : layer.experts] for v in means
  )
  safe = np.where(share > 0, share, 1)
  return LayerUsage(share, gate / safe, mass, salience / safe)
