"""Looks for the mesh and the number of microbatches that run fastest.

Every way to cut the devices is planned (cheap), those whose state cannot fit
are dropped, the others are compiled (dear) in the order of the weights that
they would exchange, each with more microbatches until it fits.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from rsfm_jax.core import log
from rsfm_jax.core import progress
from rsfm_jax.launch import aot
from rsfm_jax.launch import memory
from rsfm_jax.launch import topologies

ACCUMULATE = (1, 2, 4, 8)


class Candidate(NamedTuple):
  """A way to run a step.

  Attributes:
    data: size of that mesh axis, as the following three.
    fsdp: ...
    expert: ...
    tensor: ...
    accumulate: microbatches per step.
  """

  data: int
  fsdp: int
  expert: int
  tensor: int
  accumulate: int = 1

  @property
  def mesh(self) -> dict[str, int]:
    sizes = self._asdict()
    del sizes['accumulate']
    return sizes

  def __str__(self) -> str:
    sizes = ','.join(f'{k}={v}' for k, v in self.mesh.items() if v > 1)
    return f'{sizes or "one device"} x {self.accumulate}'


class Tried(NamedTuple):
  """What became of a candidate.

  Attributes:
    candidate: how.
    report: what compiling told; None if it was not compiled.
    reason: why it was not compiled, or does not fit; else empty.
  """

  candidate: Candidate
  report: aot.Compiled | None
  reason: str = ''

  @property
  def images_per_second(self) -> float:
    return (self.report and self.report.images_per_second) or 0.0


def candidates(
  devices: int, *, tensor: Iterable[int] = (1,)
) -> list[Candidate]:
  """All (data, fsdp, expert, tensor) whose product is `devices`."""
  return [
    Candidate(devices // (fsdp * expert * cut), fsdp, expert, cut)
    for cut in tensor
    for expert in _divisors(devices // cut if devices % cut == 0 else 0)
    for fsdp in _divisors(devices // cut // expert)
  ]


def search(
  plan: Callable[[Candidate], aot.Step],
  topology: topologies.Topology,
  ways: Sequence[Candidate],
  *,
  accumulate: Sequence[int] = ACCUMULATE,
  compiles: int = 6,
) -> list[Tried]:
  """Tries candidates; the best comes first.

  Args:
    plan: the step of a candidate, on the topology's devices; raises ValueError
      where sizes do not divide.
    topology: where it shall run.
    ways: meshes to try; their own `accumulate` is not used.
    accumulate: microbatches to try, ascending; a mesh that fits is not tried
      with more, which could only be slower.
    compiles: at most so many programs are compiled.

  Returns:
    Those that fit by estimated images per second, then the others.
  """
  limit = topology.chip.hbm_bytes / topology.chip.devices_per_chip
  tried, ranked = [], []
  for way in progress.bar(ways, what='plan meshes'):
    try:
      step = plan(way._replace(accumulate=1))
    except ValueError as error:
      tried.append(Tried(way, None, str(error)))
      continue
    found = memory.of_arguments(step.state, step.batch)
    # Gradients live beside everything else at the end of a step.
    least = sum(found.values()) + found['params']
    if least > limit:
      gib = least / 2**30
      tried.append(Tried(way, None, f'needs {gib:.1f} GiB without activations'))
    else:
      ranked.append((exchanged_weights(way, found['params']), least, way))
  for _, _, way in sorted(ranked):
    for count in accumulate:
      one = way._replace(accumulate=count)
      if compiles <= 0:
        tried.append(Tried(one, None, 'not reached; raise --compiles'))
        break
      try:
        step = plan(one)
      except ValueError as error:
        tried.append(Tried(one, None, str(error)))
        continue
      log.info('trying %s', one)
      report = aot.compile_step(step, topology, when_too_large='stop')
      compiles -= 1
      tried.append(Tried(one, report, '' if report.fits else report.notes[0]))
      if report.fits:
        break
  return sorted(tried, key=lambda t: (-t.images_per_second, t.candidate))


def exchanged_weights(way: Candidate, params: int) -> float:
  """Bytes of weights and gradients that a device exchanges in a step.

  FSDP gathers what it lacks for the forward pass, for its recomputation or
  the backward pass, and scatters gradients, once a microbatch; replicas sum
  their gradients.
  """
  gathered = 3 * way.accumulate * params * (way.fsdp - 1)
  summed = 2 * params * (way.data - 1) / way.data
  return gathered + summed


def recommended(tried: Sequence[Tried]) -> Tried | None:
  """The fastest that fits; on GPUs, where no time is known, the first."""
  fitting = [t for t in tried if t.report is not None and t.report.fits]
  return fitting[0] if fitting else None


def _divisors(number: int) -> list[int]:
  return [n for n in range(1, number + 1) if number % n == 0]
