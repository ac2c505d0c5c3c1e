import jax
from jax.sharding import AxisType
import numpy as np
import pytest

from rsfm_jax.sharding import mesh as mesh_lib


def test_axes_are_always_these_four_and_automatic():
  mesh = mesh_lib.make_mesh(fsdp=2, expert=2)
  assert dict(mesh.shape) == {'data': 2, 'fsdp': 2, 'expert': 2, 'tensor': 1}
  assert set(mesh.axis_types) == {AxisType.Auto}


def test_sizes_that_do_not_fill_the_devices_are_refused():
  with pytest.raises(ValueError, match=r'mesh\.fsdp=3.*8 devices'):
    mesh_lib.make_mesh(fsdp=3)
  with pytest.raises(ValueError, match='do not multiply'):
    mesh_lib.make_mesh(data=-1, fsdp=-1)
  with pytest.raises(ValueError, match='do not multiply'):
    mesh_lib.make_mesh(data=0)


def test_some_devices_can_be_chosen():
  mesh = mesh_lib.make_mesh(devices=jax.devices()[:4])
  assert mesh.size == 4


def test_batches_are_cut_over_every_axis_but_tensor():
  mesh = mesh_lib.make_mesh(data=2, fsdp=1, expert=2, tensor=2)
  x = jax.device_put(np.arange(8.0), mesh_lib.batch_sharding(mesh))
  assert mesh_lib.batch_shards(mesh) == 4
  assert {s.data.shape for s in x.addressable_shards} == {(2,)}
  whole = jax.device_put(np.arange(8.0), mesh_lib.replicated(mesh))
  assert {s.data.shape for s in whole.addressable_shards} == {(8,)}


def test_a_batch_that_does_not_divide_names_its_sensor():
  mesh = mesh_lib.make_mesh()
  good = {'opt': {'image': np.zeros((16, 2))}}
  mesh_lib.check_batch(good, mesh)
  with pytest.raises(ValueError, match="'ms' has .12. samples.*multiple of 8"):
    mesh_lib.check_batch(good | {'ms': {'image': np.zeros((12, 2))}}, mesh)
