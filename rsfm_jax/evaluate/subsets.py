"""Which inputs of a task may be missing: subsets of sensors and band groups."""

from collections.abc import Iterator, Mapping, Sequence
import itertools
from typing import NamedTuple

COMPLETE = 'all'
MOST = 5  # Up to so many parts every subset is taken.


class Subset(NamedTuple):
  """What is there of the inputs of a task.

  Attributes:
    name: in words, e.g. 'ms: visible, near infrared'.
    present: {sensor: groups of its bands}; a sensor that is not named is
      absent.
  """

  name: str
  present: dict[str, tuple[str, ...]]


def of(groups: Mapping[str, Sequence[str]]) -> list[Subset]:
  """All inputs first; then subsets of sensors; then groups of each sensor.

  Subsets are not empty. Those of the groups of a sensor leave other sensors
  whole. Of more than `MOST` sensors, or groups of one, the subsets are each
  alone, and all but each.

  Args:
    groups: {sensor: names of the groups of its bands}.
  """
  whole = {sensor: tuple(names) for sensor, names in groups.items()}
  out = [Subset(COMPLETE, whole)]
  for some in _proper(tuple(whole)):
    out.append(Subset(' + '.join(some), {s: whole[s] for s in some}))
  for sensor, names in whole.items():
    for some in _proper(names):
      words = f'{sensor}: {", ".join(some)}'
      out.append(Subset(words, whole | {sensor: some}))
  return out


def _proper(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
  """Subsets that are neither empty nor whole, large ones first."""
  counts = range(len(names) - 1, 0, -1)
  if len(names) > MOST:
    counts = (len(names) - 1, 1)
  for count in counts:
    yield from itertools.combinations(names, count)
