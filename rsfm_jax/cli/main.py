"""`rsfm VERB ...`: one verb, one short file; errors are one line."""

import argparse
import os
import sys
from types import ModuleType

from absl import flags

import rsfm_jax
from rsfm_jax.cli import assess
from rsfm_jax.cli import bench
from rsfm_jax.cli import compile as compile_verb
from rsfm_jax.cli import data_bench
from rsfm_jax.cli import data_inspect
from rsfm_jax.cli import data_pack
from rsfm_jax.cli import data_stats
from rsfm_jax.cli import data_synthesize
from rsfm_jax.cli import data_text_embeddings
from rsfm_jax.cli import demo
from rsfm_jax.cli import evaluate
from rsfm_jax.cli import export
from rsfm_jax.cli import finetune
from rsfm_jax.cli import import_weights
from rsfm_jax.cli import inspect
from rsfm_jax.cli import launch
from rsfm_jax.cli import predict
from rsfm_jax.cli import pretrain
from rsfm_jax.cli import prune
from rsfm_jax.cli import report
from rsfm_jax.cli import sweep
from rsfm_jax.core import log
from rsfm_jax.core import memory
from rsfm_jax.launch import topologies
from rsfm_jax.launch import watch
from rsfm_jax.train import loop

VERBS: dict[str, ModuleType] = {
  'demo': demo,
  'pretrain': pretrain,
  'import': import_weights,
  'finetune': finetune,
  'assess': assess,
  'prune': prune,
  'export': export,
  'evaluate': evaluate,
  'predict': predict,
  'sweep': sweep,
  'report': report,
  'inspect': inspect,
  'compile': compile_verb,
  'launch': launch,
  'bench': bench,
}
DATA_VERBS: dict[str, ModuleType] = {
  'pack': data_pack,
  'stats': data_stats,
  'inspect': data_inspect,
  'synthesize': data_synthesize,
  'bench': data_bench,
  'text-embeddings': data_text_embeddings,
}

EXIT_BAD_INPUT = 2


def parser() -> argparse.ArgumentParser:
  """All verbs with their options."""
  top = argparse.ArgumentParser(prog='rsfm', description=rsfm_jax.__doc__)
  top.add_argument('--version', action='version', version=rsfm_jax.__version__)
  verbs = top.add_subparsers(required=True, metavar='VERB')
  for name, module in VERBS.items():
    _add(verbs, name, module)
  data = verbs.add_parser('data', help='scenes to stores of samples')
  data_verbs = data.add_subparsers(required=True, metavar='VERB')
  for name, module in DATA_VERBS.items():
    _add(data_verbs, name, module)
  return top


def main(argv: list[str] | None = None) -> int:
  """Runs a verb.

  Returns:
    0; 2 for bad usage or bad input (one line on standard error); 4 for a run
    that SIGTERM stopped after saving; 5 for one that lost a peer. Verbs add
    their own: 3 (`compile`), 6 (`evaluate --certificate`).
  """
  topologies.load_quietly()
  memory.keep_freed_memory()
  argv = sys.argv[1:] if argv is None else argv
  args, rest = parser().parse_known_args(argv)
  if rest and not getattr(args, 'takes_overrides', False):
    parser().error(f'unrecognized arguments: {" ".join(rest)}')
  args.overrides = rest
  log.setup()
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(['rsfm'])  # Grain's worker processes read absl flags.
  try:
    return args.run(args)
  except loop.Preempted as stopped:
    print(f'rsfm: {stopped}', file=sys.stderr)
    return stopped.exit_code
  except (ValueError, OSError, RuntimeError) as error:
    if os.environ.get('RSFM_TRACEBACK') == '1':
      raise
    print(f'rsfm: {error}', file=sys.stderr)
    return watch.exit_code(error, default=EXIT_BAD_INPUT)
  except KeyboardInterrupt:
    print('rsfm: interrupted', file=sys.stderr)
    return 130


def _add(verbs, name: str, module: ModuleType) -> None:
  verb = verbs.add_parser(
    name,
    help=module.HELP,
    description=module.__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  module.add_arguments(verb)
  verb.set_defaults(
    run=module.run,
    takes_overrides=getattr(module, 'TAKES_OVERRIDES', False),
  )
