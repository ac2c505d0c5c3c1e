"""From images or tiles to maps by name, whatever the system.

`images` sees one image of one sensor, or one of several dates by itself;
`tiles` sees series of several sensors, and fuses them where the model can.
Training passes mode and key, frozen features leave them out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from rsfm_jax.core import choices
from rsfm_jax.models import build
from rsfm_jax.models import clean
from rsfm_jax.models import mapex_spec
from rsfm_jax.models import skysense_v2_spec
from rsfm_jax.moe import expert_parallel

Array = jax.Array
Maps = dict[str, Array]
Prompts = Literal['keep', 'drop']
FINAL = 'final'  # The normalised tokens after the last stage.
FUSED = 'fused'  # Of all sensors and dates, on the finest grid.


def images(
  spec: Any,
  *,
  engine: str | None = None,
  placement: expert_parallel.Placement | None = None,
  prompts: Prompts = 'keep',
) -> Callable[..., Maps]:
  """`(params, {sensor: f32[B, ..., H, W, C]}, *, mode, key)` -> maps.

  Maps are {stage: [B, ..., h, w, D]} of the one sensor; several dates of a
  sample are images like any others. SkySense V2 is used without its fusion, as
  the paper does for such tasks (arXiv 2507.13812, section 4.1).

  Args:
    spec: of any system.
    engine: how experts are computed; None as the mode does it.
    placement: where samples and experts live.
    prompts: whether a model that has prompts uses them.

  Raises:
    ValueError: a model without prompts would have to drop them.
  """
  apply = build.build(spec).apply
  options = _options(spec, engine, placement, prompts)
  fusing = isinstance(spec, skysense_v2_spec.SkySenseV2Spec)
  keyed = fusing or isinstance(spec, mapex_spec.MapexSpec)
  if fusing:
    options['fuse'] = False

  def encode(
    params: Any,
    images: Mapping[str, Array],
    *,
    mode: str = 'eval',
    key: Array | None = None,
  ) -> Maps:
    ((sensor, image),) = images.items()
    drawn = {'key': key} if keyed else {}
    flat = image.reshape(-1, *image.shape[-3:])
    out = apply(params, {sensor: flat}, mode=mode, **options, **drawn)
    levels = out.intermediates | {FINAL: out.features}
    apart = lambda x: x.reshape(*image.shape[:-3], *x.shape[1:])
    return {name: apart(of[sensor]) for name, of in levels.items()}

  return encode


def encoder(
  spec: Any,
  sensor: str,
  *,
  engine: str | None = None,
  prompts: Prompts = 'keep',
) -> Callable[[Any, Array], Maps]:
  """(params, f32[B, H, W, C]) -> {stage: [B, h, w, D]}, dropless.

  See `images`; `sensor` is one of the spec's.
  """
  encode = images(spec, engine=engine, prompts=prompts)
  return lambda params, image: encode(params, {sensor: image})


def tiles(
  spec: skysense_v2_spec.SkySenseV2Spec,
  *,
  engine: str | None = None,
  placement: expert_parallel.Placement | None = None,
  prompts: Prompts = 'keep',
  reduces: Mapping[str, skysense_v2_spec.Reduces] | None = None,
) -> Callable[..., Maps]:
  """`(params, {sensor: entry}, *, prototypes, mode, key)` -> maps.

  Entries are those of `data.tiles`: image [B, T, H, W, C], what of it is valid,
  and days. Maps are 'fused' and, of every sensor, '<sensor>/embed' to
  '<sensor>/final' [B, h, w, D], means over the dates that count. Whatever a
  mask hides changes no bit, of a gradient neither. `prototypes` are those of
  each sample's region [B, Np, dp], or None.

  Args:
    spec: of a SkySense V2.
    engine, placement, prompts: see `images`.
    reduces: {sensor: where its grid halves}, in place of the spec's.

  Raises:
    ValueError: a model without prompts would have to drop them.
  """
  apply = build.build(spec).apply
  options = _options(spec, engine, placement, prompts)
  if reduces:
    options['reduces'] = reduces

  def encode(
    params: Any,
    entries: Mapping[str, clean.Entry],
    *,
    prototypes: Array | None = None,
    mode: str = 'eval',
    key: Array | None = None,
  ) -> Maps:
    there = {s: clean.dates(entry) for s, entry in entries.items()}
    out = apply(
      params,
      {s: clean.series(entry) for s, entry in entries.items()},
      date_valid=there,
      days={s: entry['day'] for s, entry in entries.items()},
      prototypes=prototypes,
      mode=mode,
      key=key,
      **options,
    )
    levels = out.intermediates | {FINAL: out.features}
    maps = {
      f'{s}/{level}': over_dates(x, there[s])
      for level, of in levels.items()
      for s, x in of.items()
    }
    return maps if out.fused is None else maps | {FUSED: out.fused}

  return encode


def over_dates(values: Array, valid: Array) -> Array:
  """The mean over the dates that count: [B, T, ...], bool[B, T] -> [B, ...].

  Zero where none counts; float32.
  """
  rest = (1,) * (values.ndim - 2)
  valid = valid.reshape(*valid.shape, *rest)
  total = jnp.where(valid, values.astype(jnp.float32), 0).sum(1)
  return total / jnp.maximum(valid.sum(1), 1)


def _options(
  spec: Any,
  engine: str | None,
  placement: expert_parallel.Placement | None,
  prompts: Prompts,
) -> dict[str, Any]:
  """What a model is told at every call."""
  options: dict[str, Any] = {'engine': engine, 'placement': placement}
  if prompts == 'keep':
    return options
  if not getattr(spec, 'prompts', 0):
    raise ValueError(f'--prompts {prompts}: the model has no prompts.')
  return options | {'prompts': prompts}


def stage_names(spec: Any) -> list[str]:
  """The maps that `images` gives, first to last."""
  stages = (f'stage_{i}' for i in range(len(spec.depths)))
  return ['embed', *stages, FINAL]


def last_of_tiles(
  spec: skysense_v2_spec.SkySenseV2Spec, sensors: Sequence[str]
) -> tuple[str, ...]:
  """The fused features, if there are any, and the last ones of every sensor."""
  fused = (FUSED,) if spec.fusion_depth else ()
  return fused + tuple(f'{sensor}/{FINAL}' for sensor in sensors)


def image_size(spec: Any, sensor: str) -> int:
  """Pixels on a side that the model was made for.

  Raises:
    ValueError: no such sensor.
  """
  choices.check(sensor, spec.sensors, key='sensor of the model')
  if hasattr(spec, 'image_sizes'):
    return spec.image_sizes[spec.sensors.index(sensor)]
  return spec.image_size
