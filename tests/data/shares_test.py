"""Which rows of a batch a process reads, from where its devices lie."""

import jax
import numpy as np
import pytest

from rsfm_jax.data import shares
from rsfm_jax.sharding import mesh as meshes


class Device:
  def __init__(self, process_index):
    self.process_index = process_index


class Layout:
  """A sharding of rows: `owners[shard][replica]` is the process of a device."""

  def __init__(self, owners):
    self._owners = np.asarray(owners)
    self.num_devices = self._owners.size

  def devices_indices_map(self, shape):
    size = shape[0] // len(self._owners)
    return {
      Device(int(owner)): (slice(shard * size, (shard + 1) * size, None),)
      for shard, row in enumerate(self._owners)
      for owner in row
    }


def all_shares(owners):
  processes = sorted(set(np.ravel(owners).tolist()))
  return [shares.of_process(Layout(owners), process=p) for p in processes]


def test_one_process_reads_everything():
  assert shares.of_process(meshes.batch_sharding(meshes.make_mesh())) == (
    shares.ALL
  )
  assert shares.of_process(
    meshes.batch_sharding(meshes.make_mesh(data=2, tensor=4))
  ) == ((0,), 1)
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  assert shares.of_process(one) == shares.ALL


def test_neighbours_are_one_block():
  owners = [[0], [0], [1], [1], [2], [2], [3], [3]]
  assert all_shares(owners) == [((p,), 4) for p in range(4)]


def test_devices_of_a_process_need_not_be_neighbours():
  owners = [[0], [1], [0], [1], [2], [3], [2], [3]]
  assert all_shares(owners) == [
    ((0, 2), 8),
    ((1, 3), 8),
    ((4, 6), 8),
    ((5, 7), 8),
  ]


def test_neighbours_that_start_within_a_block_stay_apart():
  owners = [[0], [1], [1], [0]]
  assert all_shares(owners) == [((0, 3), 4), ((1, 2), 4)]


def test_processes_that_hold_the_same_rows_read_the_same():
  """An axis that replicates the batch (tensor) spans two processes."""
  owners = [[0, 1], [0, 1], [2, 3], [2, 3]]
  assert all_shares(owners) == [((0,), 2), ((0,), 2), ((1,), 2), ((1,), 2)]


@pytest.mark.parametrize(
  'owners', [[[0], [0], [0], [1]], [[0, 1], [0, 0], [1, 1], [0, 1]]]
)
def test_what_no_batch_can_be_cut_into_is_refused(owners):
  with pytest.raises(ValueError, match='holds blocks .* and process 1'):
    shares.of_process(Layout(owners), process=0)
