"""Collectives of a program: what is exchanged among how many devices."""

import math
import re
from typing import NamedTuple

from rsfm_jax.launch import hlo

KINDS = (
  'all-gather',
  'all-reduce',
  'all-to-all',
  'collective-broadcast',
  'collective-permute',
  'ragged-all-to-all',
  'reduce-scatter',
)
_TARGET = r'custom_call_target="([^"]*)"'


class Collective(NamedTuple):
  """One collective as a schedule starts it.

  Attributes:
    kind: of `KINDS`.
    group: devices that take part together.
    nbytes: per device, logical: the gathered result of an all-gather, the
      operand of any other.
    tiled: the same in the tiled layout.
    axes: torus axes that the compiler's algorithm uses at once.
    channel: pairs the start of an asynchronous fusion with its end.
  """

  kind: str
  group: int
  nbytes: int
  tiled: int
  axes: int
  channel: str | None

  @property
  def wire_bytes(self) -> float:
    """Bytes that a device sends, by a ring where one serves."""
    share = (self.group - 1) / self.group
    if self.kind == 'all-reduce':
      return 2 * self.tiled * share
    if self.kind == 'collective-permute':
      return 2 * self.tiled  # One way only, over links counted both ways.
    return self.tiled * share


def started(
  module: hlo.Module,
  computation: hlo.Computation,
  instruction: hlo.Instruction,
) -> Collective | None:
  """The collective that an instruction runs or starts, if any.

  The TPU compiler splits an asynchronous collective into fusions that start
  it, carry it along and end it, all of which name the collective; only the
  start counts.
  """
  base = instruction.opcode.removesuffix('-start')
  if base in KINDS:
    return _collective(base, computation, instruction)
  if instruction.opcode not in ('fusion', 'async-start'):
    return None
  for inner in module.called(instruction):
    for nested in inner.instructions:
      kind = nested.opcode
      if kind not in KINDS:
        continue
      flag = nested.attribute(r'"flag_start":"(-?\d+)"')
      if flag is not None and flag != '-1':
        return None
      if kind == 'all-reduce' and inner.name.startswith('all-reduce-scatter'):
        kind = 'reduce-scatter'
      return _collective(kind, inner, nested, algorithm=instruction.text)
  return None


def finished(module: hlo.Module, instruction: hlo.Instruction) -> str | None:
  """The channel whose asynchronous fusion ends here."""
  if instruction.opcode != 'fusion':
    return None
  for inner in module.called(instruction):
    if inner.root.attribute(_TARGET) == 'AsyncCollectiveDone':
      for nested in inner.instructions:
        if nested.opcode in KINDS:
          return nested.attribute(r'channel_id=(\d+)')
  return None


def _collective(
  kind: str,
  computation: hlo.Computation,
  instruction: hlo.Instruction,
  algorithm: str = '',
) -> Collective:
  group = group_size(instruction)
  sources = [
    computation.by_name[name]
    for name in instruction.operands
    if name in computation.by_name
  ]
  if kind == 'ragged-all-to-all':
    sources = sources[:1]  # The others are the output and the offsets.
  scale = group if kind == 'all-gather' else 1
  axes = re.search(
    r'"emitter":"(\d)DAllGather|num_dims:(\d)', algorithm + instruction.text
  )
  return Collective(
    kind,
    group,
    nbytes=scale * sum(x.nbytes for x in sources),
    tiled=scale * sum(x.tiled for x in sources),
    axes=int(axes[1] or axes[2]) if axes else 1,
    channel=instruction.attribute(r'channel_id=(\d+)'),
  )


def group_size(instruction: hlo.Instruction) -> int:
  """Devices of one replica group; 2 for a permutation.

  Raises:
    ValueError: the groups are written in no known form.
  """
  text = instruction.text
  if 'source_target_pairs=' in text:
    return 2
  if found := re.search(r'replica_groups=\{\{([\d,]+)\}', text):
    return found[1].count(',') + 1
  if found := re.search(r'replica_groups=\[\d+,(\d+)\]<=', text):
    return int(found[1])
  if found := re.search(
    r'replica_groups=@?mesh\[(.*?)\](?:, device_ids=\(.*?\))? *\{(.*?)\}', text
  ):
    sizes = {k: int(n) for k, n in re.findall(r"'([^']+)'=(\d+)", found[1])}
    # A part of an axis is written 'name':(stride)size.
    used = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", found[2])
    return math.prod(int(part) if part else sizes[k] for k, part in used)
  raise ValueError(f'replica groups of {instruction.name}: {text[:200]!r}')
