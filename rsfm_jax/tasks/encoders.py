"""Encoders of a task: a model's forward pass as named maps of features."""

from collections.abc import Mapping
from typing import Any

import jax

from rsfm_jax.models import build
from rsfm_jax.models import mapex_spec
from rsfm_jax.models import skysense_v2_spec
from rsfm_jax.moe import expert_parallel
from rsfm_jax.moe import experts
from rsfm_jax.nn import batch_norm
from rsfm_jax.tasks import contract

Array = jax.Array
Tree = Any


def single(
  spec: Any,
  *,
  engine: experts.Engine = 'dropless',
  placement: expert_parallel.Placement | None = None,
):
  """An `Encode` of one image, or one of two dates, of one sensor.

  SkySense V2 is used without its fusion, as the paper does for such tasks
  (arXiv 2507.13812, downstream experiments). The gates of a MAPEX-style model
  have their noise in fine-tuning too (NOT FOUND, DEFAULT).

  Args:
    spec: of the model.
    engine: of the experts; a dropped token is a hole in a dense prediction.
    placement: where samples and experts live.
  """
  apply = build.build(spec).apply
  fusing = isinstance(spec, skysense_v2_spec.SkySenseV2Spec)
  keyed = fusing or isinstance(spec, mapex_spec.MapexSpec)

  def encode(
    params: Tree,
    images: Mapping[str, Array],
    *,
    mode: batch_norm.Mode,
    key: Array | None = None,
  ) -> contract.Features:
    ((sensor, image),) = images.items()
    dates = image.shape[1:-3]
    options = {'key': key} if keyed else {}
    if fusing:
      options['fuse'] = False
    out = apply(
      params,
      {sensor: image.reshape(-1, *image.shape[-3:])},
      mode=mode,
      engine=engine,
      placement=placement,
      **options,
    )
    maps = {name: found[sensor] for name, found in out.intermediates.items()}
    maps[contract.FINAL] = out.features[sensor]
    apart = lambda x: x.reshape(-1, *dates, *x.shape[1:])
    return contract.Features(
      {name: apart(x) for name, x in maps.items()}, image.shape[-3:-1]
    )

  return encode
