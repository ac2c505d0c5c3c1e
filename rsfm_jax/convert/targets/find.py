"""From a spec and a family of sources to the places of the model."""

from collections.abc import Callable, Sequence
from typing import Any

from rsfm_jax.convert import sources
from rsfm_jax.convert.targets import mapex as mapex_target
from rsfm_jax.convert.targets import places as places_lib
from rsfm_jax.convert.targets import ringmoe as ringmoe_target
from rsfm_jax.convert.targets import skysense_v2 as skysense_target
from rsfm_jax.models import mapex_spec
from rsfm_jax.models import ringmoe
from rsfm_jax.models import skysense_v2_spec


def check_windows(spec: Any, trained: Sequence[int]) -> None:
  """Whether log-CPB measures offsets as in the source's pre-training.

  Args:
    spec: of a model with Swin V2 blocks.
    trained: windows of the source, one for all stages or one per stage.

  Raises:
    ValueError: it does not; names the key to set.
  """
  stages = range(len(spec.depths))
  grids = [max(spec.window, *trained)] * len(stages)
  if isinstance(spec, ringmoe.RingMoESpec):
    grids = [spec.image_size // spec.patch_size // 2**i for i in stages]
  own = tuple(min(spec.window, grid) for grid in grids)
  if len(trained) == 1:  # Clipped to the same grids.
    trained = [min(trained[0], grid) for grid in grids]
  own = spec.cpb_windows or own
  if tuple(trained) != own:
    raise ValueError(
      f'--source-windows {tuple(trained)}: the model measures offsets in '
      f'windows of {own}; set config.model.cpb_windows={tuple(trained)}.'
    )


Build = Callable[[Any], places_lib.Target]
TARGETS: dict[tuple[type, sources.Family], Build] = {
  (ringmoe.RingMoESpec, 'swin'): ringmoe_target.target,
  (skysense_v2_spec.SkySenseV2Spec, 'swin'): skysense_target.from_swin,
  (skysense_v2_spec.SkySenseV2Spec, 'vit'): skysense_target.from_vit,
  (mapex_spec.MapexSpec, 'vit'): mapex_target.target,
}


def find(spec: Any, family: sources.Family) -> places_lib.Target:
  """The places of a model.

  Raises:
    ValueError: the model cannot take this family at all.
  """
  if (type(spec), family) not in TARGETS:
    fits = sorted(
      name
      for name, source in sources.SOURCES.items()
      if (type(spec), source.family) in TARGETS
    )
    raise ValueError(
      f'--from a {family} model has no place in a {type(spec).__name__}; it '
      f'can take {", ".join(fits)}.'
    )
  return TARGETS[type(spec), family](spec)
