"""Do exported files say what the model says? Errors on several batch sizes."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from rsfm_jax.export import graph as graphs
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import units

Arrays = dict[str, np.ndarray]
Kind = contract.Kind
BATCHES = (1, 2, 5)
TOLERANCE = 1e-4


def images(graph: graphs.Graph, batch: int, *, seed: int = 0) -> Arrays:
  """Inputs of a graph that look like its sensor's, with holes.

  Values are drawn around the means of the statistics, band by band, and go
  back to what the sensor stores. A corner is NaN, another one nodata.
  """
  rng = np.random.default_rng([seed, batch])
  shape = (batch, graph.size, graph.size, len(graph.pixels.bands))
  pixels = rng.standard_normal(shape, np.float32)
  if graph.pixels.kind is not Kind.SAR_COMPLEX:
    pixels = _stored(graph, pixels)
  side = max(graph.size // 8, 1)
  pixels[0, :side, :side, graph.recipe().columns[0]] = np.nan
  nodata = graph.pixels.nodata
  if nodata is not None:
    pixels[-1, -side:, -side:] = nodata
  found = {'pixels': pixels}
  if 'scene_scale' in graph.inputs:
    found['scene_scale'] = np.linspace(1, 2, batch, dtype=np.float32)
  return found


def _stored(graph: graphs.Graph, noise: np.ndarray) -> np.ndarray:
  """Deviations to stored values of the bands that are used."""
  recipe, statistics = graph.recipe(), graph.statistics
  bands = [recipe.columns[i] for i in recipe.found.indices]
  values = noise[..., bands] * np.asarray(statistics.std, np.float32)
  values = values + np.asarray(statistics.mean, np.float32)
  source = dataclasses.replace(
    graph.sensor, scale=graph.pixels.scale, offset=graph.pixels.offset
  )
  if source.units != graph.pixels.units:
    values = units.convert(values, source=source, target=graph.pixels.units)
  if graph.processing_baseline is not None:
    values = values - units.baseline_offset(
      graph.pixels, graph.processing_baseline
    )
  out = noise.copy()
  out[..., bands] = values
  return out


def reference(
  graph: graphs.Graph, params: Any, inputs: Sequence[Arrays]
) -> list[Arrays]:
  """What the jitted model says of each batch."""
  run = jax.jit(functools.partial(graph))
  return [
    {n: np.asarray(x) for n, x in run(params, **arrays).items()}
    for arrays in inputs
  ]


def errors(
  want: Sequence[Arrays], got: Sequence[Arrays]
) -> dict[str, dict[str, float]]:
  """{batch size: {output: largest absolute difference}}.

  Raises:
    ValueError: other outputs or shapes than the model's, or no numbers.
  """
  out = {}
  for a, b in zip(want, got, strict=True):
    shapes = [{n: x.shape for n, x in arrays.items()} for arrays in (a, b)]
    if shapes[0] != shapes[1]:
      raise ValueError(f'outputs are {shapes[1]} and should be {shapes[0]}.')
    size = str(len(next(iter(a.values()))))
    out[size] = {n: float(np.abs(a[n] - b[n]).max()) for n in a}
  return out


def worst(found: Mapping[str, Mapping[str, float]]) -> float:
  """The largest error of a file; NaN where one is."""
  return float(np.max([e for row in found.values() for e in row.values()]))


def check(
  found: Mapping[str, Mapping[str, Mapping[str, float]]], tolerance: float
) -> None:
  """Refuses files that do not say what the model says.

  Args:
    found: {file: `errors`}.
    tolerance: what the largest may be.

  Raises:
    RuntimeError: names the files and their errors.
  """
  # Written so that NaN fails.
  wrong = {f: worst(e) for f, e in found.items() if not worst(e) <= tolerance}
  if wrong:
    raise RuntimeError(
      'not exported: '
      + ', '.join(f'{f} is off by {e:.3g}' for f, e in wrong.items())
      + f' from the model, more than --tolerance {tolerance:g}.'
    )
