"""Compiles a train step for accelerators that are not there, and reports.

The report says whether the step fits, what it keeps in memory, what it
exchanges, and how long the compiler's own schedule makes it.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import math
import pathlib
import tempfile
import threading
import time
from typing import Any, Literal, NamedTuple

import jax

from rsfm_jax.core import progress
from rsfm_jax.core import trees
from rsfm_jax.launch import estimate
from rsfm_jax.launch import hlo
from rsfm_jax.launch import memory
from rsfm_jax.launch import topologies

_NEVER = 1e9
_HELPS = (
  'more microbatches (train.accumulate), a smaller batch, more recomputation '
  '(model.remat) or more chips need less'
)


class Step(NamedTuple):
  """What is to be compiled.

  Attributes:
    step_fn: jitted, donates its first argument.
    state: abstract, with shardings; `params` and `opt` are told apart.
    batch: abstract, with shardings.
    rest: further abstract arguments, such as the key.
    mesh: over the topology's devices.
    images: per step.
    flops: model FLOPs per step, forward and backward; what recomputation adds
      is not counted.
  """

  step_fn: Callable[..., Any]
  state: trees.Tree
  batch: trees.Tree
  rest: tuple[Any, ...]
  mesh: jax.sharding.Mesh
  images: int
  flops: int


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What compiling told. Bytes are of one chip, FLOPs and images of all.

  Attributes:
    topology: as `topologies.parse` takes it.
    chips: how many.
    mesh: sizes of its axes.
    fits: the step can be loaded.
    bytes_per_chip: by kind; see `memory.of_program`. `total` adds them up.
    hbm_bytes_per_chip: what a program may use.
    flops: model FLOPs per step.
    executed_flops: of matrix products, recomputation included; None where
      there is no program or no schedule.
    images: per step.
    estimated_step_seconds: hybrid pricing; None if it does not fit, or on a
      GPU.
    step_seconds_range: (if all communication were hidden, by the compiler's
      cycles alone).
    images_per_second: by the estimate.
    mfu: model FLOPs over the peak of all chips, by the estimate.
    exposed_communication: share of the step that waits for collectives.
    cycles_by_kind: of one device.
    collectives: `{kind: {count, bytes}}` of one device and step.
    largest: the three largest arrays of a chip, if it does not fit.
    notes: what would help, and what the figures cannot see.
    compile_seconds: of this machine.
  """

  topology: str
  chips: int
  mesh: Mapping[str, int]
  fits: bool
  bytes_per_chip: Mapping[str, int]
  hbm_bytes_per_chip: int
  flops: int
  images: int
  executed_flops: int | None = None
  estimated_step_seconds: float | None = None
  step_seconds_range: tuple[float, float] | None = None
  images_per_second: float | None = None
  mfu: float | None = None
  exposed_communication: float | None = None
  cycles_by_kind: Mapping[str, int] = dataclasses.field(default_factory=dict)
  collectives: Mapping[str, Mapping[str, int]] = dataclasses.field(
    default_factory=dict
  )
  largest: tuple[memory.Allocation, ...] = ()
  notes: tuple[str, ...] = ()
  compile_seconds: float = 0.0

  def to_json(self) -> dict[str, Any]:
    found = dataclasses.asdict(self)
    found['largest'] = [a._asdict() for a in self.largest]
    return found


def compile_step(
  step: Step,
  topology: topologies.Topology,
  *,
  when_too_large: Literal['explain', 'stop'] = 'explain',
) -> Compiled:
  """Compiles a step for a topology and says what came out.

  A state that is too large by itself is not compiled. Compiling twice gives
  the same report but for `compile_seconds`.

  Args:
    step: planned on the topology's devices.
    topology: where it shall run.
    when_too_large: `explain` compiles once more to find the largest arrays,
      `stop` does not.

  Raises:
    RuntimeError: the compiler refuses for another reason than HBM.
  """
  arguments = memory.of_arguments(step.state, step.batch)
  report = _Report(step, topology, arguments)
  if report.limit < sum(arguments.values()):
    return report.state_too_large()
  start = time.monotonic()
  with _ticking(f'compile for {topology.name}'), uncached():
    lowered = step.step_fn.lower(step.state, step.batch, *step.rest)
    refusal, buffers = None, None
    try:
      compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
      refusal = str(error)
      if 'RESOURCE_EXHAUSTED' not in refusal or 'hbm' not in refusal.lower():
        raise RuntimeError(
          f'the compiler for {topology.name} refuses: {refusal[:1000]}'
        ) from error
      if when_too_large == 'explain':
        buffers = _buffers(lowered)
  report.seconds = time.monotonic() - start
  if refusal is not None:
    return report.too_large(refusal, buffers)
  return report.of(compiled)


class Planned(NamedTuple):
  """A report of memory alone, and the compile that gave it.

  Attributes:
    report: as `compile_step` gives it, without estimates.
    running: the compiler, which cannot be asked to stop, if it goes on.
  """

  report: Compiled
  running: threading.Thread


def plan_memory(step: Step, topology: topologies.Topology) -> Planned:
  """Compiles until the compiler has laid out memory, which comes first.

  What follows, code for every operation, takes most of the time of a large
  program: minutes against hours. For TPUs alone.

  Raises:
    RuntimeError: the compiler refuses for another reason than HBM.
    ValueError: a topology of GPUs, whose memory `compile_step` tells.
  """
  if topology.chip.platform != 'tpu':
    raise ValueError(
      f'{topology.name}: memory is planned ahead for TPUs; the whole compile '
      'for a GPU is of the sharding alone.'
    )
  arguments = memory.of_arguments(step.state, step.batch)
  report = _Report(step, topology, arguments)
  refusals: list[Exception] = []
  start = time.monotonic()
  with (
    _ticking(f'memory of {topology.name}'),
    tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
  ):
    with uncached():
      lowered = step.step_fn.lower(step.state, step.batch, *step.rest)

    def compile_on() -> None:
      try:
        with uncached():
          lowered.compile(compiler_options={'xla_dump_to': folder})
      except jax.errors.JaxRuntimeError as error:
        refusals.append(error)

    running = threading.Thread(target=compile_on, daemon=True)
    running.start()
    laid_out = lambda: any(pathlib.Path(folder).glob(f'*{_AFTER_THE_PLAN}'))
    while running.is_alive() and not laid_out():
      running.join(0.2)
    buffers = _read_plan(pathlib.Path(folder))
  if buffers is None:
    why = str(refusals[0]) if refusals else 'it leaves no plan of memory'
    raise RuntimeError(
      f'the compiler for {topology.name} refuses: {why[:1000]}'
    )
  report.seconds = time.monotonic() - start
  return Planned(report.of_buffers(buffers), running)


# Of the compiler's files, one that comes after the plan of memory.
_AFTER_THE_PLAN = '-memory-usage-report.txt'


def _buffers(lowered: jax.stages.Lowered) -> memory.Buffers | None:
  """Compiles once more what was refused, for the memory plan it leaves."""
  with tempfile.TemporaryDirectory() as folder:
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      lowered.compile(compiler_options={'xla_dump_to': folder})
    return _read_plan(pathlib.Path(folder))


def _read_plan(folder: pathlib.Path) -> memory.Buffers | None:
  plans = sorted(folder.glob('*-buffer-assignment.txt'))
  programs = sorted(folder.glob('*.oom_intermediate_*.txt'))
  if not plans:
    return None
  text = programs[0].read_text() if programs else ''
  return memory.parse_buffers(plans[0].read_text(), text)


class _Report:
  """Assembles a `Compiled`; everything a chip has is that of its devices."""

  def __init__(
    self,
    step: Step,
    topology: topologies.Topology,
    arguments: Mapping[str, int],
  ):
    self._step = step
    self._topology = topology
    self._arguments = arguments
    self._devices = topology.chip.devices_per_chip
    self.limit = topology.chip.hbm_bytes / self._devices
    self.seconds = 0.0

  def of(self, compiled: jax.stages.Compiled) -> Compiled:
    chip = self._topology.chip
    found = memory.of_program(compiled, self._arguments)
    program = hlo.parse(compiled.as_text())
    if chip.platform == 'gpu':
      return self._of_gpu(found, program)
    told = estimate.estimate(program, chip)
    devices = self._topology.size
    peak = chip.peak_flops * self._topology.chips
    return self._make(
      found,
      fits=True,
      executed_flops=told.matmul_flops * devices,
      estimated_step_seconds=told.seconds,
      step_seconds_range=(told.fastest_seconds, told.slowest_seconds),
      images_per_second=self._step.images / told.seconds,
      mfu=self._step.flops / told.seconds / peak,
      exposed_communication=told.exposed_communication,
      cycles_by_kind=told.cycles_by_kind,
      collectives=_without_seconds(told.collectives),
      notes=(
        'the estimate cannot see: ' + '; '.join(estimate.BLIND_SPOTS),
        *(f'{count} x {what}' for what, count in told.unknown.items()),
      ),
    )

  def _of_gpu(self, found: dict[str, int], program: hlo.Module) -> Compiled:
    fits = sum(found.values()) <= self.limit
    named = memory.largest_arguments(self._step.state, self._step.batch)
    made = memory.largest_temporaries(program)
    return self._make(
      found,
      fits=fits,
      collectives=_without_seconds(estimate.exchanged(program)),
      largest=() if fits else _top(named + made),
      notes=(
        'only the sharding was compiled, for fake CPU devices: arguments are '
        'exact; temporaries are those of the CPU compiler, which fuses and '
        'orders otherwise and computes bf16 in fp32; no time is estimated',
        *(() if fits else (_HELPS,)),
      ),
    )

  def too_large(self, refusal: str, buffers: memory.Buffers | None) -> Compiled:
    needed, largest = memory.parse_refusal(refusal)
    found = dict(self._arguments)
    named = memory.largest_arguments(self._step.state, self._step.batch)
    if buffers is not None:
      found = self._with(buffers)
      largest = buffers.largest
    elif needed is not None:
      found['temporaries'] = max(needed - sum(found.values()), 0)
    return self._make(
      found,
      fits=False,
      largest=_top(largest + named),
      notes=(
        refusal.split('\n')[0],
        _HELPS,
      ),
    )

  def of_buffers(self, buffers: memory.Buffers) -> Compiled:
    found = self._with(buffers)
    fits = sum(found.values()) <= self.limit
    named = memory.largest_arguments(self._step.state, self._step.batch)
    return self._make(
      found,
      fits=fits,
      largest=() if fits else _top(buffers.largest + named),
      notes=(
        'memory alone was planned: no program, no time; temporaries are the '
        "sum of the compiler's places, which a step may not need at once",
        *(() if fits else (_HELPS,)),
      ),
    )

  def _with(self, buffers: memory.Buffers) -> dict[str, int]:
    found = dict(self._arguments)
    found['padding'] = max(buffers.arguments - sum(found.values()), 0)
    found['temporaries'] = buffers.temporaries
    found['outputs'] = buffers.outputs
    return found

  def state_too_large(self) -> Compiled:
    leaves = jax.tree.leaves(self._step.state)
    whole = sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)
    chips = math.ceil(whole / self._topology.chip.hbm_bytes)
    return self._make(
      self._arguments,
      fits=False,
      largest=_top(
        memory.largest_arguments(self._step.state, self._step.batch)
      ),
      notes=(
        'not compiled: state and batch alone exceed the memory; the whole '
        f'state has {whole / 2**30:.1f} GiB, so that {chips} chips could hold '
        'it if every array were cut over all of them (mesh.fsdp, mesh.expert) '
        'and the step needed nothing else',
      ),
    )

  def _make(self, found: Mapping[str, int], **fields: Any) -> Compiled:
    per_chip = {kind: n * self._devices for kind, n in found.items()}
    per_chip['total'] = sum(per_chip.values())
    return Compiled(
      topology=self._topology.name,
      chips=self._topology.chips,
      mesh=dict(self._step.mesh.shape),
      bytes_per_chip=per_chip,
      hbm_bytes_per_chip=int(self._topology.chip.hbm_bytes),
      flops=self._step.flops,
      images=self._step.images,
      compile_seconds=self.seconds,
      **fields,
    )


def _top(
  found: list[memory.Allocation],
) -> tuple[memory.Allocation, ...]:
  return tuple(sorted(found, key=lambda a: -a.nbytes)[:3])


def _without_seconds(
  found: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, int]]:
  return {
    kind: {'count': int(of['count']), 'bytes': int(of['bytes'])}
    for kind, of in found.items()
  }


@contextlib.contextmanager
def uncached() -> Iterator[None]:
  """Keeps the persistent compilation cache out of this.

  JAX writes programs for absent devices there and cannot read them back.
  """
  name = 'jax_persistent_cache_min_compile_time_secs'
  before = getattr(jax.config, name)
  jax.config.update(name, _NEVER)
  try:
    yield
  finally:
    jax.config.update(name, before)


@contextlib.contextmanager
def _ticking(what: str) -> Iterator[None]:
  """A progress line with the seconds that have passed."""
  done = threading.Event()
  bar = progress.bar(what=what, unit='s')

  def tick() -> None:
    while not done.wait(1.0):
      bar.update()

  thread = threading.Thread(target=tick, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
    bar.close()
