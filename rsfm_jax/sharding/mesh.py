"""The device mesh: axes data, fsdp, expert and tensor, and no others."""

from collections.abc import Sequence
import math

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

AXES = ('data', 'fsdp', 'expert', 'tensor')
BATCH_AXES = ('data', 'fsdp', 'expert')  # Expert shards also carry samples.
WEIGHT_AXES = ('fsdp', 'expert')  # Experts are cut over the first alone.


def make_mesh(
  *,
  data: int = -1,
  fsdp: int = 1,
  expert: int = 1,
  tensor: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """A mesh with all four axes; one size may be -1 and takes what is left.

  Args:
    data: replicas of the parameters; each sees its own samples.
    fsdp: shards of parameters and optimiser state; each sees its own samples.
    expert: shards of the expert axis; each sees its own samples.
    tensor: shards of hidden dimensions; all see the same samples.
    devices: the devices in use, `jax.devices()` unless told; those of an
      ahead-of-time topology also serve.

  Raises:
    ValueError: the sizes do not multiply to the number of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  sizes = dict(zip(AXES, (data, fsdp, expert, tensor), strict=True))
  free = [axis for axis, size in sizes.items() if size == -1]
  known = math.prod(size for size in sizes.values() if size != -1)
  if len(free) == 1 and known > 0 and len(devices) % known == 0:
    sizes[free[0]] = len(devices) // known
  if min(sizes.values()) < 1 or math.prod(sizes.values()) != len(devices):
    given = ', '.join(f'mesh.{axis}={size}' for axis, size in sizes.items())
    raise ValueError(
      f'{given} do not multiply to {len(devices)} devices; set sizes whose '
      'product is that number, at most one of them -1 (what is left).'
    )
  # Where no axes of a torus multiply to a size (16 of 8 x 8 x 8), one is split.
  placed = mesh_utils.create_device_mesh(
    tuple(sizes.values()), devices, allow_split_physical_axes=True
  )
  slices = {getattr(device, 'slice_index', 0) for device in devices}
  if len(slices) > 1:
    raise ValueError(
      f'{len(devices)} devices lie in {len(slices)} slices; a mesh has one.'
    )
  return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def dividing(
  size: int, axes: tuple[str, ...], mesh: Mesh
) -> tuple[str, ...] | None:
  """The most of `axes`, from the left, whose product divides `size`."""
  for count in range(len(axes), 0, -1):
    if size % math.prod(mesh.shape[axis] for axis in axes[:count]) == 0:
      return axes[:count]
  return None


def batch_shards(mesh: Mesh) -> int:
  """Into how many pieces the leading dimension of a batch is cut."""
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Samples over every axis but tensor; other dimensions are whole."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds everything."""
  return NamedSharding(mesh, PartitionSpec())


def check_batch(batch, mesh: Mesh) -> None:
  """Every sensor's batch must divide over the mesh, or a clear error.

  Args:
    batch: `{sensor: {name: [B, ...]}}`; B may differ between sensors.
    mesh: as `make_mesh` gives it.

  Raises:
    ValueError: a batch size is not a multiple of `batch_shards(mesh)`.
  """
  shards = batch_shards(mesh)
  for sensor, arrays in batch.items():
    sizes = {np.shape(x)[0] for x in jax.tree.leaves(arrays)}
    if any(size % shards for size in sizes):
      raise ValueError(
        f'batch of sensor {sensor!r} has {sorted(sizes)} samples, which is no '
        f'multiple of {shards} = mesh.data x mesh.fsdp x mesh.expert.'
      )
