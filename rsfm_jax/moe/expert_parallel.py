"""Experts over devices: where samples and experts live, and who sends what.

Two placements of RMoE's experts over the mesh axis `expert`:

* 'exchange': every device holds E / P experts of each set and samples of all
  sensors; the tokens of specialised and collaborative experts travel by
  all-to-all.
* 'sensor': the sensor of every token is known statically, so each column of
  devices holds the specialised experts of its own sensors, and their samples;
  those tokens never leave. Only the collaborative experts communicate.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from rsfm_jax.sharding import mesh as meshes

Array = jax.Array
Kind = Literal['exchange', 'sensor']
P = PartitionSpec


class Axes(NamedTuple):
  """Mesh axes that a layer sees from inside; () and None on one device.

  Attributes:
    batch: samples are cut over these; losses and metrics are averaged.
    expert: experts are cut over it and tokens travel along it.
    tensor: hidden dimensions are cut over it; outputs are summed.
    sensors: axis over which the specialised experts' sensors are cut.
  """

  batch: tuple[str, ...] = ()
  expert: str | None = None
  tensor: str | None = None
  sensors: str | None = None

  @property
  def beside_sensors(self) -> tuple[str, ...]:
    """The batch's axes along which the sensors stay the same."""
    return tuple(axis for axis in self.batch if axis != self.sensors)

  def mean(self, value: Array) -> Array:
    return jax.lax.pmean(value, self.batch) if self.batch else value

  def total(self, value: Array) -> Array:
    return jax.lax.psum(value, self.tensor) if self.tensor else value

  def send(self, rows: Array) -> Array:
    """[P, rows, D]: row group p goes to device p of the expert axis.

    The inverse of itself: what came from p goes back to p.
    """
    if self.expert is None or rows.shape[0] == 1:
      return rows
    return jax.lax.all_to_all(rows, self.expert, 0, 0, tiled=True)

  def gather(self, weights: Array) -> Array:
    """[S, E / P, ...] of this device -> [S, E, ...] of all."""
    if self.expert is None:
      return weights
    return jax.lax.all_gather(weights, self.expert, axis=1, tiled=True)


LOCAL = Axes()


class Placement(NamedTuple):
  """A mesh and where a model's samples and experts live on it."""

  mesh: Mesh
  kind: Kind

  @property
  def shards(self) -> int:
    """Devices (times tensor) that hold samples of their own."""
    return meshes.batch_shards(self.mesh)

  @property
  def columns(self) -> int:
    """Groups of devices that hold different sensors."""
    return self.mesh.shape['expert'] if self.kind == 'sensor' else 1

  @property
  def axes(self) -> Axes:
    return Axes(
      batch=meshes.BATCH_AXES,
      expert='expert',
      tensor='tensor',
      sensors='expert' if self.kind == 'sensor' else None,
    )

  def keep(self, x: Array) -> Array:
    """Pins the leading (batch) dimension of `x` where samples live."""
    spec = P(meshes.BATCH_AXES, *(None,) * (x.ndim - 1))
    return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))


class Arrangement(NamedTuple):
  """The order of a batch: [replica, column, group, sensor, image].

  A routing group holds an equal share of its column's sensors, so that the
  devices of a column run one program on pieces of equal shape.

  Attributes:
    counts: (index of the sensor, images of the whole batch).
    groups: routing groups, all in all.
    replicas: how often the columns repeat.
    columns: see `Placement.columns`; each has as many sensors and images.
  """

  counts: tuple[tuple[int, int], ...]
  groups: int = 1
  replicas: int = 1
  columns: int = 1

  @property
  def _inner(self) -> int:
    """Groups of one replica and column."""
    return self.groups // (self.replicas * self.columns)

  @property
  def segments(self) -> tuple[tuple[int, int], ...]:
    """(sensor, images) in the order of the batch."""
    cut = self.replicas * self._inner
    width = len(self.counts) // self.columns
    once = [
      [(s, n // cut) for s, n in self.counts[c * width : (c + 1) * width]]
      for c in range(self.columns)
    ]
    column = [pair for c in once for pair in c * self._inner]
    return tuple(column * self.replicas)

  def join(self, parts: Sequence[Array]) -> Array:
    """[B_s, ...] per sensor, in the order of `counts` -> [B, ...]."""
    if self.groups == 1:
      return jnp.concatenate(parts)
    shape = (self.replicas, self._inner, -1)
    cut = [x.reshape(*shape, *x.shape[1:]) for x in parts]
    width = len(parts) // self.columns
    columns = [
      jnp.concatenate(cut[c * width : (c + 1) * width], axis=2)
      for c in range(self.columns)
    ]
    x = jnp.stack(columns, axis=1)
    return x.reshape(-1, *x.shape[4:])

  def split(self, x: Array) -> list[Array]:
    """Inverse of `join`."""
    sizes = [n for _, n in self.counts]
    if self.groups == 1:
      stops = [sum(sizes[: i + 1]) for i in range(len(sizes))]
      return [x[b - n : b] for n, b in zip(sizes, stops, strict=True)]
    cut = self.replicas * self._inner
    x = x.reshape(self.replicas, self.columns, self._inner, -1, *x.shape[1:])
    width = len(sizes) // self.columns
    out = []
    for index, size in enumerate(sizes):
      column, place = divmod(index, width)
      start = sum(sizes[column * width : index]) // cut
      part = x[:, column, :, start : start + size // cut]
      out.append(part.reshape(size, *part.shape[3:]))
    return out


def arrange(
  counts: Sequence[tuple[int, int]],
  placement: Placement | None,
  *,
  groups: int | None = None,
) -> Arrangement:
  """How a batch is ordered so that every device finds its samples.

  Args:
    counts: (index of the sensor, images of the whole batch).
    placement: None on one device.
    groups: routing groups; None makes one per device that holds samples.

  Raises:
    ValueError: sizes that do not divide; names the config keys.
  """
  counts = tuple(counts)
  if placement is None:
    shards, replicas, columns = 1, groups or 1, 1
  else:
    shards, columns = placement.shards, placement.columns
    replicas = shards // columns
  groups = groups or shards
  if groups % shards:
    raise ValueError(
      f'model.routing_groups={groups} is no multiple of {shards} = mesh.data '
      'x mesh.fsdp x mesh.expert, so some devices would share a group; set '
      'it to a multiple, or to None for one per device.'
    )
  if placement is not None and columns == 1:
    replicas = groups
  if columns > 1:
    width = len(counts) // columns
    totals = {
      sum(n for _, n in counts[c * width : (c + 1) * width])
      for c in range(columns)
    }
    each = {n for _, n in counts}
    if (
      len(counts) % columns or len(totals) > 1 or (width > 1 and len(each) > 1)
    ):
      raise ValueError(
        f'mesh.placement=sensor needs as many images of every sensor, '
        f'and mesh.expert={columns} to divide {len(counts)} sensors; got '
        f'images {[n for _, n in counts]}. Use mesh.placement=exchange.'
      )
  for sensor, images in counts:
    if images % (groups // columns):
      raise ValueError(
        f'{images} images of sensor {sensor} cannot be cut into '
        f'{groups // columns} routing groups; change batch_size, '
        'model.routing_groups or the mesh.'
      )
  return Arrangement(counts, groups, replicas, columns)
