"""Chips and where each figure about them comes from."""

import dataclasses
from typing import Literal

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """What an estimate needs to know of one chip.

  Attributes:
    name: as users write it.
    compiler_name: as the TPU compiler writes it.
    hbm_bytes: memory that a program can have. For TPUs the compiler's own
      limit, read off its refusal of a program that is too large.
    hbm_bandwidth: bytes per second.
    peak_flops: dense bf16 multiply-adds, two FLOPs each, per second.
    clock_hz: of the compiler's cycles; 0 for GPUs, which have no estimate.
    link_bandwidth: bytes per second that leave a chip along one torus axis,
      both ways together; for GPUs over NVLink, one way.
    axes: dimensions of the torus; 0 where a switch joins all devices.
    devices_per_chip: how many JAX devices a chip shows.
    shapes: some valid topologies, for messages.
    sources: where each figure comes from.
    config: the compiler's chip configuration, where it is not the default.
  """

  name: str
  compiler_name: str
  hbm_bytes: float
  hbm_bandwidth: float
  peak_flops: float
  clock_hz: float
  link_bandwidth: float
  axes: int
  devices_per_chip: int
  shapes: tuple[str, ...]
  sources: dict[str, str]
  config: str | None = None

  @property
  def platform(self) -> Literal['tpu', 'gpu']:
    return 'tpu' if self.axes else 'gpu'


_DOCS = 'cloud.google.com/tpu/docs/'
_LIMIT = "the TPU compiler's refusal of a larger program (libtpu 0.0.42.1)"
_COMPILER = "the TPU compiler's own figure (jax 0.10.2, libtpu 0.0.42.1)"

V4 = Chip(
  name='v4',
  compiler_name='v4',
  hbm_bytes=30.75 * GIB,
  hbm_bandwidth=1200e9,
  peak_flops=275e12,
  clock_hz=1.05e9,
  link_bandwidth=90e9,
  axes=3,
  devices_per_chip=1,
  shapes=('1x1x1', '2x2x1', '2x2x4', '4x4x4', '4x4x8', '8x8x8'),
  config='megacore',
  sources={
    'hbm_bytes': _LIMIT,
    'hbm_bandwidth': _DOCS + 'v4',
    'peak_flops': _DOCS + 'v4',
    'clock_hz': 'peak over 2^18 FLOPs a cycle (2 cores x 4 units of 128 x 128)',
    'link_bandwidth': 'jax-ml.github.io/scaling-book/tpus, 45 GB/s each way; '
    "the compiler's figure: NOT FOUND",
  },
)
V5E = Chip(
  name='v5e',
  compiler_name='v5e',
  hbm_bytes=15.75 * GIB,
  hbm_bandwidth=819e9,
  peak_flops=197e12,
  clock_hz=1.5e9,
  link_bandwidth=93e9,
  axes=2,
  devices_per_chip=1,
  shapes=('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16'),
  sources={
    'hbm_bytes': _LIMIT,
    'hbm_bandwidth': _DOCS + 'v5e',
    'peak_flops': _DOCS + 'v5e',
    'clock_hz': _COMPILER,
    'link_bandwidth': _COMPILER,
  },
)
V5P = Chip(
  name='v5p',
  compiler_name='v5p',
  hbm_bytes=95.74 * GIB,
  hbm_bandwidth=2765e9,
  peak_flops=459e12,
  clock_hz=1.75e9,
  link_bandwidth=187e9,
  axes=3,
  devices_per_chip=1,
  shapes=('1x1x1', '2x2x1', '2x2x4', '4x4x4', '4x4x8', '8x8x8', '16x16x24'),
  sources={
    'hbm_bytes': _LIMIT,
    'hbm_bandwidth': _DOCS + 'v5p (also printed there as 2575 GiB/s)',
    'peak_flops': _DOCS + 'v5p',
    'clock_hz': _COMPILER,
    'link_bandwidth': _COMPILER,
  },
)
V6E = Chip(
  name='v6e',
  compiler_name='v6e',
  hbm_bytes=31.25 * GIB,
  hbm_bandwidth=1640e9,
  peak_flops=918e12,
  clock_hz=1.75e9,
  link_bandwidth=187e9,
  axes=2,
  devices_per_chip=1,
  shapes=('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16'),
  sources={
    'hbm_bytes': _LIMIT,
    'hbm_bandwidth': _DOCS + 'v6e',
    'peak_flops': _DOCS + 'v6e',
    'clock_hz': _COMPILER,
    'link_bandwidth': _COMPILER,
  },
)
TPU7X = Chip(
  name='7x',
  compiler_name='tpu7x',
  hbm_bytes=2 * 94.75 * GIB,
  hbm_bandwidth=7380e9,
  peak_flops=2307e12,
  clock_hz=2.2e9,
  link_bandwidth=200e9,
  axes=3,
  devices_per_chip=2,
  shapes=('1x1x1', '2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '8x8x8'),
  sources={
    'hbm_bytes': _LIMIT + ', twice that of a device',
    'hbm_bandwidth': _DOCS + 'tpu7x',
    'peak_flops': _DOCS + 'tpu7x',
    'clock_hz': 'derived: peak over 2 x 2^19 FLOPs a cycle, the next power of '
    "two above the compiler's cycles for a large product; not documented",
    'link_bandwidth': _DOCS + 'tpu7x: 1200 GB/s both ways over three axes, '
    "half of it leaving; the compiler's figure: NOT FOUND",
  },
)
H200 = Chip(
  name='h200',
  compiler_name='cpu',
  hbm_bytes=139 * GIB,
  hbm_bandwidth=4.8e12,
  peak_flops=989e12,
  clock_hz=0.0,
  link_bandwidth=450e9,
  axes=0,
  devices_per_chip=1,
  shapes=('1', '8'),
  sources={
    'hbm_bytes': 'about what the driver shows of 141 GB; not measured here',
    'hbm_bandwidth': 'nvidia.com/data-center/h200',
    'peak_flops': 'nvidia.com/data-center/h200, half of the sparse 1979e12',
    'link_bandwidth': 'nvidia.com/data-center/h200: NVLink 900 GB/s both ways',
  },
)

CHIPS = {chip.name: chip for chip in (V4, V5E, V5P, V6E, TPU7X, H200)}
