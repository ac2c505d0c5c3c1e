"""Only whole safetensors of finite numbers come in."""

import pickle

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from rsfm_jax.convert import weights


@pytest.fixture
def saved(tmp_path):
  def save(tensors):
    path = tmp_path / 'w.safetensors'
    safetensors.numpy.save_file(tensors, path)
    return path

  return save


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16, np.float64])
def test_floats_become_float32(saved, dtype):
  found = weights.read(saved({'a': np.array([1.5, -2], dtype)}))
  assert found['a'].dtype == np.float32
  np.testing.assert_array_equal(found['a'], [1.5, -2])


def test_counters_stay_what_they_are(saved):
  assert weights.read(saved({'n': np.arange(3)}))['n'].dtype == np.int64


def test_a_prefix_chooses_one_of_several_models(saved):
  path = saved({'teacher.a': np.ones(1), 'student.a': np.zeros(1)})
  assert weights.read(path, prefix='teacher.') == {'a': 1}
  with pytest.raises(ValueError, match="no tensor under --prefix 'x.'"):
    weights.read(path, prefix='x.')


@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.bin', '.ckpt', '.pkl'])
def test_a_pickle_is_refused_unread_with_the_way_around(tmp_path, suffix):
  class Bomb:
    def __reduce__(self):
      return (tmp_path.joinpath('ran').touch, ())

  path = tmp_path / f'w{suffix}'
  path.write_bytes(pickle.dumps(Bomb()))
  with pytest.raises(ValueError, match='(?s)pickles.*weights_only=True'):
    weights.read(path)
  assert not (tmp_path / 'ran').exists()


def test_a_pickle_by_another_name_is_no_safetensors(tmp_path):
  path = tmp_path / 'w.safetensors'
  path.write_bytes(pickle.dumps({'a': 1}))
  with pytest.raises(ValueError, match='damaged or no safetensors'):
    weights.read(path)
  other = path.rename(tmp_path / 'w.npz')
  with pytest.raises(ValueError, match='a .safetensors file is needed'):
    weights.read(other)


@pytest.mark.parametrize('size', [4, 40, -1])
def test_a_truncated_file_is_named(saved, size):
  path = saved({'a': np.ones(8, np.float32)})
  path.write_bytes(path.read_bytes()[:size])
  with pytest.raises(ValueError, match='w.safetensors is damaged'):
    weights.read(path)


def test_a_header_that_claims_too_much_is_refused(saved):
  path = saved({'a': np.ones(8, np.float32)})
  raw = path.read_bytes()
  path.write_bytes((2**62).to_bytes(8, 'little') + raw[8:])
  with pytest.raises(ValueError, match='w.safetensors is damaged'):
    weights.read(path)


def test_values_that_are_not_finite_are_named(saved):
  path = saved({'blocks.0.a': np.array([1, np.nan], np.float32)})
  with pytest.raises(ValueError, match='blocks.0.a has values'):
    weights.read(path)


def test_a_file_that_is_absent(tmp_path):
  with pytest.raises(ValueError, match='no such file'):
    weights.read(tmp_path / 'w.safetensors')
