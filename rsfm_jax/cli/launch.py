"""Runs a verb on many hosts: the same command on each of them.

`rsfm launch WHERE -- VERB ...`. WHERE says how a host learns which process of
how many it runs: `--slurm` (inside srun), `--tpu` (a TPU slice), `--coordinator
HOST:PORT --processes N --process I` (plain hosts; or RSFM_COORDINATOR,
RSFM_PROCESSES, RSFM_PROCESS), or `--local N`, which starts N processes on this
machine's CPU. All meet first, and who is missing is named.
"""

import argparse
from collections.abc import Sequence
import os
import pathlib
import sys

from rsfm_jax.launch import clusters
from rsfm_jax.launch import distributed
from rsfm_jax.launch import rendezvous
from rsfm_jax.launch import watch

HELP = 'run a verb on many hosts, or as many processes of this one'
_EPILOG = """Exit codes: those of the verb; 4 stopped by SIGTERM, state saved;
5 a peer was lost or did not arrive. Start again after 4 or 5 to resume, on any
number of hosts."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  defaults = distributed.Patience()
  where = parser.add_argument_group('where').add_mutually_exclusive_group()
  where.add_argument(
    '--local', type=int, metavar='N', help='N processes here, on CPU'
  )
  where.add_argument('--slurm', action='store_true', help='a task of srun')
  where.add_argument('--tpu', action='store_true', help='a host of a TPU slice')
  where.add_argument(
    '--coordinator', metavar='HOST:PORT', help='where process 0 listens'
  )
  add = parser.add_argument
  add('--processes', type=int, help='how many; with --coordinator')
  add('--process', type=int, help='number of this one; with --coordinator')
  add(
    '--bind',
    metavar='HOST:PORT',
    help='what process 0 binds; with --coordinator; default: all interfaces',
  )
  add(
    '--local_devices',
    type=_numbers,
    metavar='I,J',
    help='GPUs of this process; with --coordinator; default: all',
  )
  add(
    '--devices_per_process',
    type=int,
    metavar='D',
    help='CPU devices of each process; with --local; default 1',
  )
  add(
    '--port',
    type=int,
    help='of the coordinator; with --slurm (default: from the number of the '
    f'job) or --tpu (default {distributed.PORT})',
  )
  add(
    '--logs',
    type=pathlib.Path,
    help='folder of process-<i>.log; default: hosts/ in the --workdir of the '
    'verb',
  )
  for name, what in (
    ('preflight', 'to wait for all processes to arrive'),
    ('initialization', 'for jax.distributed to connect them'),
    ('heartbeat', 'of silence, then a process counts as lost'),
    ('shutdown', 'to wait for the others at the end'),
  ):
    value = getattr(defaults, name)
    add(
      f'--{name}_seconds',
      type=type(value),
      default=value,
      help=f'{what} (default {value:g})',
    )
  add(
    '--grace_seconds',
    type=float,
    default=300.0,
    help='from SIGTERM to SIGKILL, time to save (default 300)',
  )
  add('verb', nargs=argparse.REMAINDER, help='-- and the verb to run')
  parser.epilog = _EPILOG


def run(args: argparse.Namespace) -> int:
  verb = args.verb[1:] if args.verb[:1] == ['--'] else args.verb
  if not verb or verb[0] == 'launch' or verb[0].startswith('-'):
    raise ValueError(
      'what shall be launched? For instance: rsfm launch --local 2 -- '
      'pretrain --config C --workdir W'
    )
  patience = distributed.Patience(
    preflight=args.preflight_seconds,
    initialization=args.initialization_seconds,
    heartbeat=args.heartbeat_seconds,
    shutdown=args.shutdown_seconds,
  )
  logs = _logs(args.logs, verb)
  _check_belongs(args)
  if args.local is None:
    spec = _spec(args, patience)
    return watch.run(
      [_command(spec, verb, logs)], grace_seconds=args.grace_seconds
    )
  devices = args.devices_per_process or 1
  with rendezvous.reserved_port() as port:
    specs = distributed.local(args.local, port=port, patience=patience)
    environ = {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': str(devices)}
    return watch.run(
      [
        _command(spec, verb, logs)._replace(
          heard=spec.process == 0, environ=environ
        )
        for spec in specs
      ],
      grace_seconds=args.grace_seconds,
    )


def _spec(
  args: argparse.Namespace, patience: distributed.Patience
) -> distributed.Spec:
  """This host's process, from wherever it is told."""
  if args.slurm:
    return clusters.slurm(os.environ, port=args.port, patience=patience)
  if args.tpu:
    return clusters.tpu(os.environ, port=args.port, patience=patience)
  if args.coordinator is None and 'RSFM_COORDINATOR' not in os.environ:
    hint = ''
    if 'SLURM_PROCID' in os.environ:
      hint = ' This looks like a task of Slurm: --slurm.'
    elif 'TPU_WORKER_ID' in os.environ:
      hint = ' This looks like a host of a TPU slice: --tpu.'
    raise ValueError(
      'say where: --local N, --slurm, --tpu or --coordinator HOST:PORT '
      f'--processes N --process I.{hint}'
    )
  return clusters.plain(
    os.environ,
    coordinator=args.coordinator,
    processes=args.processes,
    process=args.process,
    local_devices=args.local_devices,
    bind=args.bind,
    patience=patience,
  )


def _check_belongs(args: argparse.Namespace) -> None:
  """Options that would silently do nothing are errors."""
  plain = args.local is None and not args.slurm and not args.tpu
  for name, belongs in (
    ('devices_per_process', args.local is not None),
    ('port', args.slurm or args.tpu),
    ('processes', plain),
    ('process', plain),
    ('local_devices', plain),
    ('bind', plain),
  ):
    if getattr(args, name) is not None and not belongs:
      raise ValueError(f'--{name} does not go with the place; see --help.')


def _command(
  spec: distributed.Spec, verb: Sequence[str], logs: pathlib.Path | None
) -> watch.Command:
  module = [sys.executable, '-m', 'rsfm_jax.cli.worker']
  return watch.Command(
    [*module, spec.to_json(), *verb],
    process=spec.process,
    log=logs and logs / f'process-{spec.process}.log',
  )


def _logs(given: pathlib.Path | None, verb: Sequence[str]):
  """The folder of logs; None when the verb has no workdir on a disk."""
  parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
  parser.add_argument('--workdir')
  workdir = parser.parse_known_args(verb)[0].workdir
  if given is not None or not workdir or '://' in workdir:
    return given
  return pathlib.Path(workdir) / 'hosts'


def _numbers(text: str) -> tuple[int, ...]:
  return tuple(int(part) for part in text.split(','))
