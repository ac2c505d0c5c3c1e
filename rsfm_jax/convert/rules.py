"""Name rules: from the names of a PyTorch model to dense names of ours.

A source's tensors get the names that the dense, unstacked model would have
here: `stage_0/block_1/attention/query/kernel`, or `block_1/...` for a ViT.
`convert.targets` then says where those go. The transforms use nothing but
reshapes, transposes and slices, so that they work on arrays of NumPy and, in
tests of gradients, of JAX.
"""

from collections.abc import Callable, Mapping, Sequence
import math
import re
from typing import Any, NamedTuple

Array = Any


class Change(NamedTuple):
  """What happens to an array, for the report and for the array."""

  words: str
  apply: Callable[[Array], Array]


class Rule(NamedTuple):
  """Tensors whose whole name matches `pattern` and what they become.

  Attributes:
    pattern: regex over the source's names.
    to: {our name with \\1, \\2 for the groups: change}; empty for a tensor
      that is left out.
    reason: why it is left out.
  """

  pattern: str
  to: Mapping[str, Change]
  reason: str = ''


class Dense(NamedTuple):
  """An array by our name and where it came from.

  Attributes:
    array: numbers.
    sources: names of the tensors that it was made of.
    how: changes so far, in words; empty for a plain copy.
  """

  array: Array
  sources: tuple[str, ...]
  how: tuple[str, ...] = ()

  def changed(self, words: str, array: Array) -> 'Dense':
    return self._replace(array=array, how=(*self.how, words))


class Translated(NamedTuple):
  """Of a source's tensors.

  Attributes:
    dense: by our names.
    skipped: {source name: reason} by rules that leave tensors out.
    unexplained: source names that no rule knows.
  """

  dense: dict[str, Dense]
  skipped: dict[str, str]
  unexplained: tuple[str, ...]


def translate(
  tensors: Mapping[str, Array], rules: Sequence[Rule]
) -> Translated:
  """Renames and reshapes every tensor by the first rule that knows its name.

  Raises:
    ValueError: a shape that a rule cannot work with; two tensors of one name.
  """
  compiled = [(re.compile(rule.pattern), rule) for rule in rules]
  dense: dict[str, Dense] = {}
  skipped, unexplained = {}, []
  for name, tensor in tensors.items():
    found = ((p.fullmatch(name), rule) for p, rule in compiled)
    match, rule = next((pair for pair in found if pair[0]), (None, None))
    if rule is None:
      unexplained.append(name)
      continue
    if not rule.to:
      skipped[name] = rule.reason
    for template, change in rule.to.items():
      ours = match.expand(template)
      if ours in dense:
        raise ValueError(
          f'{name} and {dense[ours].sources[0]} are both {ours}: the file '
          'holds more than one model; choose one by --prefix.'
        )
      try:
        array = change.apply(tensor)
      except (ValueError, TypeError, IndexError) as error:
        raise ValueError(
          f'{name}: a tensor of shape {tuple(tensor.shape)} cannot be '
          f'{change.words or "taken"}: {error}'
        ) from error
      how = (change.words,) if change.words else ()
      dense[ours] = Dense(array, (name,), how)
  return Translated(dense, skipped, tuple(unexplained))


def skip(pattern: str, reason: str) -> Rule:
  return Rule(pattern, {}, reason)


def _third(index: int, axis: str) -> Callable[[Array], Array]:
  """A third of the rows of [3 D, D], transposed, or of [3 D]."""

  def cut(w: Array) -> Array:
    if w.shape[0] % 3:
      raise ValueError(f'{w.shape[0]} rows are no three equal parts')
    size = w.shape[0] // 3
    part = w[index * size : (index + 1) * size]
    return part.T if axis == 'kernel' else part

  return cut


def _rows(part: int, w: Array) -> Array:
  """[1, g² or 1 + g², D] -> part 0, the class row, or 1, the grid."""
  rows = w.shape[-2]
  extra = 0 if math.isqrt(rows) ** 2 == rows else 1
  side = math.isqrt(rows - extra)
  if side**2 != rows - extra:
    raise ValueError(f'{rows} rows are no square grid, with or without a class')
  if part:
    return w.reshape(rows, -1)[extra:].reshape(side, side, -1)
  # A table without a row for the class token adds nothing to it.
  flat = w.reshape(rows, -1)
  return flat[0] if extra else flat[0] * 0


def _merge(order: str, w: Array) -> Array:
  """[2D, 4D] -> [2, 2, D, 2D] as (row, column); see `merge`."""
  out, rows = w.shape
  if rows % 4:
    raise ValueError(f'{rows} columns are no four neighbours')
  if order == 'neighbours':
    return w.T.reshape(2, 2, rows // 4, out).transpose(1, 0, 2, 3)
  return w.T.reshape(rows // 4, 2, 2, out).transpose(1, 2, 0, 3)


COPY = Change('', lambda x: x)
TRANSPOSE = Change('transposed', lambda w: w.T)
KERNEL = Change('OIHW to HWIO', lambda w: w.transpose(2, 3, 1, 0))
VECTOR = Change('flattened', lambda x: x.reshape(-1))
TOKENS = Change('flattened', lambda x: x.reshape(-1, x.shape[-1]))
CLASS_ROW = Change('row of the class token', lambda x: _rows(0, x))
GRID = Change('rows of the grid', lambda x: _rows(1, x))
# Microsoft and timm put neighbours one after the other, (0, 0), (1, 0), (0, 1),
# (1, 1) as (row, column); mmcls unfolds channel by channel.
MERGE = Change('neighbours apart', lambda w: _merge('neighbours', w))
MERGE_UNFOLDED = Change(
  'unfolded channels apart', lambda w: _merge('unfold', w)
)


def qkv(weight: str, bias: str | None, to: str) -> tuple[Rule, ...]:
  """Rules of one matrix [3 D, D], and its bias, that holds q, k and v."""
  parts = ('query', 'key', 'value')
  found = []
  for pattern, leaf in ((weight, 'kernel'), (bias, 'bias')):
    if pattern is not None:
      changes = {
        f'{to}/{part}/{leaf}': Change(f'{part} of qkv', _third(i, leaf))
        for i, part in enumerate(parts)
      }
      found.append(Rule(pattern, changes))
  return tuple(found)


def dense(pattern: str, to: str) -> tuple[Rule, ...]:
  """A `torch.nn.Linear`: [out, in] there, [in, out] here."""
  return (
    Rule(rf'{pattern}\.weight', {f'{to}/kernel': TRANSPOSE}),
    Rule(rf'{pattern}\.bias', {f'{to}/bias': COPY}),
  )


def norm(pattern: str, to: str) -> tuple[Rule, ...]:
  return (
    Rule(rf'{pattern}\.weight', {f'{to}/scale': COPY}),
    Rule(rf'{pattern}\.bias', {f'{to}/bias': COPY}),
  )


def ffn(first: str, second: str, to: str) -> tuple[Rule, ...]:
  return (
    Rule(rf'{first}\.weight', {f'{to}/w_in': TRANSPOSE}),
    Rule(rf'{first}\.bias', {f'{to}/b_in': COPY}),
    Rule(rf'{second}\.weight', {f'{to}/w_out': TRANSPOSE}),
    Rule(rf'{second}\.bias', {f'{to}/b_out': COPY}),
  )
