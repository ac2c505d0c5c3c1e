"""What became of every tensor of a source, and of every parameter here."""

from collections.abc import Mapping, Sequence, Set
import re
from typing import Any, Literal, NamedTuple

from rsfm_jax.convert import rules
from rsfm_jax.convert import sources

Status = Literal['used', 'adapted', 'skipped', 'unexplained']

# Changes of layout alone, which leave every number as it was.
_LAYOUT = re.compile(
  r'transposed|flattened|stacked|OIHW to HWIO|\w+ of qkv|neighbours apart|'
  r'unfolded channels apart|row of the class token|rows of the grid'
)
_NO_RULE = 'no rule of the source knows this name'
_NO_PLACE = 'the target has no place for it'


class SourceRow(NamedTuple):
  """A tensor of the source.

  Attributes:
    name: the source's.
    shape: the source's.
    status: 'used' as it is but for its layout, 'adapted' in its numbers,
      'skipped' for a stated reason, or 'unexplained'.
    to: parameters that it fills.
    how: changes, or the reason.
  """

  name: str
  shape: tuple[int, ...]
  status: Status
  to: tuple[str, ...]
  how: str


class TargetRow(NamedTuple):
  """A parameter; without sources it stays at init, and `how` says why."""

  name: str
  shape: tuple[int, ...]
  sources: tuple[str, ...]
  how: str


class Report(NamedTuple):
  """Of one import.

  Attributes:
    source: name of the source.
    tensors: a row for each.
    parameters: a row for each.
    notes: where the target computes otherwise than the source.
  """

  source: str
  tensors: tuple[SourceRow, ...]
  parameters: tuple[TargetRow, ...]
  notes: tuple[str, ...]

  def with_status(self, status: Status) -> list[SourceRow]:
    return [row for row in self.tensors if row.status == status]

  @property
  def at_init(self) -> list[TargetRow]:
    return [row for row in self.parameters if not row.sources]

  def check(self) -> None:
    """Raises:
    ValueError: nothing fits, or tensors that are neither used nor skipped for
      a stated reason.
    """
    if len(self.at_init) == len(self.parameters):
      raise ValueError(
        f'--from {self.source}: none of the {len(self.tensors)} tensors has '
        f'a place in the model, beginning with {self.tensors[0].name!r}.'
        + self._suggestion()
      )
    if left := self.with_status('unexplained'):
      shown = '; '.join(f'{row.name}: {row.how}' for row in left[:5])
      raise ValueError(
        f'--from {self.source}: {len(left)} of {len(self.tensors)} tensors are '
        f'unexplained ({shown}). --lenient skips them.' + self._suggestion()
      )

  def _suggestion(self) -> str:
    names = {row.name for row in self.tensors}
    others = sources.alternatives(names, given=self.source)
    return f' All names are known to --from {others[0]}.' if others else ''

  def to_json(self) -> dict[str, Any]:
    return {
      'source': self.source,
      'tensors': [row._asdict() for row in self.tensors],
      'parameters': [row._asdict() for row in self.parameters],
      'notes': list(self.notes),
    }

  def table(self) -> str:
    """Rows of equal fate and name, but for its numbers, are one line."""
    lines = [f'{"tensors of " + self.source:56s} {"":>4s} fate']
    lines += _grouped(
      (row.name, f'{row.status:11s} {row.how}') for row in self.tensors
    )
    lines.append(f'{"parameters left at init":56s} {"":>4s} reason')
    lines += _grouped((row.name, row.how) for row in self.at_init)
    return '\n'.join([*lines, *(f'note: {note}' for note in self.notes)])


def account(
  source: str,
  tensors: Mapping[str, Any],
  translated: rules.Translated,
  dense: Mapping[str, rules.Dense],
  used: Set[str],
  *,
  leave: Mapping[str, str],
  filled: Sequence[TargetRow],
  notes: Sequence[str],
) -> Report:
  """Follows every tensor to the parameters that it fills.

  Args:
    source: name of the source.
    tensors: by the source's names.
    translated: what its rules made of them.
    dense: by our names, as they were offered to the model.
    used: those that it took.
    leave: {regex over dense names: why the target does not take them}.
    filled: a row per parameter.
    notes: see `Report`.
  """
  to: dict[str, list[str]] = {name: [] for name in tensors}
  how: dict[str, dict[str, None]] = {name: {} for name in tensors}
  for row in filled:
    for name in row.sources:
      to[name].append(row.name)
      how[name] |= dict.fromkeys(part for part in row.how.split('; ') if part)
  reasons: dict[str, str] = {}
  for name in (n for n in dense if n not in used):
    for tensor in dense[name].sources:
      if not to[tensor]:
        reasons[tensor] = _reason(name, leave)
  rows = []
  for name, tensor in tensors.items():
    if to[name]:
      adapted = any(not _LAYOUT.fullmatch(words) for words in how[name])
      status, words = 'adapted' if adapted else 'used', '; '.join(how[name])
    elif name in translated.skipped:
      status, words = 'skipped', translated.skipped[name]
    elif name in translated.unexplained:
      status, words = 'unexplained', _NO_RULE
    else:
      words = reasons.get(name, _NO_PLACE)
      status = 'unexplained' if words == _NO_PLACE else 'skipped'
    rows.append(
      SourceRow(name, tuple(tensor.shape), status, tuple(to[name]), words)
    )
  return Report(source, tuple(rows), tuple(filled), tuple(notes))


def _reason(name: str, leave: Mapping[str, str]) -> str:
  for pattern, reason in leave.items():
    if re.fullmatch(pattern, name):
      return reason
  return _NO_PLACE


def _grouped(rows) -> list[str]:
  counts: dict[tuple[str, str], int] = {}
  for name, words in rows:
    key = re.sub(r'\d+', '*', name), words
    counts[key] = counts.get(key, 0) + 1
  return [
    f'{name:56s} {count:>4d} {words}' for (name, words), count in counts.items()
  ]
