"""Patch embeddings of other bands than those that weights were trained on.

The rule, for each band of the target: (1) a source band of its name, common
name or polarisation gives its kernel; (2) else a spectral neighbour that the
source has (`sensors.matching.NEIGHBOURS`); (3) else the mean over all bands of
the source. Then all is multiplied by source bands / target bands, as timm does
where it repeats channels: for bands that say the same, which those of one scene
nearly do, tokens keep their size. Equal bands in another order are copied.
"""

from collections.abc import Sequence

import numpy as np

from rsfm_jax.core import choices
from rsfm_jax.sensors import catalogue
from rsfm_jax.sensors import contract
from rsfm_jax.sensors import matching

_LETTERS = {'R': 'red', 'G': 'green', 'B': 'blue', 'N': 'nir'}


def named(names: Sequence[str]) -> tuple[contract.Band, ...]:
  """What --bands names: R, G, B, N, common names, B02..., VV, VH.

  Raises:
    ValueError: an unknown band, or one that appears twice.
  """
  known: dict[str, contract.Band] = {}
  for sensor in ('sentinel2_l1c', 'sentinel1_grd', 'dem'):
    for band in catalogue.get(sensor).bands:
      known[band.name] = band
      known[band.common_name or band.name] = band
  names = [_LETTERS.get(name, name) for name in names]
  found = tuple(
    known[choices.check(name, known, key='band of --bands')] for name in names
  )
  if len(set(found)) != len(found):
    raise ValueError(f'--bands {",".join(names)}: a band appears twice.')
  return found


def adapt(
  kernel: np.ndarray,
  have: Sequence[contract.Band],
  want: contract.Sensor,
  *,
  channels: int,
) -> tuple[np.ndarray, str]:
  """A patch embedding [p, p, C, D] for the bands of a sensor: [p, p, C', D].

  Args:
    kernel: of the source.
    have: its bands, C.
    want: the sensor; where the model repeats its only band, C' is larger.
    channels: C'.

  Returns:
    The kernel and, in words, where each band of it comes from.

  Raises:
    ValueError: the kernel has another number of bands than `have`.
  """
  made, words = select(kernel, have, want, channels=channels, axis=2)
  scale = len(have) / channels
  return made * np.float32(scale), f'{words}, times {scale:.3g}'


def select(
  array: np.ndarray,
  have: Sequence[contract.Band],
  want: contract.Sensor,
  *,
  channels: int,
  axis: int,
) -> tuple[np.ndarray, str]:
  """Bands of a sensor along an axis of bands, unscaled; see `adapt`."""
  if array.shape[axis] != len(have):
    raise ValueError(
      f'the source has patches of {array.shape[axis]} bands, --bands names '
      f'{len(have)}: {", ".join(_name(band) for band in have)}.'
    )
  bands = want.bands * (channels if len(want.bands) == 1 else 1)
  if len(bands) != channels:
    raise ValueError(
      f'config.model.channels has {channels} for {want.name}, whose contract '
      f'has the bands {list(want.band_names)}.'
    )
  mean, parts, words = array.mean(axis), [], {}
  for band in bands:
    index, origin = _pick(band, have)
    parts.append(mean if index is None else array.take(index, axis))
    words[band.name] = f'{band.name} from {origin}'
  return np.stack(parts, axis), f'bands: {", ".join(words.values())}'


def _pick(
  band: contract.Band, have: Sequence[contract.Band]
) -> tuple[int | None, str]:
  """Index of the source's band, None for the mean, and its name."""
  for i, other in enumerate(have):
    if _alike(band, other):
      return i, _name(other)
  common = {other.common_name: i for i, other in enumerate(have)}
  for near in matching.NEIGHBOURS.get(band.common_name or '', ()):
    if near in common:
      return common[near], f'{near}, its neighbour'
  return None, 'the mean'


def _alike(a: contract.Band, b: contract.Band) -> bool:
  if a.common_name and b.common_name:
    return a.common_name == b.common_name
  if a.polarisation and b.polarisation:
    return a.polarisation == b.polarisation
  return a.name == b.name


def _name(band: contract.Band) -> str:
  return band.common_name or band.name
