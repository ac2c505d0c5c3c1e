"""Which split a chip belongs to; a pure function of names and places."""

from collections.abc import Sequence
import dataclasses
import hashlib
import math
from typing import Literal

from rsfm_jax.core import choices

NAMES = ('train', 'val', 'test')
_KM_PER_DEGREE = 111.32  # Of latitude; of longitude at the equator.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
  """How samples are divided.

  Attributes:
    kind: 'random' draws per scene, so that chips of a scene stay together;
      'location' draws per block of the Earth's surface, so that neighbours
      stay together over scenes and dates; 'table' keeps what the CSV or the
      data set says; any of `NAMES` puts everything there.
    shares: of train, val and test.
    seed: of the draw.
    block_km: edge of a block of 'location'.
  """

  kind: Literal['random', 'location', 'table', 'train', 'val', 'test'] = 'train'
  shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
  seed: int = 0
  block_km: float = 5.0

  def __post_init__(self):
    choices.check(
      self.kind, ('random', 'location', 'table', *NAMES), key='split'
    )
    if min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6:
      raise ValueError(f'shares={self.shares} must be three that add up to 1.')
    if self.block_km <= 0:
      raise ValueError(f'block_km={self.block_km} must be positive.')


def assign(
  policy: Policy,
  *,
  scene: str,
  given: str | None = None,
  corners: Sequence[tuple[float, float]] | None = None,
) -> str | None:
  """The split of one chip.

  Args:
    policy: how to divide.
    scene: id of the scene.
    given: split by the CSV or the data set.
    corners: (longitude, latitude) of the chip's corners.

  Returns:
    A name, or None under 'location' for a chip that crosses into a block of
    another split: keeping it would put the same ground into both.

  Raises:
    ValueError: the policy needs what the scene does not have.
  """
  if policy.kind in NAMES:
    return policy.kind
  if policy.kind == 'table':
    if given is None:
      raise ValueError(f'split=table, but no table gives {scene} a split.')
    return given
  if policy.kind == 'random':
    return _draw(policy, scene)
  if not corners:
    raise ValueError(f'split=location, but {scene} has no CRS; use random.')
  blocks = {_block(point, policy.block_km) for point in corners}
  rows = [row for row, _ in blocks]
  if max(rows) - min(rows) > 1:  # Then blocks lie inside, unseen by corners.
    raise ValueError(f'block_km={policy.block_km} is smaller than a chip.')
  names = {_draw(policy, f'{row}/{column}') for row, column in blocks}
  return names.pop() if len(names) == 1 else None


def _block(point: tuple[float, float], km: float) -> tuple[int, int]:
  """Row and column of a block: rows of latitude cut into equal widths."""
  longitude, latitude = point
  row = math.floor(latitude * _KM_PER_DEGREE / km)
  middle = math.radians((row + 0.5) * km / _KM_PER_DEGREE)
  shrink = max(math.cos(middle), 1e-3)
  return row, math.floor(longitude * shrink * _KM_PER_DEGREE / km)


def _draw(policy: Policy, key: str) -> str:
  """A name by the policy's shares: a hash, so order and count do not matter."""
  digest = hashlib.blake2b(f'{policy.seed}/{key}'.encode(), digest_size=8)
  at = int.from_bytes(digest.digest(), 'big') / 2**64
  for name, share in zip(NAMES, policy.shares, strict=True):
    at -= share
    if at < 0:
      return name
  return NAMES[0]
