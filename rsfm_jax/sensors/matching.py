"""Bands of the data to bands of the model: by name, never by position."""

from collections.abc import Sequence
import dataclasses
from typing import Any, Literal, get_args

import jax
import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.sensors import contract

Array = np.ndarray | jax.Array
Band = contract.Band
Sensor = contract.Sensor

Policy = Literal['error', 'select', 'mask', 'impute']

# Common name -> where a missing band may be copied from, best first. The first
# three rows are OlmoEarth's (B01 from B02, B09 from B8A, B10 from B11;
# facts/evaluation_protocols.md 2.6); the others take the nearest wavelength.
# Visible colours have no substitute: nothing else sees them.
NEIGHBOURS = {
  'coastal': ('blue',),
  'nir09': ('nir08', 'nir'),
  'cirrus': ('swir16', 'swir22'),
  'rededge071': ('red', 'rededge075'),
  'rededge075': ('rededge078', 'rededge071'),
  'rededge078': ('nir08', 'nir', 'rededge075'),
  'nir': ('nir08', 'rededge078'),
  'nir08': ('nir', 'rededge078'),
  'swir16': ('swir22',),
  'swir22': ('swir16',),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
  """Where each wanted band comes from; tuples have one entry per output band.

  Attributes:
    policy: what was done about missing bands.
    bands: output bands. Under `select` only those the data has.
    indices: channel of the data, -1 for a masked band.
    present: the data has this very band.
    filled_from: data band copied in its place under `impute`, else None.
    have: bands of the data.
    want: bands asked for.
  """

  policy: Policy
  bands: tuple[str, ...]
  indices: tuple[int, ...]
  present: tuple[bool, ...]
  filled_from: tuple[str | None, ...]
  have: tuple[str, ...]
  want: tuple[str, ...]

  @property
  def band_valid(self) -> np.ndarray:
    """bool [C]: the band holds values, measured or imputed."""
    return np.asarray(self.indices) >= 0

  def describe(self) -> dict[str, Any]:
    """What was done, for a row of results; plain JSON types."""
    rows = list(zip(self.bands, self.indices, self.present, self.filled_from))
    missing = set(self.want) - {b for b, _, here, _ in rows if here}
    used = {i for _, i, _, _ in rows}
    return {
      'policy': self.policy,
      'missing': [b for b in self.want if b in missing],
      'masked': [b for b, i, _, _ in rows if i < 0],
      'imputed': {b: source for b, _, _, source in rows if source},
      'renamed': {
        b: self.have[i] for b, i, here, _ in rows if here and self.have[i] != b
      },
      'unused': [b for i, b in enumerate(self.have) if i not in used],
    }


def match(have: Sensor, want: Sensor, *, policy: Policy = 'error') -> Match:
  """Finds each wanted band by name, then by a common name that is unique.

  Missing bands: `error` refuses; `select` leaves them out of the output;
  `mask` gives zeros with band_valid False; `impute` copies a spectral
  neighbour (`NEIGHBOURS`). Complex SAR is always masked, whatever the policy:
  a phase can be neither left out of a pair nor copied.

  Args:
    have: contract of the data.
    want: contract of the model.
    policy: what to do about missing bands.

  Raises:
    ValueError: no band in common, a missing band under `error`, no neighbour
      under `impute`, half a complex pair, or units that differ.
  """
  choices.check(policy, get_args(Policy), key='missing_bands')
  if want.kind is contract.Kind.SAR_COMPLEX:
    policy = 'mask'
  indices = [_find(band, have.bands, want.bands) for band in want.bands]
  present = [i is not None for i in indices]
  _check(have, want, policy=policy, present=present)
  filled_from = [None] * len(indices)
  if policy == 'impute':
    for row, band in enumerate(want.bands):
      if not present[row]:
        indices[row] = _neighbour(band, have, want)
        filled_from[row] = have.band_names[indices[row]]
  _check_units(have, want, indices)
  rows = range(len(indices))
  if policy == 'select':
    rows = [row for row in rows if present[row]]
  return Match(
    policy=policy,
    bands=tuple(want.band_names[row] for row in rows),
    indices=tuple(-1 if indices[r] is None else indices[r] for r in rows),
    present=tuple(present[row] for row in rows),
    filled_from=tuple(filled_from[row] for row in rows),
    have=have.band_names,
    want=want.band_names,
  )


def holds(have: Sensor, want: Sensor) -> bool:
  """Whether the data has every wanted band, whatever its units."""
  return all(
    _find(band, have.bands, want.bands) is not None for band in want.bands
  )


def apply(found: Match, image: Array) -> tuple[Array, np.ndarray]:
  """Reorders, drops, fills and masks channels.

  Args:
    found: from `match`.
    image: [..., C_have].

  Returns:
    image [..., C_want] (fewer under `select`), same dtype, masked bands zero;
    band_valid bool [C_want].

  Raises:
    ValueError: `image` does not have the channels the match was made for.
  """
  if image.shape[-1] != len(found.have):
    raise ValueError(
      f'image of shape {image.shape} has {image.shape[-1]} channels last, '
      f'not the {len(found.have)} of {found.have}.'
    )
  valid = found.band_valid
  if found.indices != tuple(range(len(found.have))):
    image = image[..., np.maximum(found.indices, 0)]
  if not valid.all():
    xp = image.__array_namespace__()
    shape = (1,) * (image.ndim - 1) + (-1,)
    # Selected, not multiplied: a NaN in the stand-in channel must vanish.
    image = xp.where(valid.reshape(shape), image, xp.zeros_like(image))
  return image, valid


def _find(band: Band, have: Sequence[Band], want: Sequence[Band]) -> int | None:
  """Index in `have` of the band that is `band`, or None."""
  for i, other in enumerate(have):
    # 'B5' is not the same band in every convention: common names decide.
    clash = None not in (band.common_name, other.common_name) and (
      band.common_name != other.common_name
    )
    if other.name == band.name and not clash:
      return i
  if band.common_name is None or _called(band.common_name, want) != [
    want.index(band)
  ]:
    return None
  candidates = _called(band.common_name, have)
  return candidates[0] if len(candidates) == 1 else None


def _called(common_name: str, bands: Sequence[Band]) -> list[int]:
  return [i for i, b in enumerate(bands) if b.common_name == common_name]


def _check(
  have: Sensor, want: Sensor, *, policy: Policy, present: Sequence[bool]
) -> None:
  """Refuses what no policy can mend."""
  missing = [name for name, here in zip(want.band_names, present) if not here]
  if not any(present):
    raise ValueError(
      f'{have.name} {have.band_names} has no band of {want.name} '
      f'{want.band_names}.'
    )
  if missing and policy == 'error':
    raise ValueError(
      f'{have.name} {have.band_names} lacks {missing} of {want.name}; '
      'set missing_bands to select, mask or impute to go on without.'
    )
  if want.kind is contract.Kind.SAR_COMPLEX:
    seen = {}
    for band, here in zip(want.bands, present):
      if seen.setdefault(band.polarisation, here) != here:
        raise ValueError(
          f'{have.name} {have.band_names} has only one of the real and '
          f'imaginary parts of {band.polarisation}; both are needed.'
        )


def _check_units(
  have: Sensor, want: Sensor, indices: Sequence[int | None]
) -> None:
  for band, i in zip(want.bands, indices):
    if i is not None and have.bands[i].units != band.units:
      raise ValueError(
        f'{have.name} {have.bands[i].name} is in {have.bands[i].units}, '
        f'{want.name} {band.name} in {band.units}: convert first '
        '(units.convert, and units.converted for the contract).'
      )


def _neighbour(band: Band, have: Sensor, want: Sensor) -> int:
  """Index in `have` of the best stand-in for a missing band."""
  neighbours = NEIGHBOURS.get(band.common_name, ())
  for name in neighbours:
    if len(found := _called(name, have.bands)) == 1:
      return found[0]
  raise ValueError(
    f'{want.name} {band.name} cannot be imputed from {have.name} '
    f'{have.band_names}: it needs one of {list(neighbours) or "nothing else"}'
    '; set missing_bands to select or mask.'
  )
