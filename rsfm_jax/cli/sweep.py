"""Probes many models on many data sets under many protocols, from one config.

A grid over checkpoints, what is made of them, labelled stores, protocols,
shares of the labels and seeds. Every job leaves one row in the sweep's folder;
run again, it does what is missing or failed. `--shard i/n` is for job arrays
(i from 0) and `--jobs n` for processes here; shards may share a folder.
"""

import argparse
from collections.abc import Sequence
import json
import pathlib
import re
import subprocess
import sys

from rsfm_jax.cli import config as configs
from rsfm_jax.cli import sweep_grid
from rsfm_jax.cli import sweep_jobs
from rsfm_jax.cli import sweep_tables
from rsfm_jax.core import files
from rsfm_jax.core import log
from rsfm_jax.evaluate import rows as rows_lib
from rsfm_jax.evaluate import sweep_rows
from rsfm_jax.plots import tables

HELP = 'checkpoints x data sets x protocols x labels x seeds, as one table'
TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--config', required=True, help='of configs/sweep')
  add('--out', help='folder; default: workdir/sweep/NAME of the config')
  add(
    '--shard',
    type=_piece,
    default=sweep_rows.Piece(0, 1),
    metavar='I/N',
    help='only this piece of the jobs, I from 0',
  )
  add('--jobs', type=int, default=1, metavar='N', help='processes here')
  add(
    '--dry_run',
    action='store_true',
    help='list the jobs and what they would cost; write nothing',
  )
  add(
    '--tables',
    choices=('write', 'skip'),
    default='write',
    help='skip: leave that to another shard, or to a run afterwards',
  )
  parser.epilog = 'Override keys by --config.section.key=value.'


def run(args: argparse.Namespace) -> int:
  if args.jobs < 1:
    raise ValueError(f'--jobs {args.jobs} must be at least 1.')
  config = configs.load(args.config, args.overrides)
  grid = sweep_grid.grid(config)
  out = pathlib.Path(args.out or f'workdir/sweep/{config.name}')
  cache = pathlib.Path(grid.features.cache or out / 'features')
  if args.jobs > 1 and not args.dry_run:
    _in_processes(args, grid, out, cache)
  else:
    planned = sweep_jobs.plan(grid, args.shard, _found(out), cache)
    if args.dry_run:
      print(_costs(planned))
      return 0
    path = args.shard.file(out)
    sweep_jobs.run(
      planned, grid, cache, keep=lambda r: rows_lib.append(path, [r])
    )
  if args.tables == 'write':
    files.write_json(
      out / 'config.json', json.loads(config.to_json_best_effort())
    )
    _tables(grid, out, cache, config.name)
  return 0


def _piece(text: str) -> sweep_rows.Piece:
  found = re.fullmatch(r'(\d+)/(\d+)', text)
  if not found or int(found[1]) >= int(found[2]):
    raise argparse.ArgumentTypeError(
      f'{text!r} must be I/N with 0 <= I < N, such as 0/8.'
    )
  return sweep_rows.Piece(int(found[1]), int(found[2]))


def _found(out: pathlib.Path) -> sweep_rows.Found:
  return sweep_rows.Found(sweep_rows.read(out))


def _in_processes(args, grid, out: pathlib.Path, cache: pathlib.Path) -> None:
  """Every process does a piece of this shard's jobs."""
  pieces = args.shard.parts(args.jobs)
  started = [
    subprocess.Popen(
      [
        *(sys.executable, '-m', 'rsfm_jax', 'sweep', '--config', args.config),
        *('--out', str(out), '--tables', 'skip'),
        *('--shard', f'{piece.index}/{piece.count}'),
        *args.overrides,
      ]
    )
    for piece in pieces
  ]
  try:
    codes = [process.wait() for process in started]
  except BaseException:
    for process in started:
      process.terminate()
    raise
  for piece, code in zip(pieces, codes, strict=True):
    if code:
      _mourn(grid, piece, out, cache, f'its process ended with code {code}')


def _mourn(grid, piece, out: pathlib.Path, cache: pathlib.Path, why) -> None:
  """Rows for the jobs that a process left without one when it died."""
  found = _found(out)
  lost = [
    sweep_rows.Result(job, None, why, part.key)
    for part in sweep_jobs.plan(grid, piece, found, cache)
    for job in part.pending
    if found.of(job, part.key) is None
  ]
  log.warning('%d jobs have no row: %s', len(lost), why)
  rows_lib.append(piece.file(out), lost)


def _tables(grid, out: pathlib.Path, cache: pathlib.Path, name: str) -> None:
  """Of all shards as far as they are; prints the Markdown and the paths."""
  found = _found(out)
  planned = sweep_jobs.plan(grid, sweep_rows.Piece(0, 1), found, cache)
  results = [
    found.of(job, part.key) for part in planned for job in part.group.jobs
  ]
  text = sweep_tables.write(
    out,
    [r for r in results if r is not None],
    name=name,
    jobs=len(results),
    resamples=grid.resamples,
  )
  print(text)
  for file in sweep_tables.FILES:
    print((out / file).resolve())


def _costs(planned: Sequence[sweep_jobs.Planned]) -> str:
  """One line a job; a group's first pending one encodes for all of them."""
  lines = [['job', 'state', 'features', 'images to encode', 'fits']]
  images = fits = hits = pending = count = 0
  for part in planned:
    left = part.to_encode
    hits += part.cached
    for job in part.group.jobs:
      count += 1
      due = job in part.pending
      state = ('cannot run' if part.error else 'to do') if due else 'done'
      features = 'cached' if part.cached else 'to encode'
      mine = job.fits if due and not part.error else 0
      lines.append(
        [str(job), state, part.error or features, str(left), str(mine)]
      )
      if due:
        images, fits, left = images + left, fits + mine, 0
        pending += 1
  total = (
    f'{count} jobs, {pending} to do; {images} images to encode, {hits} of '
    f'{len(planned)} sets of features cached, {fits} fits.'
  )
  return tables.markdown_of(lines) + total
