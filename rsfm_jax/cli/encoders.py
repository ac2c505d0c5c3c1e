"""From frozen parameters and inputs to named maps, for probes.

All are dropless and change no bit by what a mask hides.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rsfm_jax.models import build
from rsfm_jax.models import encoder
from rsfm_jax.models import skysense_v2_spec
from rsfm_jax.objectives import clean
from rsfm_jax.objectives import geo_prototypes
from rsfm_jax.objectives import semantic

FUSED = 'fused'


class Known(NamedTuple):
  """What a frozen model knows: its parameters, and prototypes or None."""

  params: Any
  prototypes: jax.Array | None


def of_tiles(
  spec: skysense_v2_spec.SkySenseV2Spec, prompts: encoder.Prompts = 'keep'
):
  """(Known, inputs) -> {stage: [B, h, w, D]}, dropless.

  Stages are 'fused' and, of every sensor, '<sensor>/embed' to '<sensor>/final',
  means over the dates that count. Whatever a mask hides changes no bit.
  """
  apply = build.build(spec).apply
  options = encoder.prompt_options(spec, prompts)

  def encode(known: Known, inputs: Mapping[str, Any]):
    seen, context = inputs['sensors'], None
    if known.prototypes is not None:
      context = geo_prototypes.lookup(known.prototypes, inputs['region'])
    there = {s: clean.dates(entry) for s, entry in seen.items()}
    out = apply(
      known.params,
      {s: clean.series(entry) for s, entry in seen.items()},
      date_valid=there,
      days={s: entry['day'] for s, entry in seen.items()},
      prototypes=context,
      mode='eval',
      **options,
    )
    levels = out.intermediates | {encoder.FINAL: out.features}
    maps = {
      f'{s}/{level}': over_dates(x, there[s])
      for level, of in levels.items()
      for s, x in of.items()
    }
    return maps if out.fused is None else maps | {FUSED: out.fused}

  return encode


def over_dates(values: jax.Array, valid: jax.Array) -> jax.Array:
  """The mean over the dates that count: [B, T, ...], bool[B, T] -> [B, ...].

  Zero where none counts; float32.
  """
  rest = (1,) * (values.ndim - 2)
  valid = valid.reshape(*valid.shape, *rest)
  total = jnp.where(valid, values.astype(jnp.float32), 0).sum(1)
  return total / jnp.maximum(valid.sum(1), 1)


def stages_of_tiles(
  spec: skysense_v2_spec.SkySenseV2Spec, sensors: Sequence[str]
) -> tuple[str, ...]:
  """The fused features, if there are any, and the last ones of every sensor."""
  fused = (FUSED,) if spec.fusion_depth else ()
  return fused + tuple(f'{sensor}/{encoder.FINAL}' for sensor in sensors)


def of_queries(spec: skysense_v2_spec.SkySenseV2Spec, *, query_heads: int):
  """(Known, parameters of the queries, inputs) -> f32[B, m, h, w].

  What each query of QSACL gives to each place of the fused grid; the sum over
  the places is 1. Parameters are `objective/queries` of a run
  (`models.open_heads`), `query_heads` stands in its `objective`.
  """
  encode = of_tiles(spec)

  def look(known: Known, queries: Any, inputs: Mapping[str, Any]):
    fused = encode(known, inputs)[FUSED]
    b, h, w, dim = fused.shape
    weights = semantic.looks(
      queries, fused.reshape(b, h * w, dim), heads=query_heads
    )
    return weights.reshape(b, -1, h, w)

  return look
