"""Runs the benchmarks of a checkout, each in a process of its own.

Without a NAME it lists them. `--json FILE` appends their rows with date and
hardware, one JSON object a line. Timings mean something on a machine that does
nothing else; `benchmarks/RESULTS.md` holds those that were taken so.
"""

import argparse
import ast
from collections.abc import Mapping, Sequence
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
from typing import Any

import jax

import rsfm_jax
from rsfm_jax.core import choices
from rsfm_jax.core import files
from rsfm_jax.core import memory
from rsfm_jax.launch import topologies

HELP = 'list the benchmarks of a checkout, or run some of them'
ROOT = pathlib.Path(rsfm_jax.__file__).resolve().parents[1]
_ALL = 'all'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    'names',
    nargs='*',
    metavar='NAME',
    help=f'{_ALL!r}, or some of those that are listed without a NAME',
  )
  parser.add_argument(
    '--quick', action='store_true', help='small and short; shows that it works'
  )
  parser.add_argument(
    '--json',
    metavar='FILE',
    help='append rows there, with date and hardware, one JSON object a line',
  )


def run(args: argparse.Namespace) -> int:
  """Lists the benchmarks, or runs those that are named.

  Raises:
    ValueError: no checkout, or no benchmark of that name.
    OSError: the file of --json cannot be written.
    RuntimeError: a benchmark failed; the others have run.
  """
  folder = ROOT / 'benchmarks'
  known = benchmarks(folder)
  for name in args.names:
    choices.check(name, [*known, _ALL], key='NAME')
  if not args.names:
    for name, title in known.items():
      print(f'{name:12s} {title}')
    return 0
  names = list(known) if _ALL in args.names else args.names
  if args.json:  # An hour of measuring must not end in a wrong path.
    pathlib.Path(args.json).parent.mkdir(parents=True, exist_ok=True)
    with open(args.json, 'a'):
      pass
  failed = []
  for name in names:
    print(f'\n== {name}: {known[name]}', flush=True)
    code, report = _measured(folder / f'{name}.py', args.quick)
    if code or report is None:
      failed.append(name)
    if args.json and report is not None:
      with open(args.json, 'a') as file:
        file.writelines(json.dumps(row) + '\n' for row in flat(report))
  if failed:
    raise RuntimeError(
      f'{len(failed)} of {len(names)} benchmarks failed: {", ".join(failed)}; '
      'what they said stands above.'
    )
  return 0


def benchmarks(folder: pathlib.Path) -> dict[str, str]:
  """{name: first line of its docstring}, of a checkout.

  Raises:
    ValueError: there is no checkout around this package.
  """
  programs = sorted(folder.glob('*.py'))
  # Another package may have brought a folder of this name.
  if not programs or not (folder.parent / 'pyproject.toml').is_file():
    raise ValueError(
      f'{folder} holds no benchmarks: they are part of the repository, not of '
      'the installed package. Clone it and run `rsfm bench` there '
      '(pip install --editable .).'
    )
  titles = {}
  for path in programs:
    words = ast.get_docstring(ast.parse(path.read_text())) or path.stem
    titles[path.stem] = words.splitlines()[0]
  return titles


def _measured(
  program: pathlib.Path, quick: bool
) -> tuple[int, dict[str, Any] | None]:
  """Exit code and report of a benchmark; its table goes to stdout."""
  with tempfile.TemporaryDirectory() as folder:
    report = pathlib.Path(folder) / 'report.json'
    command = [sys.executable, str(program), '--json', str(report)]
    if quick:
      command.append('--quick')
    done = subprocess.run(command, env=environ(), check=False)
    found = files.read_json(report) if report.is_file() else None
    return done.returncode, found


def flat(report: Mapping[str, Any]) -> list[dict[str, Any]]:
  """A report as rows that each tell everything.

  Args:
    report: as `finish` wrote it.
  """
  about = {k: v for k, v in report.items() if k not in ('rows', 'hardware')}
  return [about | report['hardware'] | row for row in report['rows']]


# What the programs of `benchmarks/` share.


def environ() -> dict[str, str]:
  """For child processes: this package, wherever they start."""
  paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
  return os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, paths))}


def options(doc: str) -> argparse.ArgumentParser:
  """A parser with what every benchmark takes, in a process that is set up.

  JAX stays asleep, so that a benchmark can still choose its devices.
  """
  topologies.load_quietly()
  memory.keep_freed_memory()  # As `rsfm` does.
  parser = argparse.ArgumentParser(
    description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--quick', action='store_true', help='small and short; shows that it works'
  )
  parser.add_argument(
    '--json', metavar='FILE', help='write the rows there, with the hardware'
  )
  return parser


def finish(
  args: argparse.Namespace, name: str, rows: Sequence[Mapping[str, Any]]
) -> None:
  """Writes what `--json` asks for.

  Args:
    args: of a parser made by `options`.
    name: of the benchmark.
    rows: JSON objects; what a row says beats what is known of the hardware.
  """
  if args.json:
    now = datetime.datetime.now(datetime.UTC)
    report = {
      'benchmark': name,
      'date': now.isoformat(timespec='seconds'),
      'quick': args.quick,
      'hardware': hardware(),
      'rows': list(rows),
    }
    files.write_json(args.json, report)


def hardware() -> dict[str, Any]:
  """What the figures depend on; starts JAX."""
  devices = jax.devices()
  return {
    'platform': devices[0].platform,
    'device': devices[0].device_kind,
    'devices': len(devices),
    'machine': platform.machine(),
    'cores': os.cpu_count(),
    'python': platform.python_version(),
    'jax': jax.__version__,
  }


def print_table(
  rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]
) -> None:
  """Prints rows as a Markdown table.

  Args:
    rows: what to show.
    columns: {heading: what stands in it, as for `str.format`}; a value that
      is None, or not there, shows as a dash.
  """
  lines = [list(columns), ['---'] * len(columns)]
  lines += [[_cell(text, row) for text in columns.values()] for row in rows]
  for line in lines:
    print(f'| {" | ".join(line)} |')
  sys.stdout.flush()


def _cell(text: str, row: Mapping[str, Any]) -> str:
  try:
    return text.format(**row)
  except (KeyError, TypeError):  # None has no format.
    return '-'
