"""Workers on other machines: a dask cluster as the executor of a pack.

What starts the workers, Slurm, Kubernetes or a shell, is not our business: see
docs/packing.md. A scheduler gives the tasks of a worker that died to another
one, up to three times a task.
"""

from collections.abc import Iterator
from concurrent import futures
import contextlib
import importlib
import pkgutil
from typing import Any

from rsfm_jax.core import log
from rsfm_jax.data import tasks

_CONNECT_SECONDS = 10


@contextlib.contextmanager
def connect(address: str) -> Iterator[futures.Executor]:
  """An executor whose workers are those of a running dask scheduler.

  They must see the scenes and the store under the same paths as this process
  and have the same version of this package. More may join at any time.

  Args:
    address: of the scheduler, e.g. 'tcp://10.0.0.1:8786'.

  Raises:
    RuntimeError: dask is not installed here.
    OSError: no scheduler answers there.
    ValueError: a worker lacks this package or has it in another version.
  """
  distributed = _library()
  try:
    client = distributed.Client(
      address, timeout=_CONNECT_SECONDS, set_as_default=False
    )
  except (OSError, ValueError, TypeError) as error:
    raise OSError(
      f'--scheduler {address}: no dask scheduler answers there within '
      f'{_CONNECT_SECONDS} s ({error}). Start one with `dask scheduler`, and '
      'workers with `dask worker ADDRESS`, or correct the address.'
    ) from error
  with client:
    check_workers(client, address)
    yield client.get_executor(pure=False)


def check_workers(client: Any, address: str) -> None:
  """Looks at every worker that is there already; tasks look again.

  Raises:
    ValueError: names the workers that cannot do the work, and why.
  """
  # By name: what a worker without the package could not even unpickle.
  found = client.run(
    pkgutil.resolve_name, 'rsfm_jax:__version__', on_error='return'
  )
  if not found:
    log.warning('%s has no workers yet; the pack waits for some.', address)
    return
  wanted = tasks.versions()['rsfm_jax']
  wrong = [
    f'{worker} has {have if isinstance(have, str) else f"none ({have})"}'
    for worker, have in sorted(found.items())
    if have != wanted
  ]
  if wrong:
    raise ValueError(
      f'--scheduler {address}: rsfm_jax {wanted} is needed on every worker, '
      f'but {"; ".join(wrong)}. Install it where they run and restart them.'
    )


def _library() -> Any:
  # Only a pack on a cluster needs dask: it is an extra, and importing it costs
  # everybody else 0.4 s. So neither happens before it is asked for.
  try:
    return importlib.import_module('distributed')
  except ImportError as error:
    raise RuntimeError(
      f'--scheduler needs dask: pip install "rsfm-jax[scale]" ({error}).'
    ) from error
