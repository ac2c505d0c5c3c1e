"""One process of a launched run: meets the others, then runs the verb.

`rsfm launch` starts it as `python -m rsfm_jax.cli.worker SPEC VERB ...` and
watches over it.
"""

import os
import platform
import sys
import time
import traceback

import jax

import rsfm_jax
from rsfm_jax.cli import main
from rsfm_jax.launch import distributed
from rsfm_jax.launch import watch

# Beyond the heartbeat, for the coordinator to spread the news.
_NEWS_SECONDS = 15


def run(argv: list[str]) -> int:
  """Runs the verb among its peers.

  Args:
    argv: a `distributed.Spec` as JSON, then the verb and its arguments.

  Returns:
    The exit code of the verb; 2 when processes do not fit together, 5 when
    some did not arrive.
  """
  spec, verb = distributed.from_json(argv[0]), argv[1:]
  facts = {
    'rsfm_jax': rsfm_jax.__version__,
    'jax': jax.__version__,
    'python': '.'.join(platform.python_version_tuple()[:2]),
    'command': ' '.join(verb),
  }
  try:
    distributed.start(spec, facts=facts)
  except (ValueError, OSError) as error:
    print(f'rsfm: {error}', file=sys.stderr)
    late = isinstance(error, TimeoutError)
    return watch.EXIT_PEER_LOST if late else main.EXIT_BAD_INPUT
  code = main.main(verb)
  if code == watch.EXIT_PEER_LOST and spec.processes > 1:
    # A collective noticed first. The coordinator will know which peer it was,
    # and end this process with its name.
    sys.stderr.flush()
    time.sleep(spec.patience.heartbeat + _NEWS_SECONDS)
  return code


if __name__ == '__main__':
  watch.die_with_parent()
  try:
    code = run(sys.argv[1:])
  except SystemExit as stopped:  # Argparse: usage.
    code = stopped.code if isinstance(stopped.code, int) else 2
  except BaseException:
    traceback.print_exc()
    code = 1
  if code in (0, watch.EXIT_PREEMPTED):
    sys.exit(code)  # All end here, and JAX waits for all at exit.
  # The others do not end here: they would be waited for in vain.
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
