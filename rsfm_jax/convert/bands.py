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
  """A kernel [p, p, C, D] for the bands of a sensor: [p, p, C', D].

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
  if kernel.shape[2] != len(have):
    raise ValueError(
      f'the patch embedding of the source has {kernel.shape[2]} bands, --bands '
      f'names {len(have)}: {",".join(band.name for band in have)}.'
    )
  bands = want.bands * (channels if len(want.bands) == 1 else 1)
  if len(bands) != channels:
    raise ValueError(
      f'config.model.channels has {channels} for {want.name}, whose contract '
      f'has the bands {list(want.band_names)}.'
    )
  picked = [_pick(band, have) for band in bands]
  columns = [
    kernel.mean(2) if i is None else kernel[:, :, i] for i, _ in picked
  ]
  words = dict(
    zip((b.name for b in bands), (w for _, w in picked), strict=False)
  )
  scale = len(have) / len(bands)
  said = ', '.join(f'{name} from {source}' for name, source in words.items())
  return (
    np.stack(columns, 2) * np.float32(scale),
    f'bands: {said}; times {scale:.3g}',
  )


def _pick(
  band: contract.Band, have: Sequence[contract.Band]
) -> tuple[int | None, str]:
  """Index of the source's band, None for the mean, and its name."""
  for i, other in enumerate(have):
    if _alike(band, other):
      return i, other.name
  common = {other.common_name: i for i, other in enumerate(have)}
  for near in matching.NEIGHBOURS.get(band.common_name or '', ()):
    if near in common:
      return common[near], f'{have[common[near]].name} (neighbour)'
  return None, 'the mean'


def _alike(a: contract.Band, b: contract.Band) -> bool:
  if a.common_name and b.common_name:
    return a.common_name == b.common_name
  if a.polarisation and b.polarisation:
    return a.polarisation == b.polarisation
  return a.name == b.name
