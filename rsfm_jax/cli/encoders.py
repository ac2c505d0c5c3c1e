"""From frozen parameters and tiles to named maps, for probes.

All are dropless and change no bit by what a mask hides.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from rsfm_jax.models import encoder
from rsfm_jax.models import geo_context
from rsfm_jax.models import skysense_v2_spec
from rsfm_jax.objectives import semantic


class Known(NamedTuple):
  """What a frozen model knows: its parameters, and prototypes or None."""

  params: Any
  prototypes: jax.Array | None


def of_tiles(
  spec: skysense_v2_spec.SkySenseV2Spec, prompts: encoder.Prompts = 'keep'
):
  """(Known, inputs) -> the maps of `encoder.tiles`."""
  apply = encoder.tiles(spec, prompts=prompts)

  def encode(known: Known, inputs: Mapping[str, Any]):
    context = None
    if known.prototypes is not None:
      context = geo_context.lookup(known.prototypes, inputs['region'])
    return apply(known.params, inputs['sensors'], prototypes=context)

  return encode


def of_queries(spec: skysense_v2_spec.SkySenseV2Spec, *, query_heads: int):
  """(Known, parameters of the queries, inputs) -> f32[B, m, h, w].

  What each query of QSACL gives to each place of the fused grid; the sum over
  the places is 1. Parameters are `objective/queries` of a run
  (`models.open_heads`), `query_heads` stands in its `objective`.
  """
  encode = of_tiles(spec)

  def look(known: Known, queries: Any, inputs: Mapping[str, Any]):
    fused = encode(known, inputs)[encoder.FUSED]
    b, h, w, dim = fused.shape
    weights = semantic.looks(
      queries, fused.reshape(b, h * w, dim), heads=query_heads
    )
    return weights.reshape(b, -1, h, w)

  return look
