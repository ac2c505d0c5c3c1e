"""Accelerators that a step can be compiled for, by name, without having one.

A TPU topology is `generation:AxB[xC]`, in chips: `v5p:4x4x4`, `v6e:16x16`,
`7x:2x2x2`. Its devices come from the TPU compiler, which runs on any x86 Linux
machine. A GPU target is `h200:8`: so many devices, faked on the CPU, on which
only the sharding is compiled.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import pathlib
import re

import jax
from jax.experimental import topologies

from rsfm_jax.core import choices
from rsfm_jax.launch import chips

KEY = '--topology'


_ALIASES = {'tpu7x': '7x', 'v7x': '7x', 'v5litepod': 'v5e'}


@dataclasses.dataclass(frozen=True)
class Topology:
  """So many chips of one kind, joined in one way.

  Attributes:
    name: `generation:shape`, normalised.
    chip: what each chip is.
    shape: chips along each axis of the torus; `(n,)` for GPUs.
  """

  name: str
  chip: chips.Chip
  shape: tuple[int, ...]

  @property
  def chips(self) -> int:
    return math.prod(self.shape)

  @property
  def size(self) -> int:
    """The number of JAX devices."""
    return self.chips * self.chip.devices_per_chip

  @property
  def wraps(self) -> tuple[bool, bool, bool]:
    """Which axes of a TPU slice close into rings.

    Three-dimensional generations are built of 4 x 4 x 4 cubes whose faces are
    joined by optical switches, so slices of whole cubes wrap; v5e and v6e wrap
    along a whole side of the pod, 16. Source: cloud.google.com/tpu/docs/v4 and
    jax-ml.github.io/scaling-book/tpus. Left alone the compiler assumes none.
    """
    if self.chip.axes == 2:
      return tuple(side == 16 for side in self.shape) + (False,)
    whole = self.chip.axes == 3 and all(side % 4 == 0 for side in self.shape)
    return (whole,) * 3

  def devices(self) -> list[jax.Device]:
    """Devices to compile for; no chip is needed or touched.

    Raises:
      RuntimeError: the TPU compiler is not installed or refuses; or JAX has
        already started with fewer CPU devices than a GPU target asks for.
    """
    if self.chip.platform == 'gpu':
      return _fake_devices(self.size)
    return _tpu_devices(self)


def parse(name: str) -> Topology:
  """A topology by name.

  Raises:
    ValueError: no such generation, a shape of the wrong form, or one that is
      not made of whole hosts; the message lists what is known.
  """
  generation, _, shape = name.lower().partition(':')
  generation = _ALIASES.get(generation, generation)
  if generation not in chips.CHIPS or not re.fullmatch(r'\d+(x\d+)*', shape):
    known = [f'{chip.name}:{chip.shapes[-2]}' for chip in chips.CHIPS.values()]
    raise ValueError(
      f'{KEY}={name!r} is not a topology. Write one like {", ".join(known)}.'
      + choices.suggest(name, _names())
    )
  chip = chips.CHIPS[generation]
  sides = tuple(int(side) for side in shape.split('x'))
  if not _is_valid(chip, sides):
    raise ValueError(
      f'{KEY}={name!r}: {chip.name} has no such shape. Known: '
      + ', '.join(f'{chip.name}:{known}' for known in chip.shapes)
      + '.'
      + choices.suggest(name, _names())
    )
  return Topology(f'{chip.name}:{shape}', chip, sides)


def _names() -> list[str]:
  return [
    f'{c.name}:{shape}' for c in chips.CHIPS.values() for shape in c.shapes
  ]


def _is_valid(chip: chips.Chip, sides: tuple[int, ...]) -> bool:
  if chip.platform == 'gpu':
    return len(sides) == 1 and sides[0] > 0
  if len(sides) != chip.axes or min(sides) < 1:
    return False
  if chip.axes == 2 and max(sides) > 16:
    return False
  # A host holds 2 x 2 chips; alone, one chip can also be had.
  return math.prod(sides) == 1 or not (sides[0] % 2 or sides[1] % 2)


def _tpu_devices(topology: Topology) -> list[jax.Device]:
  if importlib.util.find_spec('libtpu') is None:
    raise RuntimeError(
      f'compiling for {topology.name} needs the TPU compiler, which is an '
      "ordinary wheel: pip install 'rsfm-jax[tpu]' (Linux on x86_64; no TPU "
      'is needed).'
    )
  chip = topology.chip
  options = {'wrap': topology.wraps}
  if chip.config:
    options['chip_config_name'] = chip.config
  if topology.chips == 1:
    options['chips_per_host_bounds'] = (1, 1, 1)
  shape = 'x'.join(str(side) for side in topology.shape)
  load_quietly()
  try:
    found = topologies.get_topology_desc(
      platform='tpu', topology_name=f'{chip.compiler_name}:{shape}', **options
    )
  except jax.errors.JaxRuntimeError as error:
    raise RuntimeError(_explain(topology, str(error))) from error
  return list(found.devices)


def _explain(topology: Topology, message: str) -> str:
  if 'lockfile' in message:
    return (
      'another process holds the TPU compiler (libtpu loads once a machine): '
      'wait for it, or set ALLOW_MULTIPLE_LIBTPU_LOAD=1 where no TPU is.'
    )
  return f'the TPU compiler does not take {topology.name}: {message[:300]}'


def load_quietly() -> None:
  """Settings under which libtpu loads in silence where there is no TPU.

  Loaded without them it asks Google's metadata server what machine this is,
  complains that it cannot tell, and takes a lock that is meant for the chips.
  On a machine with TPUs nothing is set, since a run there needs the answers.
  """
  if _has_tpu():
    return
  for name, value in (
    ('TPU_SKIP_MDS_QUERY', '1'),
    ('TPU_WORKER_HOSTNAMES', 'localhost'),
    ('TPU_HOST_BOUNDS', '1,1,1'),
    ('ALLOW_MULTIPLE_LIBTPU_LOAD', '1'),
  ):
    os.environ.setdefault(name, value)


def _has_tpu() -> bool:
  devices = pathlib.Path('/dev')
  return any(devices.glob('accel*')) or any(devices.glob('vfio/[0-9]*'))


def _fake_devices(count: int) -> list[jax.Device]:
  with contextlib.suppress(RuntimeError):  # JAX has started already.
    if jax.config.jax_num_cpu_devices < count:
      jax.config.update('jax_num_cpu_devices', count)
  devices = jax.devices('cpu')
  if len(devices) < count:
    raise RuntimeError(
      f'{count} fake CPU devices are needed and JAX has started with '
      f'{len(devices)}; set JAX_NUM_CPU_DEVICES={count} in the environment.'
    )
  return devices[:count]
