"""Where a process learns who it is: options, Slurm or a TPU slice.

Plain hosts are told, by options or `RSFM_*` variables; Slurm and GKE set
variables; a TPU VM of Compute Engine asks its metadata server. What the names
mean was read in `jax._src.clusters` of JAX 0.10.2.
"""

from collections.abc import Callable, Mapping
import os
import re
import urllib.error
import urllib.request

from rsfm_jax.launch import distributed

_TPU_METADATA = 'http://{host}/computeMetadata/v1/instance/attributes/{key}'


def plain(
  environ: Mapping[str, str],
  *,
  coordinator: str | None = None,
  processes: int | None = None,
  process: int | None = None,
  local_devices: tuple[int, ...] | None = None,
  bind: str | None = None,
  patience: distributed.Patience,
) -> distributed.Spec:
  """Hosts that were told: by arguments, else by `RSFM_*` variables.

  Raises:
    ValueError: something was not told; names option and variable.
  """

  def told(name, value):
    if value is not None:
      return value
    try:
      return environ[f'RSFM_{name.upper()}']
    except KeyError:
      raise ValueError(
        f'set --{name} or RSFM_{name.upper()}: plain hosts need --coordinator '
        'HOST:PORT, --processes N and --process I.'
      ) from None

  return distributed.Spec(
    told('coordinator', coordinator),
    _number('--processes', told('processes', processes)),
    _number('--process', told('process', process)),
    local_devices=local_devices,
    bind=bind,
    patience=patience,
  )


def slurm(
  environ: Mapping[str, str],
  *,
  port: int | None = None,
  patience: distributed.Patience,
) -> distributed.Spec:
  """A task of a Slurm step (`srun`), from the variables that Slurm sets.

  The first node listens, on `port` or on one that follows from the number of
  the job, so that two jobs on a node do not meet. With one task a node, it
  takes all GPUs it sees; with more, each takes the one of its local number,
  unless Slurm shows it a single one anyway.

  Raises:
    ValueError: not inside a step.
  """
  needed = ('JOB_ID', 'STEP_NODELIST', 'NTASKS', 'PROCID', 'LOCALID')
  if missing := [n for n in needed if f'SLURM_{n}' not in environ]:
    raise ValueError(
      f'--slurm: SLURM_{missing[0]} is not set; run inside a step, as in '
      '`srun rsfm launch --slurm -- pretrain ...`.'
    )
  job, nodes, tasks, task, place = (environ[f'SLURM_{n}'] for n in needed)
  if port is None:
    port = 61440 + _number('SLURM_JOB_ID', job) % 4096
  alone = environ.get('SLURM_STEP_NUM_NODES') == tasks
  visible = environ.get('CUDA_VISIBLE_DEVICES', '').split(',')
  own = None if alone or visible[0] and len(visible) == 1 else (int(place),)
  return distributed.Spec(
    f'{first_node(nodes)}:{port}',
    _number('SLURM_NTASKS', tasks),
    _number('SLURM_PROCID', task),
    local_devices=own,
    patience=patience,
  )


def first_node(nodes: str) -> str:
  """`'n[007-015,020],m1'` -> `'n007'`: the first name of a Slurm node list."""
  found = re.match(r'(?:[^,\[]|\[[^\]]*\])+', nodes)
  if not found:
    raise ValueError(f'SLURM_STEP_NODELIST={nodes!r} names no node.')
  return re.sub(r'\[(\d+)[^\]]*\]', r'\1', found[0])


def tpu(
  environ: Mapping[str, str],
  *,
  port: int | None = None,
  patience: distributed.Patience,
  ask: Callable[[str], str] | None = None,
) -> distributed.Spec:
  """A host of a TPU slice, or of several slices.

  GKE tells in variables, a TPU VM of Compute Engine by its metadata server;
  several slices are numbered by `MEGASCALE_*` (variables, or lines of the
  metadata entry `tpu-env`).

  Args:
    environ: variables of this process.
    port: of the coordinator, `distributed.PORT` unless given.
    patience: see there.
    ask: from the key of a metadata entry to its text, for tests.

  Raises:
    ValueError: this is no host of a TPU slice.
  """
  ask = _metadata if ask is None else ask
  names = environ.get('TPU_PROCESS_ADDRESSES')
  names = names or environ.get('TPU_WORKER_HOSTNAMES')
  # Hostnames alone may be our own (`topologies.load_quietly`).
  if names and 'TPU_WORKER_ID' in environ:
    slices = environ
    hosts = [name.split(':')[0] for name in names.split(',')]
    number = _number('TPU_WORKER_ID', environ['TPU_WORKER_ID'])
  else:
    slices = _tpu_env(ask('tpu-env')) | dict(environ)
    # Either names, or name:number:address of each.
    endpoints = ask('worker-network-endpoints').split(',')
    hosts = [endpoint.split(':')[-1] for endpoint in endpoints]
    number = _number('agent-worker-number', ask('agent-worker-number'))
  first = slices.get('MEGASCALE_COORDINATOR_ADDRESS') or hosts[0]
  count = int(slices.get('MEGASCALE_NUM_SLICES') or 1)
  slice_number = int(slices.get('MEGASCALE_SLICE_ID') or 0)
  return distributed.Spec(
    f'{first.split(":")[0]}:{distributed.PORT if port is None else port}',
    len(hosts) * count,
    len(hosts) * slice_number + number,
    patience=patience,
  )


def _tpu_env(text: str) -> dict[str, str]:
  """Lines such as `MEGASCALE_NUM_SLICES: '2'`."""
  pairs = (line.partition(':') for line in text.splitlines())
  return {key.strip(): value.strip().strip("'") for key, _, value in pairs}


def _metadata(key: str) -> str:
  host = os.environ.get('GCE_METADATA_IP', 'metadata.google.internal')
  request = urllib.request.Request(
    _TPU_METADATA.format(host=host, key=key),
    headers={'Metadata-Flavor': 'Google'},
  )
  try:
    with urllib.request.urlopen(request, timeout=10) as answer:
      return answer.read().decode().strip()
  except (urllib.error.URLError, OSError) as error:
    raise ValueError(
      f'--tpu: this is no TPU host: TPU_WORKER_ID is not set, and the metadata '
      f'server has no {key!r} ({error}).'
    ) from error


def _number(name: str, value: int | str) -> int:
  try:
    return int(value)
  except ValueError:
    raise ValueError(f'{name}={value!r} must be a number.') from None
