"""What stands in a chip's memory while a step runs, by kind and by name."""

from collections.abc import Mapping
import math
import re
from typing import Any, NamedTuple

import jax

from rsfm_jax.core import trees
from rsfm_jax.launch import costs
from rsfm_jax.launch import hlo

KINDS = {'params': 'params', 'opt': 'optimizer'}
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
_SIZE = r'([\d.]+)([KMGT]?)i?B?'


class Allocation(NamedTuple):
  """One array in memory.

  Attributes:
    name: of a state or batch entry, or the operation that made it.
    nbytes: on one device.
    what: its type and shape on one device.
  """

  name: str
  nbytes: int
  what: str


def of_arguments(state: trees.Tree, batch: trees.Tree) -> dict[str, int]:
  """Bytes on one device: params, optimizer, other_state and batch."""
  found = {'params': 0, 'optimizer': 0, 'other_state': 0, 'batch': 0}
  for part, tree in state.items():
    kind = KINDS.get(part, 'other_state')
    found[kind] += sum(_bytes(leaf) for leaf in jax.tree.leaves(tree))
  found['batch'] = sum(_bytes(leaf) for leaf in jax.tree.leaves(batch))
  return found


def of_program(
  compiled: jax.stages.Compiled, arguments: Mapping[str, int]
) -> dict[str, int]:
  """Bytes on one device by kind, as the compiler accounts for them.

  `temporaries` are the activations kept for the backward pass and everything
  else that lives within a step, at its fullest moment; the compiler does not
  tell them apart. (The sum of its places for them is larger: places may be
  shared with arguments that are done with, and programs fit whose sum does
  not.) `padding` is what the layouts of the arguments add to their logical
  size.
  """
  stats = compiled.memory_analysis()
  found = dict(arguments)
  found['padding'] = max(
    stats.argument_size_in_bytes - sum(arguments.values()), 0
  )
  outputs = max(stats.output_size_in_bytes - stats.alias_size_in_bytes, 0)
  peak = stats.peak_memory_in_bytes - stats.argument_size_in_bytes - outputs
  known = 0 <= peak <= stats.temp_size_in_bytes
  found['temporaries'] = peak if known else stats.temp_size_in_bytes
  found['outputs'] = outputs
  found['program'] = stats.generated_code_size_in_bytes
  return found


def largest_arguments(
  state: trees.Tree, batch: trees.Tree, count: int = 3
) -> list[Allocation]:
  named = trees.flatten({'batch': batch}) | trees.flatten(state)
  found = [Allocation(n, _bytes(x), _what(x)) for n, x in named.items()]
  return _largest(found, count)


def largest_temporaries(program: hlo.Module, count: int = 3):
  """The largest arrays in HBM that the program itself makes.

  Their lives may not overlap, so they need not add up.
  """
  fused = {
    name
    for computation in program.computations.values()
    for instruction in computation.instructions
    if instruction.opcode == 'fusion'
    for name in instruction.calls
  }
  found = [
    Allocation(
      instruction.attribute(r'op_name="([^"]*)"') or instruction.name,
      shape.tiled,
      f'{shape.dtype}{list(shape.dims)}',
    )
    for name, computation in program.computations.items()
    if name not in fused
    for instruction in computation.instructions
    if _allocates(program, instruction)
    for shape in instruction.shapes
    if shape.space == 0
  ]
  return _largest(list(dict.fromkeys(found)), count)


class Buffers(NamedTuple):
  """The compiler's plan of a device's memory.

  Attributes:
    arguments: bytes of state and batch, tiled.
    temporaries: bytes of what lives within a step; arrays share them.
    outputs: bytes of results that take no argument's place.
    largest: places among the temporaries, each by one array that lives there.
  """

  arguments: int
  temporaries: int
  outputs: int
  largest: list[Allocation]


def parse_buffers(plan: str, program: str = '') -> Buffers:
  """Reads the `buffer-assignment.txt` that XLA dumps.

  Args:
    plan: that file.
    program: HLO text that tells which operation made an array.
  """
  sizes = {'arguments': 0, 'temporaries': 0, 'outputs': 0}
  places: dict[str, Allocation] = {}
  temporary = False
  for line in plan.splitlines():
    if found := re.match(r'allocation \d+: size (\d+)(.*)', line):
      temporary = False
      if 'color' in found[2]:  # Memory on the chip.
        continue
      temporary = 'preallocated-temp' in found[2]
      kind = (
        'arguments'
        if 'parameter' in found[2]
        else 'outputs'
        if 'live-out' in found[2]
        else 'temporaries'
      )
      sizes[kind] += int(found[1])
    elif temporary and (found := _PLACED.match(line)):
      held = places.get(found['offset'])
      if held is None or held.nbytes < int(found['size']):
        places[found['offset']] = Allocation(
          found['name'], int(found['size']), found['shape']
        )
  return Buffers(
    **sizes,
    largest=[
      array._replace(name=_operation(program, array.name))
      for array in _largest(list(places.values()), 3)
    ],
  )


_PLACED = re.compile(
  r' value: <\d+ (?P<name>[^ {]+)\S* (?:\(phi\) )?@0> '
  r'\(size=(?P<size>\d+),offset=(?P<offset>\d+)\): (?P<shape>[^{(]+)'
)


def _operation(program: str, name: str) -> str:
  found = re.search(
    rf'^.*%{re.escape(name)} = .*?op_name="([^"]*)"', program, re.MULTILINE
  )
  return f'{found[1]} ({name})' if found else name


def parse_refusal(message: str) -> tuple[int | None, list[Allocation]]:
  """Bytes needed on a device and the largest arrays, from a refusal.

  The TPU compiler's RESOURCE_EXHAUSTED comes in a short form, which gives the
  total only, and in a long one with a list.
  """
  total = re.search(rf'temporaries \({_SIZE}\)', message) or re.search(
    rf'Used {_SIZE} of', message
  )
  found = []
  for entry in re.split(r'\n\s*\d+\. Size: ', message)[1:]:
    size = re.match(_SIZE, entry)
    name = re.search(r'op_name="([^"]*)"', entry)
    label = re.search(r'XLA label: ([^=\n]*)', entry)
    shape = re.search(r'Shape: ([^{\s]*)', entry)
    found.append(
      Allocation(
        name[1] if name else label[1].strip() if label else '?',
        _parse_size(size),
        shape[1] if shape else '?',
      )
    )
  return _parse_size(total) if total else None, _largest(found, 3)


def _parse_size(found: re.Match) -> int:
  return round(float(found[1]) * _UNITS[found[2]])


def _largest(found: list[Allocation], count: int) -> list[Allocation]:
  return sorted(found, key=lambda a: -a.nbytes)[:count]


def _allocates(program: hlo.Module, instruction: hlo.Instruction) -> bool:
  opcode = instruction.opcode
  if opcode == 'custom-call':
    return instruction.attribute(costs.TARGET) != 'ConcatBitcast'
  if opcode in costs.FREE or opcode in ('while', 'call', 'conditional'):
    return False
  if opcode.endswith(('-done', '-update')) or 'update-slice' in opcode:
    return False
  if opcode == 'fusion':  # An update in place makes no array.
    inner = next(program.called(instruction))
    return inner.root.opcode != 'dynamic-update-slice'
  return True


def _bytes(leaf: Any) -> int:
  return math.prod(_local(leaf)) * leaf.dtype.itemsize


def _what(leaf: Any) -> str:
  return f'{leaf.dtype}{list(_local(leaf))}'


def _local(leaf: Any) -> tuple[int, ...]:
  sharding = getattr(leaf, 'sharding', None)
  return leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
