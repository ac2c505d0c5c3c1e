"""How the places of `convert.targets` are filled, one function per kind.

Each takes the name of the parameter, the place that was found for it, the dense
array, the parameter as initialised and the job; it gives what fills the
parameter, or None and the reason why it stays as it is.
"""

from collections.abc import Mapping
import math
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from rsfm_jax.convert import bands as bands_lib
from rsfm_jax.convert import rules
from rsfm_jax.convert import sources
from rsfm_jax.convert import upcycle
from rsfm_jax.convert.targets import places as places_lib
from rsfm_jax.nn import positions
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import contract

Dense = rules.Dense

# The config key that most likely explains a shape that does not fit.
_KEYS = (
  (r'.*/(logit_scale|cpb/out/kernel)', 'model.heads'),
  (r'embed/.*/kernel', 'model.patch_size or model.embed_dim'),
  (r'.*/(w_in|b_in|w_out)', 'model.mlp_ratio or model.embed_dim'),
  ('.*', 'model.embed_dim'),
)


class Job(NamedTuple):
  """What the kinds of places need to know.

  Attributes:
    source: where the weights come from.
    spec: of the model.
    target: its places.
    initial: its parameters by name, as initialised.
    bands: of the source's patch embedding.
    noise: see `fill`.
    seed: see `fill`.
  """

  source: sources.Source
  spec: Any
  target: places_lib.Target
  initial: Mapping[str, Any]
  bands: tuple[contract.Band, ...]
  noise: float
  seed: int

  def channels(self, sensor: str) -> int:
    return self.spec.channels[self.spec.sensors.index(sensor)]


class Found(NamedTuple):
  """The place of a parameter and how its pattern matched the name."""

  place: places_lib.Place
  match: re.Match[str]


def check_shape(name: str, made: Dense, leaf: Any) -> None:
  if made.array.shape == tuple(leaf.shape):
    return
  key = next(key for pattern, key in _KEYS if re.fullmatch(pattern, name))
  raise ValueError(
    f'{made.sources[0]} gives {name} the shape {made.array.shape}, the model '
    f'has {tuple(leaf.shape)}: set config.{key} as in the source.'
  )


def _copy(name, found, made, leaf, job):
  del name, found, leaf, job
  return made, ''


def _bands(name, found, made, leaf, job):
  del name, leaf
  sensor = catalogue.get(found.match[1])
  if sensor.kind is contract.Kind.SAR_COMPLEX:
    return None, 'real and imaginary parts are no intensities'
  kernel, words = bands_lib.adapt(
    made.array, job.bands, sensor, channels=job.channels(sensor.name)
  )
  if np.array_equal(kernel, made.array):
    return made, ''
  return made.changed(words, kernel), ''


def _pixels(name, found, made, leaf, job):
  """Predicted patches [..., p * p * C] as (row, column, band); unscaled."""
  del name, leaf
  sensor = catalogue.get(found.match[1])
  if sensor.kind is contract.Kind.SAR_COMPLEX:
    return None, 'real and imaginary parts are no intensities'
  lead = made.array.shape[:-1]
  try:
    pixels = made.array.reshape(*lead, job.spec.patch_size**2, -1)
  except ValueError:
    raise ValueError(
      f'{made.sources[0]} predicts {made.array.shape[-1]} values: no patches '
      f'of config.model.patch_size={job.spec.patch_size}.'
    ) from None
  picked, words = bands_lib.select(
    pixels,
    job.bands,
    sensor,
    channels=job.channels(sensor.name),
    axis=len(lead) + 1,
  )
  picked = picked.reshape(*lead, -1)
  if np.array_equal(picked, made.array):
    return made, ''
  return made.changed(words, picked), ''


def _neighbours(name, found, made, leaf, job):
  """[2, 2, D, 2D] -> [4D, 2D] in the order of `nn.patches.PatchMerging`."""
  del name, found, leaf, job
  kernel = made.array.transpose(1, 0, 2, 3)
  return made._replace(array=kernel.reshape(-1, kernel.shape[-1])), ''


def _positions(name, found, made, leaf, job):
  del name, found
  height, width = leaf.shape[:2]
  if made.array.shape[:2] == (height, width):
    return made, ''
  table = positions.resize(made.array, height, width, kind=job.source.resize)
  side = made.array.shape[0]
  words = f'{side} x {side} resized to {height} x {width}, {job.source.resize}'
  return made.changed(words, np.asarray(table)), ''


def _shared(name, found, made, leaf, job):
  del found, leaf
  array = upcycle.shared(
    name.rsplit('/', 1)[1], made.array, branches=job.target.gates.branches
  )
  if array is made.array:
    return made, ''
  return made.changed(f'1 / {job.target.gates.branches}', array), ''


def _experts(name, found, made, leaf, job):
  parent, last = name.rsplit('/', 1)
  gates, middle = job.target.gates, leaf.ndim - made.array.ndim
  one = (leaf.shape[0], *leaf.shape[1 + middle :])
  check_shape(name, made, jax.ShapeDtypeStruct(one, np.float32))
  mean = upcycle.mean_gate(
    np.asarray(job.initial[f'{parent}/router'])[..., : found.place.seen],
    choices=gates.choices,
    normalised=gates.normalised,
  )
  while mean.ndim > middle:  # Routers by sensor, but one set of experts.
    mean = mean.mean(-1)
  array = upcycle.experts(
    last,
    made.array,
    tuple(leaf.shape),
    factor=1 / (gates.branches * mean),
    noise=job.noise,
    key=upcycle.key_of(job.seed, name),
  )
  words = f'{math.prod(leaf.shape[1 : 1 + middle])} copies'
  if job.noise and last in upcycle.MATRICES:
    words += f', noise {job.noise:g}'
  if last in upcycle.OUTPUTS:
    words += ', over mean gate and branches'
  return made.changed(words, array), ''


KINDS = {
  'copy': _copy,
  'bands': _bands,
  'pixels': _pixels,
  'neighbours': _neighbours,
  'positions': _positions,
  'shared': _shared,
  'experts': _experts,
}
