"""Who the processes of a run are, and how they start as one.

`clusters` finds the `Spec` of this process; `start` joins all of them. Nothing
may touch a device before that, not even `jax.process_index`.
"""

from collections.abc import Mapping
import dataclasses
import json

import jax

from rsfm_jax.launch import rendezvous

# What JAX itself uses on TPU; any port that is free on the first host serves.
PORT = 8482


@dataclasses.dataclass(frozen=True)
class Patience:
  """How long to wait for each other, in seconds.

  Attributes:
    preflight: for all processes to arrive.
    initialization: for `jax.distributed` to connect them after that.
    heartbeat: after that much silence a process counts as lost, and the
      others stop.
    shutdown: for the others to end too.
  """

  preflight: float = 300.0
  initialization: int = 120
  heartbeat: int = 40
  shutdown: int = 120

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value <= 0:
        raise ValueError(f'--{field.name}_seconds={value} must be positive.')


@dataclasses.dataclass(frozen=True)
class Spec:
  """One process of a run, and where it meets the others.

  Attributes:
    coordinator: `host:port`; process 0 listens there.
    processes: how many there are.
    process: the number of this one.
    local_devices: numbers of the GPUs that are this process's; None for all
      that it sees.
    bind: `host:port` that process 0 binds, for instance a
      `rendezvous.reserved_port`; None for the coordinator's port on all
      interfaces.
    patience: see there.
  """

  coordinator: str
  processes: int
  process: int
  local_devices: tuple[int, ...] | None = None
  bind: str | None = None
  patience: Patience = Patience()

  def __post_init__(self):
    host, _, port = self.coordinator.rpartition(':')
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
      raise ValueError(
        f'--coordinator={self.coordinator!r} must be HOST:PORT, for instance '
        f'10.0.0.1:{PORT}.'
      )
    if self.processes < 1 or not 0 <= self.process < self.processes:
      raise ValueError(
        f'--process={self.process} must be one of 0 to --processes - 1, and '
        f'--processes={self.processes} at least 1.'
      )

  def to_json(self) -> str:
    return json.dumps(dataclasses.asdict(self))


def from_json(text: str) -> Spec:
  """The inverse of `Spec.to_json`."""
  fields = json.loads(text)
  fields['patience'] = Patience(**fields['patience'])
  if fields['local_devices'] is not None:
    fields['local_devices'] = tuple(fields['local_devices'])
  return Spec(**fields)


def start(spec: Spec, *, facts: Mapping[str, str]) -> None:
  """Meets the other processes, then starts `jax.distributed`.

  A single process needs neither and starts nothing.

  Args:
    spec: of this process.
    facts: what must be the same on all processes, such as versions.

  Raises:
    TimeoutError: some did not arrive; names them.
    ValueError: some do not fit; names them.
    OSError: the port is taken.
  """
  if spec.processes == 1:
    return
  rendezvous.meet(
    coordinator=spec.coordinator,
    bind=spec.bind,
    processes=spec.processes,
    process=spec.process,
    seconds=spec.patience.preflight,
    facts=facts,
  )
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.distributed.initialize(
    coordinator_address=spec.coordinator,
    num_processes=spec.processes,
    process_id=spec.process,
    local_device_ids=spec.local_devices,
    # Otherwise JAX asks Slurm about devices again, and gives a lone task of a
    # node its first GPU only.
    cluster_detection_method='deactivate',
    coordinator_bind_address=spec.bind,
    initialization_timeout=spec.patience.initialization,
    heartbeat_timeout_seconds=spec.patience.heartbeat,
    shutdown_timeout_seconds=spec.patience.shutdown,
  )


def local(processes: int, *, port: int, patience: Patience) -> list[Spec]:
  """All processes of a run on this machine, on loopback."""
  if processes < 1:
    raise ValueError(f'--local={processes} must be at least 1.')
  address = f'127.0.0.1:{port}'
  return [
    Spec(address, processes, process, bind=address, patience=patience)
    for process in range(processes)
  ]
