"""Pixels to features as one pure function, preprocessing inside.

A fine-tuned head may stand behind the features.

What comes in is what a sensor stores: numbers in its own unit, bands in a
declared order, nodata and NaN where nothing was seen. The contract and the
statistics of the checkpoint become part of the graph, so that whoever runs it
can normalise in no other way (`sensors.preprocess`, as training did).
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.core import trees
from rsfm_jax.export import heads
from rsfm_jax.models import build
from rsfm_jax.models import encoder
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import preprocess
from rsfm_jax.sensors import statistics as stats
from rsfm_jax.sensors import units
from rsfm_jax.tasks import spec as task_spec

Array = jax.Array
BATCH = 'b'  # The symbolic dimension of every input and output.
# Flatbuffers and protobuf end at 2 GiB; the graph itself takes a part.
LIMIT_BYTES = (1 << 31) - (64 << 20)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
  """An encoder of one sensor, from its stored pixels to features.

  Attributes:
    spec: of the model, of any system.
    sensor: contract of the model.
    pixels: contract of what comes in: its bands in order, units, nodata.
    statistics: of `sensor`, the checkpoint's; None for complex SAR, which a
      second input, the RMS amplitude of the scene, normalises.
    size: height and width of the images.
    stages: further maps to give out; see `encoder.stage_names`.
    processing_baseline: of Sentinel-2 DN; see `units.convert`.
    task: of a head, which adds the output `heads.PREDICTION`.
    classes: names of what the head tells apart, where they are known.
  """

  spec: Any
  sensor: contract.Sensor
  pixels: contract.Sensor
  statistics: stats.Statistics | None
  size: int
  stages: tuple[str, ...] = ()
  processing_baseline: str | None = None
  task: task_spec.TaskSpec | None = None
  classes: tuple[str, ...] = ()

  def __post_init__(self):
    if self.task is not None:
      heads.check(self.task)
    check_contract(self.spec, self.sensor, self.statistics)
    for stage in self.stages:
      choices.check(stage, encoder.stage_names(self.spec), key='--stages')
    if self.size < 1:
      raise ValueError(f'--size {self.size} must be at least 1 pixel.')
    if self.processing_baseline is not None:
      units.baseline_offset(self.pixels, self.processing_baseline)
    self.recipe()

  def recipe(self) -> preprocess.Recipe:
    """How `pixels` become what the model takes; a missing band is an error.

    Complex SAR that lacks a polarisation has zeros there, as in training.
    """
    return preprocess.recipe(
      self.pixels, self.sensor, statistics=self.statistics
    )

  @property
  def inputs(self) -> dict[str, tuple[str | int, ...]]:
    """{name: shape}, all float32, in the order of the arguments."""
    side, bands = self.size, len(self.pixels.bands)
    found: dict[str, tuple[str | int, ...]] = {
      'pixels': (BATCH, side, side, bands)
    }
    if self.recipe().statistics is None:
      found['scene_scale'] = (BATCH,)
    return found

  def arguments(self, batch: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Abstract inputs of `batch` images, a number or a symbolic dimension."""
    return tuple(
      jax.ShapeDtypeStruct((batch, *shape[1:]), jnp.float32)
      for shape in self.inputs.values()
    )

  def outputs(self, params: Any) -> dict[str, tuple[str | int, ...]]:
    """{name: shape} of what a call returns, all float32."""
    found = jax.eval_shape(self, params, *self.arguments(1))
    return {name: (BATCH, *x.shape[1:]) for name, x in found.items()}

  def __call__(
    self,
    params: Any,
    pixels: Array,
    scene_scale: Array | None = None,
    *,
    engine: str | None = None,
  ) -> dict[str, Array]:
    """Features of images.

    Args:
      params: of the model; with a head see `heads.joined`.
      pixels: f32[B, H, W, C], the bands of `self.pixels`, as they are stored.
        Invalid ones (`preprocess.pixel_valid` of the bands that are used)
        become zero after normalisation, the mean of the training data.
      scene_scale: f32[B], for complex SAR alone.
      engine: how experts are computed; None as evaluation does it.

    Returns:
      `embedding` f32[B, D], the mean of the final map; `map` f32[B, h, w, D],
      and each of `stages` likewise; of a head `prediction`, see `heads.WORDS`.
    """
    image = self.normalised(pixels, scene_scale)
    encode = encoder.encoder(self.spec, self.sensor.name, engine=engine)
    own, head = heads.parts(params)
    maps = encode(own, image)
    final = maps[encoder.FINAL].astype(jnp.float32)
    found = {'embedding': final.mean((1, 2)), 'map': final}
    for stage in self.stages:
      found[stage] = maps[stage].astype(jnp.float32)
    if self.task is not None:
      found[heads.PREDICTION] = heads.prediction(
        self.task, head, maps, self.size
      )
    return found

  def normalised(
    self, pixels: Array, scene_scale: Array | None = None
  ) -> Array:
    """What the model sees: f32[B, H, W, C of `sensor`]."""
    recipe = self.recipe()
    pixels = pixels[..., np.array(recipe.columns)]
    valid = preprocess.pixel_valid(pixels, recipe.have)[..., None]
    # Before any arithmetic: NaN survives a product with zero.
    pixels = jnp.where(valid, pixels, jnp.float32(0))
    if scene_scale is not None:
      scene_scale = scene_scale[:, None, None, None]
    image, band_valid = preprocess.measured(
      pixels,
      have=recipe.have,
      want=recipe.want,
      found=recipe.found,
      statistics=recipe.statistics,
      scene_scale=scene_scale,
      processing_baseline=self.processing_baseline,
    )
    keep = valid & jnp.asarray(band_valid)[None, None, None]
    return jnp.where(keep, image, jnp.float32(0))

  def to_json(self) -> dict[str, Any]:
    """All of it as JSON; `from_json` is the inverse."""
    return {
      'spec': self.spec.to_json(),
      'sensor': self.sensor.to_json(),
      'pixels': self.pixels.to_json(),
      'statistics': self.statistics and self.statistics.to_json(),
      'size': self.size,
      'stages': list(self.stages),
      'processing_baseline': self.processing_baseline,
      'task': self.task and dataclasses.asdict(self.task),
      'classes': list(self.classes),
    }

  @classmethod
  def from_json(cls, value: Mapping[str, Any]) -> 'Graph':
    found, task = value['statistics'], value['task']
    return cls(
      spec=build.spec_from_json(value['spec']),
      sensor=contract.Sensor.from_json(value['sensor']),
      pixels=contract.Sensor.from_json(value['pixels']),
      statistics=found and stats.Statistics.from_json(found),
      size=value['size'],
      stages=tuple(value['stages']),
      processing_baseline=value['processing_baseline'],
      task=task and task_spec.TaskSpec(**task),
      classes=tuple(value['classes']),
    )


def check_contract(
  spec: Any, sensor: contract.Sensor, statistics: stats.Statistics | None
) -> None:
  """Refuses a contract that is not the one the weights were trained with.

  Raises:
    ValueError: an unknown sensor, or another number of bands or statistics.
  """
  choices.check(sensor.name, spec.sensors, key='sensor of the model')
  channels = spec.channels[spec.sensors.index(sensor.name)]
  bands = sensor.band_names
  if len(bands) not in (channels, 1):  # One band may feed several channels.
    raise ValueError(
      f'{sensor.name}: the contract has {len(bands)} bands {bands}, the '
      f'weights take {channels}: they do not belong together.'
    )
  if statistics is not None and statistics.bands not in ((), bands):
    raise ValueError(
      f'{sensor.name}: the statistics are of {statistics.bands}, the contract '
      f'has {bands}: they do not belong together.'
    )


def check_size(params: Any) -> None:
  """Refuses weights that a single file of a portable format cannot hold.

  Raises:
    ValueError: more than `LIMIT_BYTES`.
  """
  total = sum(x.nbytes for x in trees.flatten(params).values())
  if total > LIMIT_BYTES:
    raise ValueError(
      f'the weights are {total / 2**30:.1f} GiB, and a StableHLO or ONNX file '
      f'holds {LIMIT_BYTES / 2**30:.1f}; prune the model first (rsfm prune), '
      'or export with --to safetensors.'
    )
