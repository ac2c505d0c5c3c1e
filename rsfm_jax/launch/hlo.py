"""Reads a scheduled HLO program as `compiled.as_text()` prints it.

Only what an estimate needs: computations in schedule order, shapes with their
tiled size, operands, called computations, trip counts, the compiler's
`estimated_cycles`, collectives with their groups, and the bytes that an
instruction reads and writes.
"""

from collections.abc import Iterator
import dataclasses
import functools
import math
import re
from typing import NamedTuple

_BITS = re.compile(r'[a-z]+(\d+)')
_ODD_BITS = {'pred': 8, 'token': 0, 'opaque': 0}
_LEAF = re.compile(
  r'(?P<dtype>[a-z]\w*)\[(?P<dims>[\d,<= ]*)\](?:\{(?P<layout>[^{}]*)\})?'
)
_TILE = re.compile(r'T\(([\d,*]+)\)')
_SPACE = re.compile(r'S\((\d+)\)')
_HEADER = re.compile(r'(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$')
_NAME = re.compile(r'\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = ')
_OPCODE = re.compile(r'\s*([a-z][\w\-]*)\(')
_OPERAND = re.compile(r'%([\w.\-]+)')
_CALLS = re.compile(
  r'\b(?:calls|to_apply|body|condition|branch_computations|'
  r'true_computation|false_computation)=(\{[^}]*\}|%?[\w.\-]+)'
)
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_UNKNOWN_CYCLES = 2**62  # The compiler writes 2^63 - 1 for "no idea".


class Shape(NamedTuple):
  """One array of a result.

  Attributes:
    dtype: as HLO writes it, such as `bf16`.
    dims: logical dimensions.
    nbytes: logical size.
    tiled: size in memory, minor dimensions padded to the layout's tile.
    space: memory space; 0 is HBM, 1 the on-chip vector memory.
  """

  dtype: str
  dims: tuple[int, ...]
  nbytes: int
  tiled: int
  space: int


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One scheduled instruction.

  Attributes:
    name: without the leading '%'.
    opcode: such as `fusion`, `all-gather-start`.
    shapes: arrays of the result, tuples flattened.
    operands: names of the operands.
    calls: names of called computations, in the order of the text.
    cycles: the compiler's estimate, None where it gives none.
    text: attributes, from the end of the operands.
  """

  name: str
  opcode: str
  shapes: tuple[Shape, ...]
  operands: tuple[str, ...]
  calls: tuple[str, ...]
  cycles: int | None
  text: str

  @property
  def tiled(self) -> int:
    return sum(shape.tiled for shape in self.shapes)

  @property
  def nbytes(self) -> int:
    return sum(shape.nbytes for shape in self.shapes)

  def attribute(self, pattern: str) -> str | None:
    """The first group of a regex over the attributes."""
    found = re.search(pattern, self.text)
    return found.group(1) if found else None


@dataclasses.dataclass(frozen=True)
class Computation:
  """Instructions in schedule order."""

  name: str
  instructions: tuple[Instruction, ...]
  root: Instruction

  @functools.cached_property
  def by_name(self) -> dict[str, Instruction]:
    return {i.name: i for i in self.instructions}

  @functools.cached_property
  def users(self) -> dict[str, list[Instruction]]:
    found: dict[str, list[Instruction]] = {
      i.name: [] for i in self.instructions
    }
    for instruction in self.instructions:
      for operand in dict.fromkeys(instruction.operands):
        if operand in found:
          found[operand].append(instruction)
    return found

  @functools.cached_property
  def parameters(self) -> dict[int, Instruction]:
    return {
      int(i.operands[0]): i
      for i in self.instructions
      if i.opcode == 'parameter'
    }

  @functools.cached_property
  def opcodes(self) -> frozenset[str]:
    return frozenset(i.opcode for i in self.instructions)


@dataclasses.dataclass(frozen=True)
class Module:
  """All computations of a program, by name."""

  computations: dict[str, Computation]
  entry: Computation

  def called(self, instruction: Instruction) -> Iterator[Computation]:
    for name in instruction.calls:
      if name in self.computations:
        yield self.computations[name]


def parse(text: str) -> Module:
  """Parses the text of one module.

  Raises:
    ValueError: the text holds no entry computation.
  """
  computations: dict[str, Computation] = {}
  entry = None
  name, body, root, is_entry = '', [], None, False
  for line in text.splitlines():
    if not line or line[0] not in ' }':
      if line.endswith('{') and (header := _HEADER.match(line)):
        name, is_entry = header['name'], bool(header['entry'])
        body, root = [], None
    elif line[0] == '}' and body:
      computations[name] = Computation(name, tuple(body), root or body[-1])
      entry = computations[name] if is_entry else entry
      body = []
    elif found := _NAME.match(line):
      body.append(_instruction(line, found))
      root = body[-1] if found['root'] else root
  if entry is None:
    raise ValueError('the HLO text has no ENTRY computation.')
  return Module(computations, entry)


def _instruction(line: str, found: re.Match) -> Instruction:
  start = found.end()
  end = _closing(line, start) if line[start] == '(' else line.index(' ', start)
  opcode = _OPCODE.match(line, end)
  if opcode is None:
    raise ValueError(f'not an HLO instruction: {line[:120]!r}')
  close = _closing(line, opcode.end() - 1)
  inside = line[opcode.end() : close - 1]
  text = line[close:]
  operands = tuple(_OPERAND.findall(inside))
  if opcode[1] in ('parameter', 'constant'):
    operands = (inside,)
  calls = []
  for value in _CALLS.findall(text):
    calls += re.findall(r'[\w.\-]+', value)
  cycles = _CYCLES.search(text)
  count = int(cycles[1]) if cycles else None
  return Instruction(
    name=found['name'],
    opcode=opcode[1],
    shapes=shapes(line[start:end]),
    operands=operands,
    calls=tuple(calls),
    cycles=None if count is None or count > _UNKNOWN_CYCLES else count,
    text=text,
  )


def _closing(line: str, start: int) -> int:
  """The position after the parenthesis that closes the one at `start`."""
  depth = 0
  for match in re.compile(r'[()]').finditer(line, start):
    depth += 1 if match[0] == '(' else -1
    if depth == 0:
      return match.end()
  raise ValueError(f'unbalanced parentheses: {line[:120]!r}')


@functools.lru_cache(maxsize=65536)
def shapes(text: str) -> tuple[Shape, ...]:
  """Arrays of a shape, `(f32[2]{0:T(128)}, bf16[8,4]{1,0:T(8,128)S(1)})`."""
  return tuple(_shape(leaf) for leaf in _LEAF.finditer(text))


def _shape(leaf: re.Match) -> Shape:
  dtype, layout = leaf['dtype'], leaf['layout'] or ''
  dims = tuple(int(n) for n in re.findall(r'\d+', leaf['dims']))
  bits = _ODD_BITS.get(dtype)
  if bits is None:
    bits = int(_BITS.match(dtype)[1])
  padded = list(dims)
  order = [int(n) for n in re.findall(r'\d+', layout.split(':')[0])]
  tile = _TILE.search(layout)
  sizes = (
    [int(n) for n in tile[1].split(',')] if tile and '*' not in tile[1] else []
  )
  for dim, size in zip(order, reversed(sizes)):
    padded[dim] = -(-padded[dim] // size) * size
  space = _SPACE.search(layout)
  return Shape(
    dtype,
    dims,
    nbytes=math.prod(dims) * bits // 8,
    tiled=math.prod(padded) * bits // 8,
    space=int(space[1]) if space else 0,
  )


def trip_count(
  module: Module,
  computation: Computation,
  loop: Instruction,
) -> int | None:
  """How often the body of a `while` runs; None if the text does not tell.

  Either the compiler says so, or the condition compares a counter that starts
  at a constant with a constant.
  """
  if known := loop.attribute(r'"known_trip_count":\{"n":"(\d+)"'):
    return int(known)
  name = loop.attribute(r'condition=%?([\w.\-]+)')
  condition = module.computations.get(name or '')
  if condition is None:
    return None
  test, scope = condition.root, condition
  if test.opcode == 'fusion':
    scope = next(module.called(test))
    test = scope.root
  if test.opcode != 'compare' or 'direction=LT' not in test.text:
    return None
  carried = computation.by_name.get(loop.operands[0])
  bounds = [
    _constant(computation, carried, condition, scope, name)
    for name in test.operands
  ]
  if None in bounds:
    return None
  return max(bounds[1] - bounds[0], 0)


def _constant(
  outside: Computation,
  carried: Instruction | None,
  condition: Computation,
  scope: Computation,
  name: str,
) -> int | None:
  """The value of a name in a loop's condition when the loop is entered."""
  found = scope.by_name.get(name)
  if found is not None and found.opcode == 'parameter' and scope != condition:
    outer = condition.root.operands[int(found.operands[0])]
    found = condition.by_name.get(outer)
  if found is not None and found.opcode == 'get-tuple-element':
    index = int(found.attribute(r'index=(\d+)'))
    if carried is None or carried.opcode != 'tuple':
      return None
    found = outside.by_name.get(carried.operands[index])
    while found is not None and found.opcode in ('copy', 'bitcast'):
      found = outside.by_name.get(found.operands[0])
  if found is None or found.opcode != 'constant':
    return None
  value = found.operands[0]
  return int(value) if re.fullmatch(r'-?\d+', value) else None
