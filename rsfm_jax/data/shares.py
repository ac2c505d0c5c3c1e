"""Which rows of a global batch the devices of one process hold."""

from typing import NamedTuple

import jax


class Share(NamedTuple):
  """A global batch is cut into `of` equal blocks of rows; these are read.

  Attributes:
    parts: numbers of the blocks, ascending.
    of: how many blocks there are.
  """

  parts: tuple[int, ...] = (0,)
  of: int = 1


ALL = Share()


def of_process(
  sharding: jax.sharding.Sharding, *, process: int | None = None
) -> Share:
  """The rows that a process must read, in the order of the global batch.

  Processes that hold the same rows (an axis of the mesh that replicates the
  batch spans them) get the same share. The devices of a process need not be
  neighbours in the mesh: on a TPU slice they often are not.

  Args:
    sharding: of the batch; its first dimension counts.
    process: number of the process, this one unless told.

  Raises:
    ValueError: processes share some rows but not all of them.
  """
  process = jax.process_index() if process is None else process
  rows = sharding.num_devices  # Divides by any number of shards.
  held: dict[int, set[int]] = {}
  size = rows
  for device, (index,) in sharding.devices_indices_map((rows,)).items():
    start, stop, _ = index.indices(rows)
    size = stop - start
    held.setdefault(device.process_index, set()).add(start // size)
  mine = held[process]
  for other, theirs in sorted(held.items()):
    if len(theirs) != len(mine) or (theirs & mine and theirs != mine):
      raise ValueError(
        f'process {process} holds blocks {sorted(mine)} of the batch and '
        f'process {other} {sorted(theirs)}: processes must hold equally many '
        'rows, and either the same or others. Choose mesh sizes that divide '
        'the devices of a host or are multiples of them.'
      )
  return _merged(sorted(mine), rows // size)


def _merged(parts: list[int], of: int) -> Share:
  """The same rows in fewer blocks where the parts are neighbours."""
  count = len(parts)
  run = parts[-1] - parts[0] + 1 == count
  if run and parts[0] % count == 0 and of % count == 0:
    return Share((parts[0] // count,), of // count)
  return Share(tuple(parts), of)
