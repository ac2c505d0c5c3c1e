"""Compiles a pre-training step for an accelerator that is not there.

Prints whether it fits, what it keeps in memory, what it exchanges and how long
the compiler's schedule makes a step. Nothing is allocated and no TPU is
needed, but a compile takes seconds for a small model and minutes and several
GB of memory for a giant. `--memory` stops where the compiler has laid out
memory, which is minutes where the rest would be hours.
"""

import argparse
import json
import os
import sys
from typing import Any

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import training
from rsfm_jax.core import choices
from rsfm_jax.launch import aot
from rsfm_jax.launch import chips
from rsfm_jax.launch import search as searching
from rsfm_jax.launch import topologies
from rsfm_jax.sharding import mesh as meshes

HELP = 'does a step fit a TPU slice, and how fast would it be?'
TAKES_OVERRIDES = True
EXIT_TOO_LARGE = 3

# Schedules end somewhere; where does not change the program.
_TOTAL_STEPS = 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('--config', required=True, help='a file of configs/')
  parser.add_argument(
    '--topology',
    required=True,
    help='chips and their shape, as v5p:4x4x4; known: '
    + ', '.join(
      f'{c.name}:{s}' for c in chips.CHIPS.values() for s in c.shapes
    ),
  )
  parser.add_argument(
    '--mesh',
    help='sizes of axes instead of config.mesh, as fsdp=16,expert=4; data '
    'takes what is left unless given',
  )
  parser.add_argument(
    '--search',
    action='store_true',
    help='try meshes and microbatches, recommend one',
  )
  parser.add_argument(
    '--compiles', type=int, default=6, help='programs that --search compiles'
  )
  parser.add_argument(
    '--memory',
    action='store_true',
    help='does it fit, and no more: no program and no estimate of time',
  )
  parser.add_argument(
    '--json', action='store_true', help='print one JSON object'
  )
  parser.epilog = 'Override keys by --config.section.key=value.'


def run(args: argparse.Namespace) -> int:
  if args.search and args.memory:
    raise ValueError('--search wants times; give it without --memory.')
  topology = topologies.parse(args.topology)
  sizes = parse_mesh(args.mesh) if args.mesh else None
  config = configs.load(args.config, args.overrides)
  # Before anything starts JAX, which then has its number of devices.
  devices = topology.devices()
  if sizes is not None:
    config.mesh.update({'data': -1, 'fsdp': 1, 'expert': 1, 'tensor': 1})
    config.mesh.update(sizes)
  if args.search:
    return _search(args, config, topology, devices)
  step = _planned(config, devices)
  if args.memory:
    planned = aot.plan_memory(step, topology)
    code = _tell(args, planned.report)
    if planned.running.is_alive():
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(code)  # The compiler would go on for as long as it takes.
    return code
  return _tell(args, aot.compile_step(step, topology))


def _tell(args: argparse.Namespace, report: aot.Compiled) -> int:
  if args.json:
    print(json.dumps(report.to_json()))
  else:
    print(table(report))
  if not report.fits:
    print(too_large(report), file=sys.stderr)
  return 0 if report.fits else EXIT_TOO_LARGE


def parse_mesh(text: str) -> dict[str, int]:
  """`'fsdp=16,expert=4'` as sizes.

  Raises:
    ValueError: no such axis, or a size that is no positive number or -1.
  """
  sizes = {}
  for part in text.split(','):
    axis, _, size = part.strip().partition('=')
    choices.check(axis, meshes.AXES, key='--mesh')
    if not (size.isdigit() and int(size) > 0) and size != '-1':
      raise ValueError(
        f'--mesh {part}: the size of an axis is a positive number, or -1 for '
        'what is left.'
      )
    sizes[axis] = int(size)
  return sizes


def _planned(config: Any, devices: list[Any]) -> aot.Step:
  found = training.plan(config, total_steps=_TOTAL_STEPS, devices=devices)
  return aot.Step(
    step_fn=found.step_fn,
    state=found.state,
    batch=found.batch,
    rest=(found.key,),
    mesh=found.mesh,
    images=found.images,
    flops=found.flops,
  )


def _search(
  args: argparse.Namespace,
  config: Any,
  topology: topologies.Topology,
  devices: list[Any],
) -> int:
  def plan(way: searching.Candidate) -> aot.Step:
    changed = config.copy_and_resolve_references()
    changed.mesh.update(way.mesh)
    changed.train.accumulate = way.accumulate
    return _planned(changed, devices)

  tried = searching.search(
    plan,
    topology,
    searching.candidates(topology.size),
    compiles=args.compiles,
  )
  best = searching.recommended(tried)
  rows = [_row(t) for t in tried]
  if args.json:
    found = best.report.to_json() if best else {'fits': False}
    found['accumulate'] = best.candidate.accumulate if best else None
    print(json.dumps(found | {'search': rows}))
  else:
    print(search_table(tried))
    if best is not None:
      print(f'\nrecommended: {best.candidate}\n{table(best.report)}')
  if best is None:
    print(f'rsfm: nothing tried fits {topology.name}.', file=sys.stderr)
  return 0 if best else EXIT_TOO_LARGE


def _row(tried: searching.Tried) -> dict[str, Any]:
  report = tried.report
  return {
    **tried.candidate._asdict(),
    'fits': bool(report and report.fits),
    'bytes_per_chip': report.bytes_per_chip['total'] if report else None,
    'images_per_second': report.images_per_second if report else None,
    'mfu': report.mfu if report else None,
    'reason': tried.reason,
  }


def table(report: aot.Compiled) -> str:
  """The report for people."""
  limit = report.hbm_bytes_per_chip
  total = report.bytes_per_chip['total']
  sizes = ', '.join(f'{k} {v}' for k, v in report.mesh.items() if v > 1)
  rows = [
    ('topology', f'{report.topology}, {report.chips} chips'),
    ('mesh', sizes or 'one device'),
    (
      'fits',
      f'{"yes" if report.fits else "NO"}: {_size(total)} of {_size(limit)} a '
      f'chip ({total / limit:.0%})',
    ),
  ]
  rows += [
    (f'  {kind}', _size(n))
    for kind, n in report.bytes_per_chip.items()
    if kind != 'total'
  ]
  rows.append(('images per step', f'{report.images:,}'))
  rows.append(('model FLOPs per step', f'{report.flops:.4g}'))
  if report.executed_flops is not None:
    again = report.executed_flops / report.flops if report.flops else 0.0
    rows.append(('executed', f'{report.executed_flops:.4g} ({again:.2f} x)'))
  for kind, of in report.collectives.items():
    rows.append(
      (kind, f'{of["count"]:,} a step, {_size(of["bytes"])} a device')
    )
  if report.estimated_step_seconds is not None:
    low, high = report.step_seconds_range
    rows += [
      (
        'estimated step',
        f'{report.estimated_step_seconds:.4g} s ({low:.4g} if all '
        f'communication hid, {high:.4g} by the compiler alone)',
      ),
      ('images per second', f'{report.images_per_second:,.1f}'),
      ('MFU', f'{report.mfu:.1%}'),
      ('exposed communication', f'{report.exposed_communication:.1%}'),
      ('cycles', _shares(report.cycles_by_kind)),
    ]
  rows.append(('compile', f'{report.compile_seconds:.0f} s on this machine'))
  lines = [f'{name:24s} {value}' for name, value in rows]
  return '\n'.join(lines + [f'note: {note}' for note in report.notes])


def too_large(report: aot.Compiled) -> str:
  """The reason for exit code 3, with the largest arrays."""
  lines = [
    f'rsfm: the step does not fit {report.topology}: '
    f'{_size(report.bytes_per_chip["total"])} of '
    f'{_size(report.hbm_bytes_per_chip)} a chip. Largest arrays of a device:'
  ]
  for array in report.largest:
    lines.append(f'  {_size(array.nbytes):>12s}  {array.what}  {array.name}')
  return '\n'.join(lines)


def search_table(tried: list[searching.Tried]) -> str:
  lines = [
    f'{"mesh x microbatches":36s} {"GiB":>7s} {"images/s":>10s} {"MFU":>6s}'
  ]
  for one in tried:
    report = one.report
    if report is None or not report.fits:
      lines.append(f'{one.candidate!s:36s} {one.reason}')
      continue
    rate = f'{one.images_per_second:,.1f}' if report.mfu else '-'
    mfu = f'{report.mfu:.1%}' if report.mfu else '-'
    total = report.bytes_per_chip['total'] / chips.GIB
    lines.append(f'{one.candidate!s:36s} {total:7.1f} {rate:>10s} {mfu:>6s}')
  return '\n'.join(lines)


def _size(nbytes: float) -> str:
  if nbytes < chips.GIB / 10:
    return f'{nbytes / 2**20:.2f} MiB'
  return f'{nbytes / chips.GIB:.2f} GiB'


def _shares(cycles: Any) -> str:
  total = sum(cycles.values()) or 1
  parts = [f'{kind} {n / total:.0%}' for kind, n in cycles.items()]
  return ', '.join(part for part in parts if not part.endswith(' 0%'))
