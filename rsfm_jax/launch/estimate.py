"""Seconds of a step, by replaying the compiler's own schedule.

Nothing runs. Instructions are taken in their scheduled order: synchronous ones
add up, what lies between the start and the end of an asynchronous one hides
it, and bodies of loops count as often as they run. Prices:

* the compiler's `estimated_cycles`, where it gives any. They are good for
  matrix products and 2.5 to 4 times too slow for element-wise fusions, copies
  and reductions, so the `hybrid` pricing takes bytes / (0.85 x HBM bandwidth)
  for those where that is less;
* collectives: bytes over the bandwidth of the torus axes that the compiler's
  algorithm uses, one where it does not say;
* Pallas kernels, which the compiler does not price: a roofline over the cost
  that their author declared;
* the rest: bytes / (0.85 x HBM bandwidth).

The same program gives the same figures, bit for bit.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, Literal

from rsfm_jax.launch import chips
from rsfm_jax.launch import collectives
from rsfm_jax.launch import costs
from rsfm_jax.launch import hlo

Pricing = Literal['hybrid', 'compiler']

# What is left of HBM bandwidth when nothing else is wrong.
_HBM_SHARE = 0.85
_MEMORY_BOUND = ('elementwise', 'copy', 'reduction')
_HOST_SPACE = 5
# Lanes of a vector register: a core has one unit for exp and its like, which
# takes one register a cycle. Devices of two cores are counted as one.
_TRANSCENDENTALS = 8 * 128

BLIND_SPOTS = (
  'time on the host: input, dispatch, checkpoints',
  'real overlap of transfers with compute, and contention for HBM',
  'latency and congestion of links; slices whose axes do not wrap have half '
  'the ring bandwidth',
  'stragglers and clock throttling',
  'vector arithmetic of element-wise fusions, taken to hide behind HBM',
)


@dataclasses.dataclass
class Spent:
  """What a computation spends when it runs once.

  Attributes:
    seconds: from its start to its end.
    by_kind: seconds of synchronous work; `communication` and `transfers`
      (between HBM and on-chip memory) hold only what nothing hides.
    collectives: `{kind: [count, logical bytes, seconds on the wire]}`.
    matmul_flops: executed, recomputation included.
    unknown: what could not be priced well, with how often.
  """

  seconds: float = 0.0
  by_kind: dict[str, float] = dataclasses.field(default_factory=dict)
  collectives: dict[str, list[float]] = dataclasses.field(default_factory=dict)
  matmul_flops: float = 0
  unknown: dict[str, int] = dataclasses.field(default_factory=dict)

  def work(self, kind: str, seconds: float) -> None:
    self.seconds += seconds
    self.by_kind[kind] = self.by_kind.get(kind, 0.0) + seconds

  def add(self, other: 'Spent', times: int = 1) -> None:
    self.seconds += times * other.seconds
    self.matmul_flops += times * other.matmul_flops
    for kind, seconds in other.by_kind.items():
      self.by_kind[kind] = self.by_kind.get(kind, 0.0) + times * seconds
    for kind, counted in other.collectives.items():
      mine = self.collectives.setdefault(kind, [0, 0, 0.0])
      mine[:] = [a + times * b for a, b in zip(mine, counted)]
    for what, count in other.unknown.items():
      self.unknown[what] = self.unknown.get(what, 0) + times * count


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A step as the compiler's schedule tells it.

  Attributes:
    seconds: hybrid pricing.
    slowest_seconds: the compiler's cycles alone.
    fastest_seconds: hybrid, if all communication and transfers were hidden.
    exposed_communication: share of `seconds` spent waiting for collectives.
    cycles_by_kind: hybrid; sums to `seconds` x clock.
    collectives: `{kind: {count, bytes, seconds}}` per device and step.
    matmul_flops: executed per device, recomputation included.
    unknown: what could not be priced well, with how often.
  """

  seconds: float
  slowest_seconds: float
  fastest_seconds: float
  exposed_communication: float
  cycles_by_kind: Mapping[str, int]
  collectives: Mapping[str, Mapping[str, float]]
  matmul_flops: int
  unknown: Mapping[str, int]

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)


def estimate(program: str | hlo.Module, chip: chips.Chip) -> Estimate:
  """Replays a scheduled program for one device of a chip.

  Args:
    program: `compiled.as_text()`, or that parsed.
    chip: a TPU; GPUs have no schedule of this kind.

  Raises:
    ValueError: the chip has no clock, or the text is no program.
  """
  if not chip.clock_hz:
    raise ValueError(f'{chip.name} has no estimate: only TPU programs do.')
  module = hlo.parse(program) if isinstance(program, str) else program
  hybrid = _Replay(module, chip, 'hybrid').run(module.entry)
  slowest = _Replay(module, chip, 'compiler').run(module.entry)
  waited = hybrid.by_kind.get('communication', 0.0)
  hidden = waited + hybrid.by_kind.get('transfers', 0.0)
  return Estimate(
    seconds=hybrid.seconds,
    slowest_seconds=slowest.seconds,
    fastest_seconds=hybrid.seconds - hidden,
    exposed_communication=waited / hybrid.seconds if hybrid.seconds else 0.0,
    cycles_by_kind={
      kind: round(seconds * chip.clock_hz)
      for kind, seconds in sorted(
        hybrid.by_kind.items(), key=lambda item: -item[1]
      )
    },
    collectives=_counted(hybrid.collectives),
    matmul_flops=int(hybrid.matmul_flops),
    unknown=hybrid.unknown,
  )


def exchanged(program: str | hlo.Module) -> dict[str, dict[str, float]]:
  """`{kind: {count, bytes}}` of a program of any platform."""
  module = hlo.parse(program) if isinstance(program, str) else program
  # Counts depend on no price; any chip serves.
  spent = _Replay(module, chips.V5P, 'hybrid').run(module.entry)
  return _counted(spent.collectives)


def _counted(
  found: Mapping[str, list[float]],
) -> dict[str, dict[str, float]]:
  return {
    kind: {'count': int(count), 'bytes': int(nbytes), 'seconds': seconds}
    for kind, (count, nbytes, seconds) in sorted(found.items())
  }


class _Replay:
  """Walks computations; each is walked once and remembered."""

  def __init__(self, module: hlo.Module, chip: chips.Chip, pricing: Pricing):
    self._module = module
    self._pricing = pricing
    self._clock = chip.clock_hz
    self._peak = chip.peak_flops / chip.devices_per_chip
    self._hbm = chip.hbm_bandwidth / chip.devices_per_chip
    self._link = chip.link_bandwidth / chip.devices_per_chip
    self._known: dict[str, Spent] = {}

  def run(self, computation: hlo.Computation) -> Spent:
    if computation.name not in self._known:
      self._known[computation.name] = self._walk(computation)
    return self._known[computation.name]

  def _walk(self, computation: hlo.Computation) -> Spent:
    spent = Spent()
    free_at = {'communication': 0.0, 'transfers': 0.0}
    pending: dict[str, tuple[str, float]] = {}

    def begin(what: str, key: str, seconds: float) -> None:
      # One queue for links and one for memory: transfers do not overtake.
      free_at[what] = max(free_at[what], spent.seconds) + seconds
      pending[key] = what, free_at[what]

    def finish(key: str | None) -> bool:
      if key not in pending:
        return False
      what, ready = pending.pop(key)
      if ready > spent.seconds:
        spent.work(what, ready - spent.seconds)
      return True

    for instruction in computation.instructions:
      opcode = instruction.opcode
      if costs.is_free(instruction):
        continue
      if opcode.endswith('-done'):
        finish(self._origin(computation, instruction))
      elif opcode.endswith('-update'):
        continue
      elif opcode == 'while':
        self._loop(spent, computation, instruction)
      elif opcode in ('call', 'conditional'):
        branches = [self.run(c) for c in self._module.called(instruction)]
        spent.add(max(branches, key=lambda branch: branch.seconds))
      elif collective := collectives.started(
        self._module, computation, instruction
      ):
        seconds = self._record(spent, collective)
        key = self._key(instruction, collective)
        begin('communication', key, seconds)
        if not self._is_start(instruction):
          finish(key)
      elif finish(collectives.finished(self._module, instruction)):
        continue
      elif costs.kernels(self._module, instruction):
        self._work(spent, computation, instruction)
      elif opcode.endswith('-start'):
        begin('transfers', instruction.name, self._transfer(spent, instruction))
      else:
        self._work(spent, computation, instruction)
    return spent

  def _is_start(self, instruction: hlo.Instruction) -> bool:
    if instruction.opcode != 'fusion':
      return instruction.opcode.endswith('-start')
    return any(
      inner.root.attribute(costs.TARGET) == 'AsyncCollectiveStart'
      for inner in self._module.called(instruction)
    )

  def _key(
    self, instruction: hlo.Instruction, collective: collectives.Collective
  ) -> str:
    if instruction.opcode == 'fusion' and collective.channel:
      return collective.channel
    return instruction.name

  def _origin(
    self, computation: hlo.Computation, instruction: hlo.Instruction
  ) -> str | None:
    """The start that a `-done` waits for, through updates and tuples."""
    while instruction.operands:
      found = computation.by_name.get(instruction.operands[0])
      if found is None or found.opcode.endswith('-start'):
        return found.name if found else None
      instruction = found
    return None

  def _loop(
    self,
    spent: Spent,
    computation: hlo.Computation,
    instruction: hlo.Instruction,
  ) -> None:
    body = instruction.attribute(r'body=%?([\w.\-]+)')
    times = hlo.trip_count(self._module, computation, instruction)
    if times is None:
      times = 1
      spent.unknown['loops counted once'] = (
        spent.unknown.get('loops counted once', 0) + 1
      )
    spent.add(self.run(self._module.computations[body]), times)

  def _record(self, spent: Spent, found: collectives.Collective) -> float:
    seconds = found.wire_bytes / (self._link * found.axes)
    one = Spent(collectives={found.kind: [1, found.nbytes, seconds]})
    spent.add(one)
    return seconds

  def _transfer(self, spent: Spent, instruction: hlo.Instruction) -> float:
    """Between memories of a device: the result is what moves."""
    arrays = [shape for shape in instruction.shapes if shape.dims][:2]
    if any(shape.space == _HOST_SPACE for shape in arrays):
      spent.unknown['transfers to the host, priced as HBM'] = (
        spent.unknown.get('transfers to the host, priced as HBM', 0) + 1
      )
    nbytes = min((shape.tiled for shape in arrays), default=0)
    # Within HBM it is read and written there.
    passes = 2 if all(shape.space == 0 for shape in arrays) else 1
    return passes * nbytes / self._hbm / _HBM_SHARE

  def _work(
    self,
    spent: Spent,
    computation: hlo.Computation,
    instruction: hlo.Instruction,
  ) -> None:
    kind = costs.kind_of(self._module, instruction)
    if kind == 'matmul':
      spent.matmul_flops += costs.matmul_flops_within(
        self._module, computation, instruction
      )
    by_bytes = costs.moved(self._module, computation, instruction)
    seconds = by_bytes / self._hbm / _HBM_SHARE
    if kind == 'kernel' and instruction.cycles is None:
      seconds = self._kernels(spent, instruction, seconds)
    elif instruction.cycles is not None:
      cycles = instruction.cycles / self._clock
      replace = self._pricing == 'hybrid' and kind in _MEMORY_BOUND
      seconds = min(cycles, seconds) if replace else cycles
    spent.work(kind, seconds)

  def _kernels(
    self, spent: Spent, instruction: hlo.Instruction, by_bytes: float
  ) -> float:
    """Seconds of Pallas kernels, or of a call of something else."""
    found = costs.kernels(self._module, instruction) or [instruction]
    seconds = 0.0
    for kernel in found:
      declared = costs.declared(kernel)
      name = 'kernels priced by the roofline of their declared cost'
      if declared is None:
        name = f'{_name(kernel)} without cycles or cost, priced by bytes'
        seconds += by_bytes
      else:
        seconds += max(
          declared.flops / self._peak,
          declared.transcendentals / _TRANSCENDENTALS / self._clock,
          declared.nbytes / self._hbm / _HBM_SHARE,
          declared.remote_bytes / self._link,
        )
      spent.unknown[name] = spent.unknown.get(name, 0) + 1
    return seconds


def _name(call: hlo.Instruction) -> str:
  """Of a custom call: the kernel's, as its author gave it, or the target."""
  kernel = call.attribute(r'op_name="[^"]*?([^"/]+)/pallas_call')
  return kernel or call.attribute(costs.TARGET) or call.name
