"""What one instruction of a program computes and moves.

Bytes are those of the tiled layout: a minor dimension of 32 takes the room and
the bandwidth of 128.
"""

from collections.abc import Iterator
import functools
import math
import re
from typing import Literal, NamedTuple

import numpy as np

from rsfm_jax.launch import hlo

Kind = Literal[
  'matmul',
  'elementwise',
  'copy',
  'reduction',
  'gather',
  'scatter',
  'sort',
  'kernel',
]

# Neither computed nor moved: names, views and bookkeeping.
FREE = frozenset(
  (
    'add-dependency',
    'after-all',
    'bitcast',
    'constant',
    'domain',
    'get-tuple-element',
    'opt-barrier',
    'parameter',
    'partition-id',
    'replica-id',
    'tuple',
  )
)
_FREETARGETS = ('AllocateBuffer', 'ConcatBitcast', 'Sharding')
_MATMUL = frozenset(('convolution', 'dot', 'ragged-dot'))
_REDUCTION = frozenset(('reduce', 'reduce-window', 'select-and-scatter'))
_SLICING = ('dynamic-slice', 'gather', 'slice')
_COPY = frozenset(
  (
    'bitcast-convert',
    'broadcast',
    'concatenate',
    'convert',
    'copy',
    'dynamic-slice',
    'dynamic-update-slice',
    'fusion',
    'iota',
    'pad',
    'reshape',
    'reverse',
    'slice',
    'transpose',
  )
)
TARGET = r'custom_call_target="([^"]*)"'
# What Pallas leaves in a program. Its text holds the kernel, opaque, and the
# cost that the author declared; no cycles.
_KERNEL = 'tpu_custom_call'


def is_free(instruction: hlo.Instruction) -> bool:
  if instruction.opcode == 'custom-call':
    return instruction.attribute(TARGET) in _FREETARGETS
  return instruction.opcode in FREE


def kind_of(module: hlo.Module, instruction: hlo.Instruction) -> Kind:
  """What dominates an instruction that is neither a loop nor a collective."""
  if instruction.opcode == 'custom-call' or kernels(module, instruction):
    return 'kernel'
  found = frozenset(_opcodes(module, instruction))
  if found & _MATMUL:
    return 'matmul'
  for kind in ('scatter', 'gather', 'sort'):
    if kind in found:
      return kind
  if found & _REDUCTION:
    return 'reduction'
  return 'copy' if found <= _COPY | FREE else 'elementwise'


def kernels(
  module: hlo.Module, instruction: hlo.Instruction
) -> list[hlo.Instruction]:
  """Pallas kernels that an instruction is, fuses or starts."""
  if instruction.attribute(TARGET) == _KERNEL:
    return [instruction]
  if instruction.opcode not in ('fusion', 'async-start'):
    return []
  return [
    kernel
    for inner in module.called(instruction)
    for nested in inner.instructions
    for kernel in kernels(module, nested)
  ]


def _opcodes(module: hlo.Module, instruction: hlo.Instruction) -> Iterator[str]:
  yield instruction.opcode
  if instruction.opcode == 'fusion':
    for inner in module.called(instruction):
      for nested in inner.instructions:
        yield from _opcodes(module, nested)


def moved(
  module: hlo.Module,
  computation: hlo.Computation,
  instruction: hlo.Instruction,
) -> int:
  """Bytes that an instruction reads and writes.

  A slice of a stacked array counts as the slice, and an update in place as
  the update.
  """
  sources = [
    computation.by_name[name].tiled
    for name in instruction.operands
    if name in computation.by_name
  ]
  opcode, result = instruction.opcode, instruction.tiled
  if opcode == 'fusion':
    inner = next(module.called(instruction))
    reads = sum(
      _read(module, inner, inner.parameters[i], full)
      for i, full in enumerate(sources)
      if i in inner.parameters
    )
    return reads + _written(module, inner, inner.root)
  if opcode in _SLICING:
    return 2 * result
  if opcode == 'dynamic-update-slice':
    return 2 * sources[1]
  if opcode == 'scatter':
    return 2 * sources[-1] + sum(sources[1:-1])
  return sum(sources) + result


def _read(
  module: hlo.Module,
  inner: hlo.Computation,
  source: hlo.Instruction,
  full: int,
) -> int:
  total = 0
  for user in inner.users[source.name]:
    first = user.operands[0] == source.name
    if user.opcode in _SLICING and first:
      total += user.tiled
    elif user.opcode == 'bitcast':
      total += _read(module, inner, user, full)
    elif user.opcode == 'fusion':
      nested = next(module.called(user))
      index = user.operands.index(source.name)
      total += _read(module, nested, nested.parameters[index], full)
    elif not (user.opcode == 'dynamic-update-slice' and first):
      return full
  return min(total, full)


def _written(
  module: hlo.Module, inner: hlo.Computation, element: hlo.Instruction
) -> int:
  if element.opcode == 'tuple':
    return sum(
      _written(module, inner, inner.by_name[name]) for name in element.operands
    )
  if element.opcode == 'bitcast' and element.operands[0] in inner.by_name:
    return _written(module, inner, inner.by_name[element.operands[0]])
  if element.opcode == 'dynamic-update-slice':
    return inner.by_name[element.operands[1]].tiled
  if element.opcode == 'fusion' and len(element.shapes) == 1:
    nested = next(module.called(element))
    return _written(module, nested, nested.root)
  return 0 if element.opcode == 'parameter' else element.tiled


class Declared(NamedTuple):
  """What the author of a Pallas kernel says that it costs."""

  flops: int
  transcendentals: int
  nbytes: int
  remote_bytes: int


def declared(kernel: hlo.Instruction) -> Declared | None:
  """The `cost_estimate` of a kernel, if it has one that is not zero."""
  text = kernel.attribute(r'"cost_estimate":\{([^{}]*)\}') or ''

  def field(name: str) -> int:
    found = re.search(rf'"{name}":"(\d+)"', text)
    return int(found[1]) if found else 0

  found = Declared(
    field('flops'),
    field('transcendentals'),
    field('bytes_accessed'),
    field('remote_bytes_transferred'),
  )
  return found if any(found) else None


def matmul_flops_within(
  module: hlo.Module,
  computation: hlo.Computation,
  instruction: hlo.Instruction,
) -> int:
  """FLOPs of the matrix products of an instruction and its fusions."""
  if instruction.opcode != 'fusion':
    return matmul_flops(computation, instruction)
  return sum(
    matmul_flops_within(module, inner, nested)
    for inner in module.called(instruction)
    for nested in inner.instructions
    if nested.opcode in _MATMUL or nested.opcode == 'fusion'
  )


def matmul_flops(
  computation: hlo.Computation, instruction: hlo.Instruction
) -> int:
  """FLOPs of a convolution or dot, multiply and add counted apart."""
  result = instruction.shapes[0].dims
  if instruction.opcode == 'dot':
    left = computation.by_name[instruction.operands[0]].shapes[0].dims
    dims = instruction.attribute(r'lhs_contracting_dims=\{([\d,]*)\}') or ''
    contracted = [left[int(d)] for d in dims.split(',') if d]
    return 2 * math.prod(result) * math.prod(contracted)
  if instruction.opcode != 'convolution':
    return 0
  labels = instruction.attribute(r'dim_labels=([\w>\-]+)')
  left, right = (
    computation.by_name[name].shapes[0].dims for name in instruction.operands
  )
  inputs, kernel, out = re.split(r'_|->', labels)
  spatial = sorted(set(kernel) - set('io'), key=int)
  window = _window(instruction.attribute(r'window=\{([^}]*)\}') or '')
  taps = math.prod(
    _taps(
      left[inputs.index(d)],
      result[out.index(d)],
      *(window[field][int(d)] for field in _WINDOW),
    )
    for d in spatial
  )
  return (
    2
    * result[out.index('b')]
    * result[out.index('f')]
    * right[kernel.index('i')]
    * taps
  )


_WINDOW = ('size', 'stride', 'pad', 'lhs_dilate', 'rhs_dilate')


def _window(text: str) -> dict[str, list[int]]:
  """Fields of `window={size=4x4 stride=3x1 pad=0_0x1_1 lhs_dilate=4x1}`."""
  given = dict(field.split('=') for field in text.split())
  count = len(given['size'].split('x')) if given else 0
  fields = {}
  for name in _WINDOW:
    default = ['0' if name == 'pad' else '1'] * count
    values = given[name].split('x') if name in given else default
    fields[name] = [int(value.split('_')[0]) for value in values]
  return fields


@functools.lru_cache(maxsize=4096)
def _taps(
  length: int,
  outputs: int,
  size: int,
  stride: int,
  pad: int,
  lhs_dilate: int,
  rhs_dilate: int,
) -> int:
  """Pairs of an output and a kernel position that meet a real input.

  The TPU compiler writes the batch of a batched product as a dilated spatial
  dimension of which each output sees one position.
  """
  outs = np.arange(outputs)[:, None] * stride
  at = outs + np.arange(size)[None, :] * rhs_dilate - pad
  real = (at % lhs_dilate == 0) & (at >= 0) & (at < length * lhs_dilate)
  return int(np.count_nonzero(real))
