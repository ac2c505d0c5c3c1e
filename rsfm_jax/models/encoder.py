"""One sensor through a model: maps by name, whatever the system."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax

from rsfm_jax.core import choices
from rsfm_jax.models import build
from rsfm_jax.models import skysense_v2

Array = jax.Array
Prompts = Literal['keep', 'drop']
FINAL = 'final'  # The normalised tokens after the last stage.


def encoder(
  spec: Any,
  sensor: str,
  *,
  engine: str | None = None,
  prompts: Prompts = 'keep',
) -> Callable[[Any, Array], dict[str, Array]]:
  """(params, f32[B, H, W, C]) -> {stage: [B, h, w, D]}, dropless.

  Args:
    spec: of any system.
    sensor: one of the spec's.
    engine: how experts are computed; None as evaluation does it.
    prompts: whether a model that has prompts uses them.

  Raises:
    ValueError: a model without prompts would have to drop them.
  """
  apply = build.build(spec).apply
  options: dict[str, Any] = {'mode': 'eval', 'engine': engine}
  options |= prompt_options(spec, prompts)
  if isinstance(spec, skysense_v2.SkySenseV2Spec):
    options['fuse'] = False

  def encode(params: Any, image: Array) -> dict[str, Array]:
    out = apply(params, {sensor: image}, **options)
    maps: Mapping[str, Mapping[str, Array]] = out.intermediates
    return {name: m[sensor] for name, m in maps.items()} | {
      FINAL: out.features[sensor]
    }

  return encode


def prompt_options(spec: Any, prompts: Prompts) -> dict[str, str]:
  """What the model must be told about its prompts.

  Raises:
    ValueError: a model without prompts would have to drop them.
  """
  if prompts == 'keep':
    return {}
  if not getattr(spec, 'prompts', 0):
    raise ValueError(f'--prompts {prompts}: the model has no prompts.')
  return {'prompts': prompts}


def stage_names(spec: Any) -> list[str]:
  """The maps that `encoder` gives, first to last."""
  stages = (f'stage_{i}' for i in range(len(spec.depths)))
  return ['embed', *stages, FINAL]


def image_size(spec: Any, sensor: str) -> int:
  """Pixels on a side that the model was made for.

  Raises:
    ValueError: no such sensor.
  """
  choices.check(sensor, spec.sensors, key='sensor of the model')
  if hasattr(spec, 'image_sizes'):
    return spec.image_sizes[spec.sensors.index(sensor)]
  return spec.image_size
