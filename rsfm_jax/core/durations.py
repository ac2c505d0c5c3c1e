"""Durations as `*_steps | *_examples | *_epochs | *_percent`, in steps."""

from collections.abc import Mapping
import math

from rsfm_jax.core import choices

UNITS = ('steps', 'examples', 'epochs', 'percent')


def steps(
  section: Mapping[str, object],
  name: str,
  *,
  batch_size: int,
  dataset_size: int | None = None,
  total_steps: int | None = None,
  default: int | None = None,
) -> int | None:
  """Resolves e.g. `warmup_percent=5` to a number of steps (rounded up).

  Args:
    section: a mapping that holds at most one of `{name}_{unit}`; keys whose
      value is None count as absent.
    name: e.g. 'warmup', 'total', 'checkpoint'.
    batch_size: samples per step, all sensors and hosts together.
    dataset_size: samples per epoch; needed for `_epochs`.
    total_steps: needed for `_percent`.
    default: returned when no key is set.

  Raises:
    ValueError: two units are set, or a needed size is missing.
  """
  given = {
    unit: section[f'{name}_{unit}']
    for unit in UNITS
    if section.get(f'{name}_{unit}') is not None
  }
  if not given:
    return default
  if len(given) > 1:
    keys = [f'{name}_{unit}' for unit in given]
    raise ValueError(f'Set only one of {keys}.')
  ((unit, value),) = given.items()
  per_unit = {
    'steps': 1.0,
    'examples': 1.0 / batch_size,
    'epochs': dataset_size and dataset_size / batch_size,
    'percent': total_steps and total_steps / 100.0,
  }[choices.check(unit, UNITS, key=name)]
  if not per_unit:
    needs = 'dataset_size' if unit == 'epochs' else 'total_steps'
    raise ValueError(f'{name}_{unit}={value} needs {needs}.')
  return max(1, math.ceil(value * per_unit - 1e-9))
