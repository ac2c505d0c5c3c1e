"""Files in parts are the safetensors that its own library reads and writes."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from rsfm_jax.core import arrays
from rsfm_jax.export import weights
from rsfm_jax.train import checkpoint

ARRAYS = {
  'b/w': np.arange(60.0, dtype='float32').reshape(3, 4, 5),
  'a': np.arange(3, dtype=jnp.bfloat16),
  'step': np.array(7, np.int32),
  'none': np.zeros((0, 3), np.float16),
}


def entry(array):
  blocks = functools.partial(arrays.blocks, array, limit=1)
  return weights.Entry(array.shape, array.dtype, blocks)


def write(path, before=lambda digest: None, **changes):
  entries = {name: entry(array) for name, array in ARRAYS.items()} | changes
  return weights.write(path, entries, {'spec': '{}'}, before=before)


def test_the_library_reads_what_was_written_in_parts(tmp_path):
  digest = write(tmp_path / 'm.safetensors')
  assert digest == checkpoint.content_hash(
    {'b': {'w': ARRAYS['b/w']}, **{k: ARRAYS[k] for k in ('a', 'step', 'none')}}
  )
  found = safetensors.numpy.load_file(tmp_path / 'm.safetensors')
  assert found.keys() == ARRAYS.keys()
  for name, array in ARRAYS.items():
    assert found[name].dtype == array.dtype
    np.testing.assert_array_equal(found[name], array)


def test_parts_of_what_the_library_wrote_can_be_read(tmp_path):
  path = tmp_path / 'm.safetensors'
  safetensors.numpy.save_file(ARRAYS, path)
  found = weights.stored(path)
  for name, array in ARRAYS.items():
    assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(found[name][...], array)
  np.testing.assert_array_equal(found['b/w'][2], ARRAYS['b/w'][2])
  np.testing.assert_array_equal(found['b/w'][1, 3], ARRAYS['b/w'][1, 3])


def test_nothing_appears_if_what_belongs_to_it_fails(tmp_path):
  def fail(digest):
    assert len(digest) == 64
    raise RuntimeError('no companion')

  with pytest.raises(RuntimeError, match='no companion'):
    write(tmp_path / 'm.safetensors', fail)
  assert not list(tmp_path.iterdir())


def test_a_source_that_breaks_leaves_nothing(tmp_path):
  def broken():
    yield np.zeros(2, np.float32)
    raise ValueError('cannot be read')

  with pytest.raises(ValueError, match='cannot be read'):
    write(tmp_path / 'm.safetensors', c=weights.Entry((4,), 'float32', broken))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('size', [0, 4, 100, -1])
def test_truncated_files_are_named(tmp_path, size):
  path = tmp_path / 'm.safetensors'
  write(path)
  path.write_bytes(path.read_bytes()[:size])
  with pytest.raises(ValueError, match='m.safetensors is damaged'):
    weights.stored(path)
