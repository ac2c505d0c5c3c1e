"""NPY, NPZ and HDF5: arrays, never pickles."""

import io
import pickle

import h5py
import numpy as np
import pytest

from rsfm_jax.data import arrays


def npy(array, **options):
  buffer = io.BytesIO()
  np.save(buffer, array, **options)
  return buffer.getvalue()


def npz(**content):
  buffer = io.BytesIO()
  np.savez(buffer, **content)
  return buffer.getvalue()


@pytest.mark.parametrize(
  'shape, axes, expected',
  [
    ((4, 5), '', (1, 4, 5, 1)),
    ((4, 5, 2), '', (1, 4, 5, 2)),
    ((3, 4, 5, 2), '', (3, 4, 5, 2)),
    ((2, 4, 5), 'CHW', (1, 4, 5, 2)),
    ((3, 4, 5), 'NHW', (3, 4, 5, 1)),
    ((5, 2, 4, 3), 'WCHN', (3, 4, 5, 2)),
    ((3, 2), 'NC', (3, 1, 1, 2)),
  ],
)
def test_any_order_of_axes_becomes_nhwc(shape, axes, expected):
  array = np.arange(np.prod(shape)).reshape(shape)
  assert arrays.frames(array, axes=axes, name='a').shape == expected


def test_axes_move_values_and_not_only_shapes():
  array = np.arange(24).reshape(2, 3, 4)
  found = arrays.frames(array, axes='CHW', name='a')
  np.testing.assert_array_equal(found[0, ..., 1], array[1])


@pytest.mark.parametrize('axes', ['HH', 'CW', 'HWX', 'HWC'])
def test_axes_that_do_not_fit_are_an_error(axes):
  with pytest.raises(ValueError, match='axes='):
    arrays.frames(np.zeros((3, 3)), axes=axes, name='a')


def test_complex_npy_and_keyed_npz():
  values = np.array([[1 + 2j, 3]], np.complex64)
  np.testing.assert_array_equal(
    arrays.read_numpy(npy(values), name='a.npy'), values
  )
  both = npz(a=values, b=values * 2)
  np.testing.assert_array_equal(
    arrays.read_numpy(both, name='a.npz', key='b'), values * 2
  )
  with pytest.raises(ValueError, match=r"a.npz.*\['a', 'b'\].*--key"):
    arrays.read_numpy(both, name='a.npz')


def test_pickles_and_damage_are_refused_by_name():
  objects = npy(np.array([{}], object), allow_pickle=bool(1))
  for data in (objects, pickle.dumps([1]), npy(np.ones(9))[:-8], b''):
    with pytest.raises(ValueError, match='bad.npy is not a readable array'):
      arrays.read_numpy(data, name='bad.npy')


@pytest.fixture
def cube(tmp_path):
  path = tmp_path / 'cube.nc'
  with h5py.File(path, 'w') as file:
    b02 = file.create_dataset('S2-B02', data=np.array([[-1, 5]], np.int16))
    b02.attrs['_Unsigned'] = np.bytes_(b'true')
    vv = file.create_dataset('VV', data=np.array([[0, -80000]], np.int32))
    vv.attrs['scale_factor'] = 1e-4
    vv.attrs['_FillValue'] = np.int32(0)
    vv.attrs['label'] = np.void(pickle.dumps(exec))  # Must stay unread.
    file['text'] = np.array([[b'x', b'y']])
  return str(path)


def test_hdf5_bands_stack_in_the_asked_order(cube):
  names = {'VV': 'VV', 'B02': 'S2-B02'}
  found = arrays.read_hdf5(cube, names, name=cube)
  np.testing.assert_array_equal(found, [[[0, 65535], [-80000, 5]]])


def test_netcdf_scale_and_fill(cube):
  found = arrays.read_hdf5(cube, {'VV': 'VV'}, name=cube, values='scaled')
  np.testing.assert_allclose(found[..., 0], [[np.nan, -8.0]])


def test_hdf5_errors_name_the_file_and_what_there_is(cube, tmp_path):
  with pytest.raises(ValueError, match='cube.nc.*B03.*S2-B02'):
    arrays.read_hdf5(cube, {'B03': 'B03'}, name=cube)
  with pytest.raises(ValueError, match='not numbers'):
    arrays.read_hdf5(cube, {'x': 'text'}, name=cube)
  bad = tmp_path / 'bad.h5'
  bad.write_bytes(open(cube, 'rb').read()[:300])
  for read in (arrays.read_hdf5, None):
    with pytest.raises(ValueError, match='bad.h5 is not readable as HDF5'):
      if read:
        read(str(bad), {'a': 'a'}, name=str(bad))
      else:
        arrays.dataset_names(str(bad), name=str(bad))
